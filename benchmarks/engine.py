"""How fast the engine is, beside what this machine could do at most: decode, prefill, concurrency, cold start, memory.

A named shape gets random weights, packed once into a temporary directory. The engine is driven directly (token ids in,
token ids out) in a process of its own; HTTP has its own benchmark. Several numbers of threads take turns. Prints a
table and one JSON line.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # python benchmarks/engine.py

from benchmarks import checkpoint, limits
from benchmarks.peers import engines
from benchmarks.peers.figures import WARM_UP, Loaded, Measured, first_token
from benchmarks.peers.process import Driver, Failed, Places, prepare
from benchmarks.peers.report import median_share, number, round_json, spread
from benchmarks.peers.work import COLD

ALONE = ("decode", "pp512", "pp2048")
PACK_S, ANSWER_S = 1800.0, 3600.0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="smollm2-135m", help="smollm2-135m, qwen3-0.6b or llama3.2-1b")
    parser.add_argument("--weights", default="bf16", help=f"type the weights run in: {', '.join(engines.KV_CACHE)}")
    parser.add_argument("--kv-cache", default="", help="not our usual one beside these weights")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, nargs="*", default=[cores], help="one number or several: 1 2")
    parser.add_argument("--requests", type=int, nargs="*", default=[1, 16, 64], help="concurrent requests")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many")
    parser.add_argument("--row-limit", type=float, default=60, help="seconds of a row, then no further round")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    return parser.parse_args()


class Bench:
    """One shape in one type of weights, packed into `places`; several numbers of threads take turns."""

    def __init__(self, arguments: argparse.Namespace, places: Places) -> None:
        """Raises Failed, and ValueError for an unknown type of weights."""
        self.arguments, self.places = arguments, places
        self.ours = engines.ours(arguments.weights, arguments.kv_cache)
        self.rows = [*ALONE, *(f"batch{count}" for count in arguments.requests)]
        self.executors: dict[int, dict[str, Any]] = {}  # facts, by threads
        self._turns = itertools.count(1)
        source = places.models / "checkpoint"
        source.mkdir()
        places.logs.mkdir()
        checkpoint.write(arguments.shape, source)
        prepare(self.ours, places, PACK_S)
        shutil.rmtree(source)

    def measure(self) -> dict[int, dict[str, list[Measured]]]:
        """The rounds of each row, by threads. Raises Failed."""
        found: dict[int, dict[str, list[Measured]]] = {threads: {} for threads in self.arguments.threads}
        with contextlib.ExitStack() as stack:
            loaded = {threads: self._load(stack, threads) for threads in found}
            for row in self.rows:
                for turn in self._rounds(row):
                    for threads, one in loaded.items():
                        found[threads].setdefault(row, []).append(one.measure(row, turn))
        for turn in self._rounds(COLD):
            for threads, rows in found.items():
                start = functools.partial(self._start, threads, [COLD])
                rows.setdefault(COLD, []).append(first_token(start, turn, ANSWER_S))
        return found

    def _load(self, stack: contextlib.ExitStack, threads: int) -> Loaded:
        of_shape = limits.of_shape(self.arguments.shape, self.ours.weights, self.ours.kv_cache, threads)
        driver = stack.enter_context(self._start(threads, [WARM_UP, *self.rows]))
        loaded = Loaded(driver, of_shape, next(self._turns), ANSWER_S)
        self.executors[threads] = loaded.facts
        return loaded

    def _start(self, threads: int, rows: list[str]) -> Driver:
        from benchmarks.shapes import SHAPES

        vocab_size: int = SHAPES[self.arguments.shape]["vocab_size"]
        return Driver(self.ours, self.ours.setup(self.places.models, threads, vocab_size, rows), self.places)

    def _rounds(self, row: str) -> Iterator[int]:
        """Turns of a row; a row that takes long gets fewer."""
        end_s = time.monotonic() + self.arguments.row_limit
        for count in range(self.arguments.rounds):
            if count and time.monotonic() > end_s:
                return
            print(f"{row} {count + 1}/{self.arguments.rounds}", file=sys.stderr, flush=True)
            yield next(self._turns)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Raises Failed, and ValueError for an unknown type of weights."""
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments, Places(Path(name), Path(name), max(arguments.threads)))
        found = bench.measure()
    return {
        "shape": arguments.shape,
        "runs": [
            {
                "threads": threads,
                "executor": bench.executors[threads],
                "rows": [row_json(row, figures) for row, figures in rows.items()],
            }
            for threads, rows in found.items()
        ],
    }


def row_json(row: str, figures: list[Measured]) -> dict[str, Any]:
    bounds = [one.limit.tokens_per_s for one in figures if one.limit is not None]
    return {
        "row": row,
        "median": round(median(one.figure for one in figures), 3),
        "limit": [round(value, 1) for value in (median(bounds), min(bounds), max(bounds))] if bounds else None,
        "share": median_share(figures),
        "peak_mb": max(one.peak_mb for one in figures),
        "asked_mb": figures[0].asked_mb,
        "rounds": [round_json(one) for one in figures],
    }


def table(result: dict[str, Any]) -> str:
    """A block for each number of threads; of several, how the first and the last compare."""
    lines = []
    for run in result["runs"]:
        info = run["executor"]
        lines += [
            f"{result['shape']}, {info['name']} {info['isa']}, weights {info['weights']}, cache {info['kv_cache']}, "
            f"threads {run['threads']}",
            f"the machine meanwhile: {rates(run, 'read_gb_s')} GB/s read, {rates(run, 'peak_gop_s')} Gop/s",
            f"{'':10}{'tokens/s':>10}{'limit (min - max)':>26}{'share':>8}{'peak MB':>9}{'asked':>7}{'rounds':>8}",
        ]
        lines += [line(row) for row in run["rows"]]
        lines.append("")
    first, last = result["runs"][0], result["runs"][-1]
    if first is not last:
        lines.append(f"from {first['threads']} to {last['threads']} threads: times as fast, and the limit's own")
        for one, other in zip(first["rows"], last["rows"], strict=True):
            if one["limit"]:
                ratio, of_limit = other["median"] / one["median"], other["limit"][0] / one["limit"][0]
                lines.append(f"{one['row']:10}{ratio:>10.2f}{of_limit:>26.2f}")
        lines.append("")
    return "\n".join(lines)


def rates(run: dict[str, Any], name: str) -> str:
    """Median, minimum and maximum of all samples."""
    least, middle, most = spread([rate for row in run["rows"] for one in row["rounds"] for rate in one.get(name, ())])
    return f"{number(middle)} ({number(least)} - {number(most)})"


def line(row: dict[str, Any]) -> str:
    limit, share = "", ""
    if row["limit"]:
        middle, least, most = map(number, row["limit"])
        limit, share = f"{middle} ({least} - {most})", f"{row['share']:.0%}"
    figure = number(row["median"]) if row["limit"] else f"{row['median']:.3f} s"
    memory = f"{row['peak_mb']:>9,}{row['asked_mb']:>7,}"
    return f"{row['row']:10}{figure:>10}{limit:>26}{share:>8}{memory}{len(row['rounds']):>8}"


def main() -> None:
    arguments = parse_arguments()
    try:
        result = measure(arguments)
    except (Failed, ValueError) as problem:
        sys.exit(f"{arguments.shape} {arguments.weights}: {problem}")
    if not arguments.json:
        print(table(result))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
