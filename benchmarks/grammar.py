"""What a constraint costs: tokens/s of free and of constrained streams, turn by turn on the same engine.

A named shape gets random weights and a made-up vocabulary of its size. Every stream draws as many tokens; jumping ahead
is off for the cost of a token and on for what forced text saves. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LETTERS = "etaoinshrdlcumwfgypbvkjxqz"
TOKENS = 96  # of each stream
PROMPT = 32
FREE_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
FIELDS = {f"field_number_{i}": {"type": "integer", "minimum": 0, "maximum": 9} for i in range(12)}
FORM = {"type": "object", "properties": FIELDS, "required": list(FIELDS), "additionalProperties": False}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="smollm2-135m")
    parser.add_argument("--weights", default="int8")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def made_up_tokens(size: int) -> list[bytes]:
    """Bytes, then words of two to four letters with and without a space before them, and some of JSON's pairs."""
    tokens = [bytes([i]) for i in range(256)]
    tokens += [text.encode() for text in ('{"', '"}', '": ', '", "', '": "', ', "', "[]", "{}")]
    tokens += [str(i).encode() for i in range(10, 1000)]
    words = ("".join(word) for length in (2, 3, 4) for word in itertools.product(LETTERS, repeat=length))
    spaced = (f"{space}{word}".encode() for word in words for space in (" ", ""))
    return list(itertools.islice(itertools.chain(tokens, spaced), size))


def run(engine: Any, grammar: Any, streams: int, rng: Any, vocab_size: int) -> tuple[float, int, float]:
    """Seconds, tokens and steps of so many streams at once."""
    from tripos.engine.sequence import Sequence
    from tripos.types import Sampling

    sequences = [
        Sequence(
            rng.integers(0, 256, PROMPT).astype("int32"),
            TOKENS,
            Sampling(temperature=1.0),
            seed=i,
            eos_ids=frozenset({vocab_size - 1}),
            matcher=None if grammar is None else grammar.start(),
        )
        for i in range(streams)
    ]
    if grammar is None:
        for sequence in sequences:
            sequence.stop_ids = frozenset()
    steps = engine.num_steps
    began_s = time.perf_counter()
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        for output in engine.step():
            if output.error is not None:
                raise output.error
    seconds = time.perf_counter() - began_s
    return seconds, sum(sequence.num_output_tokens for sequence in sequences), engine.num_steps - steps


def main() -> None:
    arguments = parse_arguments()
    import numpy as np

    from benchmarks.engine import write_checkpoint
    from tripos import build
    from tripos.config import ModelOptions
    from tripos.engine.gate import admit
    from tripos.engine.grammar import Vocabulary
    from tripos.types import Constraint

    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(arguments.shape, Path(folder))
        options = ModelOptions(
            source=folder,
            threads=arguments.threads,
            weights=arguments.weights,
            max_sequences=max(arguments.streams),
            max_model_len=512,
            speculate="off",
        )
        model = build.load_model(options)
        engine, size = model.engine, model.card.vocab_size
        tokens = made_up_tokens(size - 1)
        tokens += [b""] * (size - 1 - len(tokens)) + [b"</s>"]
        vocabulary = Vocabulary(tokens, [size - 1], [size - 1])
        text, form = (
            vocabulary.compile(admit(Constraint(kind="json_schema", source=json.dumps(schema))).text)
            for schema in (FREE_TEXT, FORM)
        )
        rows: list[dict[str, Any]] = []
        for streams in arguments.streams:
            rates: dict[str, list[float]] = {"free": [], "constrained": [], "form": [], "form jumping": []}
            steps: dict[str, float] = {}
            for round_number in range(arguments.rounds + 1):
                for name, grammar in (("free", None), ("constrained", text), ("form", form), ("form jumping", form)):
                    object.__setattr__(engine.options, "jump_ahead", name == "form jumping")
                    rng = np.random.default_rng(round_number)
                    seconds, count, num_steps = run(engine, grammar, streams, rng, size)
                    if round_number:  # the first one warms up
                        rates[name].append(count / seconds)
                        steps[name] = num_steps
            medians = {name: statistics.median(values) for name, values in rates.items()}
            ratio = statistics.median(c / f for f, c in zip(rates["free"], rates["constrained"], strict=True))
            rows.append({"streams": streams, "tokens_per_s": medians, "ratio": ratio, "steps": steps})
            print(f"{streams:3} streams: " + ", ".join(f"{name} {rate:.0f}/s" for name, rate in medians.items()))
            print(f"    a constrained stream has {ratio:.3f} of a free one's rate; steps {steps}")
        print(
            json.dumps({"benchmark": "grammar", "shape": arguments.shape, "weights": arguments.weights, "rows": rows})
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: the folder above holds `benchmarks`
    main()
