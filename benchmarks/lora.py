"""What adapters cost: the same sequences on a model without room for adapters, and with 0, 1, 8 and 16 of them at work.

A named shape and its adapters get random weights, written to a temporary directory and read as any are. The runs of all
rows are interleaved. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.checkpoint import write_checkpoint
from tripos.build import language as build
from tripos.config import ModelOptions
from tripos.engine.llm import LanguageModel
from tripos.engine.sequence import Sequence
from tripos.plan.formats import float32_to_bf16
from tripos.types import Sampling

NUM_ADAPTERS = (0, 1, 8, 16)  # distinct, at work at once
TARGETS = {"q, v": ("q_proj", "v_proj"), "all": ()}  # (): every linear but the head


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="smollm2-135m", help="smollm2-135m, qwen3-0.6b or llama3.2-1b")
    parser.add_argument("--weights", default="int8", help="type the base's weights run in")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--sequences", type=int, nargs="*", default=[16, 64], help="at once")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of each prompt")
    parser.add_argument("--output", type=int, default=48, help="tokens of each answer")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    return parser.parse_args()


def write_adapters(model: Path, folder: Path, targets: tuple[str, ...], rank: int) -> dict[str, Path]:
    """Random bfloat16 adapters of the model, as PEFT stores them."""
    plan = build.open_model(ModelOptions(source=str(model))).plan
    heads = {op.weights[0] for op in plan.ops if op.kind == "linear" and op.outputs[0] == plan.output}
    names = [op.weights[0] for op in plan.ops if op.kind == "linear" and op.weights[0] not in heads]
    modules = {name.removesuffix(".weight"): plan.weights[name].shape for name in names}
    if targets:
        modules = {name: shape for name, shape in modules.items() if name.endswith(targets)}
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(targets) or "all-linear"}
    found = {}
    for i in range(max(NUM_ADAPTERS)):
        rng = np.random.default_rng(i)
        path = folder / f"{len(targets)}-{i}"
        path.mkdir()
        header: dict[str, Any] = {}
        data = bytearray()
        for module, (outputs, inputs) in modules.items():
            for letter, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
                values = float32_to_bf16((0.02 * rng.standard_normal(shape)).astype(np.float32)).tobytes()
                place = [len(data), len(data) + len(values)]
                entry = {"dtype": "BF16", "shape": list(shape), "data_offsets": place}
                header[f"base_model.model.{module}.lora_{letter}.weight"] = entry
                data += values
        text = json.dumps(header).encode()
        (path / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
        (path / "adapter_config.json").write_text(json.dumps(config))
        found[f"a{i}"] = path
    return found


def run(model: LanguageModel, num_sequences: int, num_adapters: int, arguments: argparse.Namespace, seed: int) -> float:
    """Tokens per second of sequences that take turns with the adapters, prefill included."""
    rng = np.random.default_rng(seed)
    sampling = Sampling(temperature=0.0, ignore_eos=True)
    sequences = []
    for i in range(num_sequences):
        prompt = rng.integers(0, model.card.vocab_size, arguments.prompt).astype(np.int32)
        slot = model.adapters.find(f"a{i % num_adapters}").slot if model.adapters and num_adapters else -1
        sequences.append(Sequence(prompt, arguments.output, sampling, adapter_slot=slot, identity=bytes([slot + 1])))
    began_s = time.perf_counter()
    for sequence in sequences:
        model.engine.add(sequence)
    num_tokens = 0
    while model.engine.has_work:
        for output in model.engine.step():
            if output.error is not None:
                raise output.error
            num_tokens += len(output.tokens)
    return num_tokens / (time.perf_counter() - began_s)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_checkpoint(arguments.shape, directory)
        options = ModelOptions(
            source=name,
            weights=arguments.weights,
            threads=arguments.threads,
            max_sequences=max(arguments.sequences),
            max_model_len=arguments.prompt + arguments.output,
            max_adapter_rank=arguments.rank,
            speculate="off",  # random weights repeat themselves: guesses would flatter every row
        )
        models = {"none": build.load_model(options)}
        sizes = {}
        for label, targets in TARGETS.items():
            folders = write_adapters(directory, directory, targets, arguments.rank)
            adapters = tuple((each, str(path)) for each, path in folders.items())
            models[label] = build.load_model(replace(options, adapters=adapters))
            sizes[label] = round((folders["a0"] / "adapter_model.safetensors").stat().st_size / 1e6, 2)
        return {
            "shape": arguments.shape,
            "weights": arguments.weights,
            "rank": arguments.rank,
            "threads": models["none"].engine.executor.info().threads,
            "isa": models["none"].engine.executor.info().isa,
            "adapter_mb": sizes,
            "rows": [row for count in arguments.sequences for row in measure_rows(models, count, arguments)],
        }


def measure_rows(models: dict[str, LanguageModel], count: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    cases = [("none", 0), *((label, number) for label in TARGETS for number in NUM_ADAPTERS)]
    found: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for label, number in cases:
        run(models[label], count, number, argparse.Namespace(**{**vars(arguments), "output": 2}), 99)  # warms up
    for seed in range(arguments.rounds):
        for label, number in cases:
            found[label, number].append(run(models[label], count, number, arguments, seed))
    base = statistics.median(found["none", 0])
    return [
        {
            "sequences": count,
            "targets": label,
            "adapters": number,
            "tokens_per_s": round(statistics.median(each), 1),
            "of_base": round(statistics.median(each) / base, 3),
        }
        for (label, number), each in found.items()
    ]


def table(result: dict[str, Any]) -> str:
    sizes = ", ".join(f"{label}: {size} MB" for label, size in result["adapter_mb"].items())
    lines = [
        f"{result['shape']} {result['weights']}, {result['isa']}, {result['threads']} threads; adapters of rank "
        f"{result['rank']} ({sizes})",
        "",
        f"{'sequences':>9}  {'adapters on':12}{'distinct':>9}{'tokens/s':>12}{'of base':>9}",
    ]
    for row in result["rows"]:
        target = "(no room)" if row["targets"] == "none" else row["targets"]
        lines.append(
            f"{row['sequences']:>9}  {target:12}{row['adapters']:>9}{row['tokens_per_s']:>12,.1f}{row['of_base']:>9.0%}"
        )
    return "\n".join(lines)


def main() -> None:
    arguments = parse_arguments()
    result = measure(arguments)
    if not arguments.json:
        print(table(result), end="\n\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
