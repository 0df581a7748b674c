"""Will it fit: how a memory limit is shared out between a model's weights and its cache.

Owns the arithmetic and its table; reads no machine and loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tripos.errors import ConfigError, ModelRefused
from tripos.plan.dump import cost
from tripos.plan.ir import Plan, Weights

BYTES_PER_WEIGHT = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.01, "int4": 0.625, "fp8": 1.01}
BYTES_PER_KV = {"fp32": 4.0, "fp16": 2.0, "int8": 1.13}  # int8 with its scales
DTYPE_FORMAT = {
    "f32": "fp32",
    "bf16": "bf16",
    "f16": "fp16",
    "q8_0": "int8",
    "q5_k": "int8",
    "q6_k": "int8",
    "q4_0": "int4",
    "q4_1": "int4",
    "q4_k": "int4",
}


@dataclass(frozen=True)
class MemoryOptions:
    """What the user allows."""

    limit_bytes: int  # for weights and cache together
    block_size: int = 32
    max_sequences: int = 64
    max_model_len: int = 0  # 0: what the model was made for
    weights: str = "auto"
    kv_cache: str = "auto"


@dataclass(frozen=True)
class Fit:
    """What a model needs and gets, in bytes unless named otherwise."""

    name: str
    options: MemoryOptions
    weights_format: str
    kv_format: str
    weight_bytes: int
    kv_bytes_per_token: int
    max_model_len: int
    num_blocks: int

    @property
    def num_tokens(self) -> int:
        """That the cache holds."""
        return self.num_blocks * self.options.block_size

    def rows(self) -> list[tuple[str, ...]]:
        """A table for people."""
        sequences = self.options.max_sequences
        is_roomy = self.num_tokens >= sequences * self.max_model_len
        full = "fits" if is_roomy else "preempts some: lower --max-sequences or --max-model-len to avoid it"
        cache_bytes = self.num_tokens * self.kv_bytes_per_token
        return [
            ("will it fit?", self.name),
            ("weights", f"{mib(self.weight_bytes)} as {self.weights_format}"),
            ("cache", f"{mib(cache_bytes)} as {self.kv_format}, for {self.num_tokens:,} tokens"),
            ("sequences", f"{sequences} at once, each up to {self.max_model_len:,} tokens"),
            ("all at their longest", full),
            ("limit", f"{mib(self.options.limit_bytes)} for weights and cache (--memory)"),
        ]


def mib(num_bytes: float) -> str:
    """A size for people."""
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"


def fit(name: str, plan: Plan, weights: Weights, window: int, options: MemoryOptions) -> Fit:
    """Share the memory out; `window` is the context the model was made for, in tokens.

    Raises ConfigError for a longer max_model_len, and ModelRefused when not even one sequence of that length fits.
    """
    if options.max_model_len > window:
        raise ConfigError(f"--max-model-len {options.max_model_len}: {name} was made for {window} tokens")
    window = options.max_model_len or window
    weights_format = options.weights if options.weights != "auto" else stored_format(plan, weights)
    kv_format = cache_format(weights_format) if options.kv_cache == "auto" else options.kv_cache
    totals = cost(plan, bytes_per_weight=BYTES_PER_WEIGHT[weights_format], bytes_per_kv=BYTES_PER_KV[kv_format])
    tables = sum(prod(plan.weights[op.weights[0]].shape) for op in plan.ops if op.kind == "embed")
    weight_bytes = totals.weight_bytes + 2 * tables
    block_bytes = max(1, options.block_size * totals.kv_bytes_per_token)
    num_affordable = max(0, options.limit_bytes - weight_bytes) // block_bytes
    num_needed = -(-window // options.block_size)  # by one sequence
    if num_affordable < num_needed:
        longest = num_affordable * options.block_size
        knob = f"set --max-model-len to {longest} or less" if longest else "choose smaller --weights"
        raise ModelRefused(
            f"{name} needs {mib(weight_bytes)} for weights ({weights_format}) and {mib(num_needed * block_bytes)} for "
            f"the cache of one sequence of {window:,} tokens; {mib(options.limit_bytes)} may be taken: "
            f"{knob}, or give more --memory"
        )
    num_blocks = min(num_affordable, options.max_sequences * num_needed)
    return Fit(
        name, options, weights_format, kv_format, weight_bytes, totals.kv_bytes_per_token, window, num_blocks
    )  # fmt: skip


def cache_format(weights_format: str) -> str:
    """What `auto` keeps keys and values as. Integer weights have given up more than an int8 cache costs
    (docs/explanation/quantization.md), and attention over it takes less than half the time of fp16."""
    return "int8" if weights_format in ("int8", "int4") else "fp16"


def stored_format(plan: Plan, weights: Weights) -> str:
    """The format that keeps the type that most of the plan's weights are stored in."""
    sizes: dict[str, int] = {}
    for name in plan.weights:
        tensor = weights[name]
        kind = tensor.panels.format if tensor.panels is not None else DTYPE_FORMAT[tensor.dtype]
        sizes[kind] = sizes.get(kind, 0) + prod(tensor.shape)
    return max(sizes, key=lambda kind: sizes[kind]).removesuffix("_group")
