"""What a constraint costs: seconds of free and of constrained streams, on two engines that step in turn.

A machine's speed changes within seconds, so steps are compared that stand side by side. A named shape gets random
weights and a made-up vocabulary of its size. Every stream draws as many tokens; jumping ahead is off for the cost of a
token and on for what forced text saves. Prints a table and one JSON line.
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
    parser.add_argument("--streams", type=int, nargs="*", default=[1, 8, 64])
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def made_up_tokens(size: int) -> list[bytes]:
    """Bytes, then words of two to four letters with and without a space before them, and some of JSON's pairs."""
    tokens = [bytes([i]) for i in range(256)]
    tokens += [text.encode() for text in ('{"', '"}', '": ', '", "', '": "', ', "', "[]", "{}")]
    tokens += [str(i).encode() for i in range(10, 1000)]
    words = ("".join(word) for length in (2, 3, 4) for word in itertools.product(LETTERS, repeat=length))
    spaced = (f"{space}{word}".encode() for word in words for space in (" ", ""))
    return list(itertools.islice(itertools.chain(tokens, spaced), size))


def sequences_of(grammar: Any, streams: int, rng: Any, vocab_size: int) -> list[Any]:
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
    return sequences


def in_turn(engines: list[Any], sequences: list[list[Any]]) -> list[float]:
    """Seconds of each engine's steps, until all its sequences have ended; who goes first changes at each turn."""
    for engine, own in zip(engines, sequences, strict=True):
        for sequence in own:
            engine.add(sequence)
    seconds = [0.0] * len(engines)
    order = list(range(len(engines)))
    while any(engine.has_work for engine in engines):
        order.reverse()
        for i in order:
            began_s = time.perf_counter()
            outputs = engines[i].step() if engines[i].has_work else []
            seconds[i] += time.perf_counter() - began_s
            for output in outputs:
                if output.error is not None:
                    raise output.error
    return seconds


def main() -> None:
    arguments = parse_arguments()
    import numpy as np

    from benchmarks.checkpoint import write_checkpoint
    from tripos.build import language as build
    from tripos.config import ModelOptions
    from tripos.grammar.limits import admit
    from tripos.grammar.matcher import Vocabulary
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
        models = [build.load_model(options) for _ in range(2)]
        engines, size = [model.engine for model in models], models[0].card.vocab_size
        tokens = made_up_tokens(size - 1)
        tokens += [b""] * (size - 1 - len(tokens)) + [b"</s>"]
        vocabulary = Vocabulary(tokens, [size - 1], [size - 1])
        text, form = (
            vocabulary.compile(admit(Constraint(kind="json_schema", source=json.dumps(schema))).text)
            for schema in (FREE_TEXT, FORM)
        )
        rows: list[dict[str, Any]] = []
        for streams in arguments.streams:
            for name, grammar in (("constrained", text), ("form", form), ("form jumping", form)):
                object.__setattr__(engines[1].options, "jump_ahead", name == "form jumping")
                rates: list[tuple[float, float]] = []
                num_steps = 0
                for round_number in range(arguments.rounds + 1):
                    sequences = [
                        sequences_of(each, streams, np.random.default_rng(round_number), size)
                        for each in (None, grammar)
                    ]
                    steps = engines[1].num_steps
                    seconds = in_turn(engines, sequences)
                    num_steps = engines[1].num_steps - steps
                    counts = [sum(sequence.num_output_tokens for sequence in own) for own in sequences]
                    if round_number:  # the first one warms up
                        rates.append((counts[0] / seconds[0], counts[1] / seconds[1]))
                free, constrained = (statistics.median(each) for each in zip(*rates, strict=True))
                ratio = statistics.median(constrained / free for free, constrained in rates)
                rows.append(
                    {
                        "streams": streams,
                        "grammar": name,
                        "free": free,
                        "rate": constrained,
                        "ratio": ratio,
                        "steps": num_steps,
                    }
                )
                print(
                    f"{streams:3} streams, {name:12}: free {free:5.0f} tokens/s, with the grammar {constrained:5.0f}, "
                    f"{ratio:.3f} of it; {num_steps} steps",
                    flush=True,
                )
        print(
            json.dumps({"benchmark": "grammar", "shape": arguments.shape, "weights": arguments.weights, "rows": rows})
        )


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script: the folder above holds `benchmarks`
    main()
