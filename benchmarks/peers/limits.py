"""What the machine could do at most in each row, by the bits of the weights: engine.py's limits, for every engine."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks import engine, machine
from benchmarks.peers.work import work

PEAKS = {32: ("fp32",), 16: ("fp32", "bf16"), 8: ("int8",), 4: ("int8",)}
BYTES_PER_WEIGHT = {32: 4.0, 16: 2.0, 8: 1.0, 4: 0.625}
BYTES_PER_KV = {32: 4.0, 16: 2.0, 8: 1.0, 4: 1.0}


@dataclass(frozen=True)
class Cache:
    """The one fact of an executor that the limits need."""

    kv_bytes_per_token: int


def measure(shape: str, threads: int) -> dict[int, engine.Limits]:
    """By bits. Raises EnvironmentProblem or RuntimeError without the native library."""
    from tripos.models.config import parse_config
    from tripos.models.registry import trace
    from tripos.models.shapes import SHAPES
    from tripos.plan.dump import cost

    plan = trace(parse_config(SHAPES[shape]))
    found = {}
    for bits, peaks in PEAKS.items():
        per_step = cost(plan, bytes_per_weight=BYTES_PER_WEIGHT[bits], bytes_per_kv=BYTES_PER_KV[bits])
        read = machine.best("read", threads, per_step.weight_bytes)
        operations = max(machine.best(peak, threads) or 0.0 for peak in peaks)
        if not read or not operations:
            raise RuntimeError("the native library measured nothing")
        bench = engine.Bench(None, plan.vocab_size, per_step, Cache(per_step.kv_bytes_per_token))
        found[bits] = engine.Limits(read, operations, bench)
    return found


def tokens_per_s(limits: engine.Limits, row: str) -> float:
    """The row's figure of an engine that only reads what it must and only multiplies."""
    given = work(row)
    lengths = list(given.lengths)
    prefill_s = sum(limits.prefill_s(length) for length in lengths)
    if row == "decode":
        return (given.max_tokens - 1) / limits.decode_s(lengths, given.max_tokens)
    if row.startswith("pp"):
        return lengths[0] / prefill_s
    return given.output_tokens / (prefill_s + limits.decode_s(lengths, given.max_tokens))


def better(one: engine.Limits, other: engine.Limits) -> engine.Limits:
    """The best of both in each rate."""
    return replace(
        one,
        bytes_per_s=max(one.bytes_per_s, other.bytes_per_s),
        ops_per_s=max(one.ops_per_s, other.ops_per_s),
    )
