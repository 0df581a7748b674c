"""How fast the engine is, beside what this machine could do at most: decode, prefill, concurrency, cold start, memory.

A named shape gets random weights, written once to a temporary directory and loaded as any checkpoint is. The engine
is driven directly (token ids in, token ids out); HTTP has its own benchmark. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROMPT, OUTPUT = 128, 128  # tokens of the decode test
PROMPTS = (512, 2048)  # tokens of the prefill tests
BATCH_PROMPTS = (64, 512)  # tokens, uniform, in the concurrency tests
BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.625}
FLOAT_PEAKS = {"fp32": ("fp32",), "bf16": ("fp32", "bf16"), "fp16": ("fp32",), "fp8": ("fp32", "bf16")}
TOKENIZER: dict[str, Any] = {  # one token, never used: the benchmarks speak in token ids
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"},
}  # fmt: skip
STORED = {"f32": "F32", "bf16": "BF16", "f16": "F16"}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="smollm2-135m", help="smollm2-135m, qwen3-0.6b or llama3.2-1b")
    parser.add_argument("--weights", default="bf16", help="type the weights run in")
    parser.add_argument("--kv-cache", default="auto")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--requests", type=int, nargs="*", default=[1, 16, 64], help="concurrent requests")
    parser.add_argument("--rounds", type=int, default=3, help="decode and prefill: the median of so many")
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--part", choices=("all", "speed", "first-token"), default="all", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# --- the checkpoint ---------------------------------------------------------------------------------------------


def write_checkpoint(shape: str, directory: Path) -> None:
    """config.json and model.safetensors of a named shape with random bf16 weights."""
    from tripos.models import config, registry, shapes

    special = ("bos_token_id", "eos_token_id", "pad_token_id")  # which this tokenizer does not have
    raw = {key: value for key, value in shapes.SHAPES[shape].items() if key not in special}
    weights = shapes.random_weights(registry.trace(config.parse_config(raw)))
    header, offset = {}, 0
    for name, tensor in weights.items():
        end = offset + tensor.data.nbytes
        header[name] = {"dtype": STORED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in weights.values():
            file.write(tensor.data.tobytes())
    (directory / "config.json").write_text(json.dumps(raw))
    (directory / "tokenizer.json").write_text(json.dumps(TOKENIZER))


# --- the engine -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """A loaded engine, and what its arithmetic and traffic cost."""

    engine: Any
    vocab_size: int
    cost: Any
    info: Any

    def run(self, lengths: list[int], max_tokens: int, rng: Any) -> Run:
        """Submit prompts of these lengths at once, greedy, end-of-sequence ignored; step until all are done."""
        from tripos.engine.sequence import Sequence
        from tripos.types import Sampling

        sampling = Sampling(temperature=0.0, ignore_eos=True)
        began_s = time.perf_counter()
        for length in lengths:
            prompt = rng.integers(0, self.vocab_size, length).astype("int32")
            self.engine.add(Sequence(prompt, max_tokens, sampling))
        first_s, num_tokens = 0.0, 0
        while self.engine.has_work:
            outputs = self.engine.step()
            num_tokens += sum(len(output.tokens) for output in outputs)
            errors = [output.error for output in outputs if output.error is not None]
            if errors:
                raise errors[0]
            if num_tokens and not first_s:
                first_s = time.perf_counter() - began_s
        total_s = time.perf_counter() - began_s
        if num_tokens != len(lengths) * max_tokens:
            raise RuntimeError(f"{num_tokens} tokens came, {len(lengths) * max_tokens} were asked for")
        return Run(sum(lengths), num_tokens, first_s, total_s)


@dataclass(frozen=True)
class Run:
    prompt_tokens: int
    output_tokens: int
    first_s: float  # until the first token of any sequence
    total_s: float


def load(arguments: argparse.Namespace, max_sequences: int) -> Bench:
    from tripos import build
    from tripos.config import ModelOptions
    from tripos.models.config import parse_config, read_json
    from tripos.models.registry import trace
    from tripos.plan.dump import cost

    options = ModelOptions(
        source=str(arguments.directory),
        threads=arguments.threads,
        weights=arguments.weights,
        kv_cache=arguments.kv_cache,
        max_sequences=max_sequences,
        max_model_len=max(PROMPTS) + OUTPUT,
        speculate="off",  # random weights repeat themselves: guesses would flatter every decode row
    )
    engine = build.load_model(options).engine
    info = engine.executor.info()
    plan = trace(parse_config(read_json(arguments.directory / "config.json")))
    return Bench(engine, plan.vocab_size, cost(plan, bytes_per_weight=BYTES_PER_WEIGHT[info.weights]), info)


# --- what the machine could do ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """The machine's own figures for this weight type and working set, and the times that follow from them."""

    bytes_per_s: float
    ops_per_s: float
    bench: Bench

    def step_s(self, num_tokens: int, num_rows: int, num_keys: int, num_kv_tokens: int) -> float:
        """At least this long: `num_tokens` computed, `num_rows` of logits, `num_keys` query-key pairs, and the cache
        of `num_kv_tokens` read once."""
        cost, info = self.bench.cost, self.bench.info
        flops = num_tokens * cost.flops_per_token + num_rows * cost.flops_per_row
        flops += num_keys * cost.flops_per_token_and_key
        read = cost.weight_bytes + num_kv_tokens * info.kv_bytes_per_token
        return float(max(flops / self.ops_per_s, read / self.bytes_per_s))

    def prefill_s(self, length: int) -> float:
        return self.step_s(length, 1, length * (length + 1) // 2, length)

    def decode_s(self, lengths: list[int], max_tokens: int) -> float:
        """The tokens after the first of each sequence, all sequences in every step."""
        total = 0.0
        for k in range(1, max_tokens):
            kv = sum(lengths) + k * len(lengths)
            total += self.step_s(len(lengths), len(lengths), kv, kv)
        return total


def measure_limits(bench: Bench) -> Limits:
    """At the weights' working set and the executor's threads, on this machine, now."""
    from benchmarks import machine

    threads = bench.info.threads
    peaks = FLOAT_PEAKS.get(bench.info.weights, ("int8",))
    ops = max(machine.best(peak, threads) or 0.0 for peak in peaks)
    read = machine.best("read", threads, bench.cost.weight_bytes)
    if not read or not ops:
        raise RuntimeError("the native library measured nothing")
    return Limits(read, ops, bench)


# --- the measurements -------------------------------------------------------------------------------------------


def measure_speed(arguments: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from tripos.runtime.machine import peak_memory_bytes

    began_s = time.perf_counter()
    bench = load(arguments, max_sequences=max([1, *arguments.requests]))
    load_s = time.perf_counter() - began_s
    rng = np.random.default_rng(0)
    limits = measure_limits(bench)
    bench.run([PROMPT], 8, rng)  # wakes the threads and touches the memory
    rows = []

    def add(name: str, per_s: float, limit: float) -> None:
        rows.append({"name": name, "tokens_per_s": round(per_s, 1), "limit": round(limit), "share": per_s / limit})

    runs = [bench.run([PROMPT], OUTPUT, rng) for _ in range(arguments.rounds)]
    per_s = statistics.median((run.output_tokens - 1) / (run.total_s - run.first_s) for run in runs)
    add("decode", per_s, (OUTPUT - 1) / limits.decode_s([PROMPT], OUTPUT))
    for length in PROMPTS:
        runs = [bench.run([length], 1, rng) for _ in range(arguments.rounds)]
        per_s = statistics.median(length / run.total_s for run in runs)
        add(f"pp{length}", per_s, length / limits.prefill_s(length))
    for count in arguments.requests:
        lengths = [int(n) for n in np.random.default_rng(1).integers(*BATCH_PROMPTS, count, endpoint=True)]
        run = bench.run(lengths, OUTPUT, rng)
        limit_s = sum(limits.prefill_s(length) for length in lengths) + limits.decode_s(lengths, OUTPUT)
        add(f"{count} concurrent", run.output_tokens / run.total_s, run.output_tokens / limit_s)
    return {
        "executor": asdict(bench.info),
        "load_s": round(load_s, 3),
        "read_gb_s": round(limits.bytes_per_s / 1e9, 1),
        "peak_gop_s": round(limits.ops_per_s / 1e9, 1),
        "rows": rows,
        "peak_memory_mb": round(peak_memory_bytes() / 1e6),
    }


def measure_first_token(arguments: argparse.Namespace) -> dict[str, Any]:
    """In a fresh process: everything from the interpreter's start to one token of a 16-token prompt."""
    import numpy as np

    from tripos.runtime.machine import peak_memory_bytes

    load(arguments, max_sequences=1).run([16], 1, np.random.default_rng(0))
    return {"done_s": time.time(), "peak_memory_mb": round(peak_memory_bytes() / 1e6)}


def in_process(arguments: argparse.Namespace, directory: Path, part: str) -> dict[str, Any]:
    """One part in its own process, so that memory and start-up are its own."""
    command = [sys.executable, __file__, "--part", part, "--directory", str(directory), "--weights", arguments.weights]
    command += ["--kv-cache", arguments.kv_cache, "--threads", str(arguments.threads)]
    command += ["--rounds", str(arguments.rounds), "--requests", *map(str, arguments.requests)]
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        write_checkpoint(arguments.shape, directory)
        result = in_process(arguments, directory, "speed")
        cold = []
        for _ in range(arguments.rounds):
            began_s = time.time()
            cold.append(in_process(arguments, directory, "first-token")["done_s"] - began_s)
    return {"shape": arguments.shape, **result, "first_token_s": round(statistics.median(cold), 3)}


def table(result: dict[str, Any]) -> str:
    info = result["executor"]
    lines = [
        f"{result['shape']}, {info['name']} {info['isa']}, weights {info['weights']}, cache {info['kv_cache']}, "
        f"{info['threads']} threads",
        f"the machine now: reads {result['read_gb_s']} GB/s at this size, computes {result['peak_gop_s']} Gop/s",
        "",
        f"{'':16}{'tokens/s':>12}{'limit':>12}{'share':>8}",
    ]
    for row in result["rows"]:
        lines.append(f"{row['name']:16}{row['tokens_per_s']:>12,.1f}{row['limit']:>12,}{row['share']:>8.0%}")
    lines += ["", f"first token {result['first_token_s']} s after process start (load {result['load_s']} s)"]
    return "\n".join([*lines, f"peak memory {result['peak_memory_mb']:,} MB"])


def main() -> None:
    arguments = parse_arguments()
    if arguments.part == "speed":
        result = measure_speed(arguments)
    elif arguments.part == "first-token":
        result = measure_first_token(arguments)
    else:
        result = measure(arguments)
        if not arguments.json:
            print(table(result), end="\n\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
