"""What the machine could do at most in a row: its rates, sampled right before and right after each round, and the times
that follow from them.

A host may have several states that come and go within seconds, so rates of another minute say nothing of a round
(docs/decisions/0025-limits-beside-each-round.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks import machine
from benchmarks.peers.work import Timing, tokens_per_s, work
from tripos.plan.dump import Cost
from tripos.runtime.peaks import ARITHMETIC

BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.625}
BYTES_PER_KV = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0}
HALF = ARITHMETIC["fp32"] + ARITHMETIC["bf16"]
PEAKS = {
    "fp32": ARITHMETIC["fp32"], "bf16": HALF, "fp16": HALF, "fp8": HALF,
    "int8": ARITHMETIC["int8"], "int4": ARITHMETIC["int8"],
}  # fmt: skip
LARGEST_SET = 1 << 30  # bytes; what is larger is read as slowly


@dataclass(frozen=True)
class Rates:
    """Of all threads together, in one moment."""

    bytes_per_s: float
    ops_per_s: float

    def best(self, other: Rates) -> Rates:
        """The larger of both in each."""
        return Rates(max(self.bytes_per_s, other.bytes_per_s), max(self.ops_per_s, other.ops_per_s))


@dataclass(frozen=True)
class Limit:
    """Of one round: what it could have reached at most, by the better of two samples in each rate."""

    tokens_per_s: float
    before: Rates
    after: Rates


@dataclass(frozen=True)
class Limits:
    """Of one model in one type of weights, with so many threads."""

    cost: Cost
    peaks: tuple[str, ...]  # of arithmetic that this type may use
    threads: int

    def sample(self) -> Rates:
        """The rates now, at the weights' working set; a tenth of a second. Raises EnvironmentProblem, RuntimeError."""
        size = min(self.cost.weight_bytes, LARGEST_SET)
        read = machine.sample("read", self.threads, size)
        operations = max(machine.sample(peak, self.threads) or 0.0 for peak in self.peaks)
        if not read or not operations:
            raise RuntimeError("the native library measured nothing")
        return Rates(read, operations)

    def of(self, row: str, before: Rates, after: Rates) -> Limit:
        return Limit(self.tokens_per_s(row, before.best(after)), before, after)

    def tokens_per_s(self, row: str, rates: Rates) -> float:
        """The row's figure of an engine that only reads what it must and only multiplies."""
        given = work(row)
        prefill_s = sum(self._prefill_s(rates, length) for length in given.lengths)
        decode_s = self._decode_s(rates, given.lengths, given.max_tokens)
        return tokens_per_s(row, Timing(prefill_s, prefill_s + decode_s))

    def _step_s(self, rates: Rates, num_tokens: int, num_rows: int, num_keys: int, num_kv_tokens: int) -> float:
        """At least this long: `num_tokens` computed, `num_rows` of logits, `num_keys` query-key pairs, and the weights
        and the cache of `num_kv_tokens` read once."""
        cost = self.cost
        flops = num_tokens * cost.flops_per_token + num_rows * cost.flops_per_row
        flops += num_keys * cost.flops_per_token_and_key
        read = cost.weight_bytes + num_kv_tokens * cost.kv_bytes_per_token
        return float(max(flops / rates.ops_per_s, read / rates.bytes_per_s))

    def _prefill_s(self, rates: Rates, length: int) -> float:
        return self._step_s(rates, length, 1, length * (length + 1) // 2, length)

    def _decode_s(self, rates: Rates, lengths: tuple[int, ...], max_tokens: int) -> float:
        """The tokens after the first of each sequence, all sequences in every step."""
        total = 0.0
        for k in range(1, max_tokens):
            kv = sum(lengths) + k * len(lengths)
            total += self._step_s(rates, len(lengths), len(lengths), kv, kv)
        return total


def of_shape(shape: str, weights: str, kv_cache: str, threads: int) -> Limits:
    """Raises KeyError for a shape or type that is unknown."""
    from benchmarks.shapes import SHAPES
    from tripos.models.config import parse_config
    from tripos.models.registry import trace
    from tripos.plan.dump import cost

    plan = trace(parse_config(SHAPES[shape]))
    per_step = cost(plan, bytes_per_weight=BYTES_PER_WEIGHT[weights], bytes_per_kv=BYTES_PER_KV[kv_cache])
    return Limits(per_step, PEAKS[weights], threads)
