"""How much memory a model needs, and how its part is divided into weights and cache.

Owns the arithmetic and its table; measures no machine and loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tripos.errors import ConfigError, ModelRefused
from tripos.plan.dump import cost
from tripos.plan.formats import FORMATS
from tripos.plan.ir import Plan, Weights, WeightTensor
from tripos.plan.lora import padded_rank

_PANEL = 32  # rows of a matrix that are packed together, and columns that share a scale
BYTES_PER_KV = {"fp32": 4.0, "fp16": 2.0, "int8": 1.13}  # int8 with its scales
DTYPE_FORMAT = {
    "f32": "fp32",
    "bf16": "bf16",
    "f16": "fp16",
    "q8_0": "int8",
    "q5_0": "int8",
    "q5_1": "int8",
    "q2_k": "int8",
    "q3_k": "int8",
    "q5_k": "int8",
    "q6_k": "int8",
    "q4_0": "int4",
    "q4_1": "int4",
    "q4_k": "int4",
}


@dataclass(frozen=True)
class MemoryOptions:
    """The settings that decide how much memory a model takes."""

    block_size: int = 32
    max_sequences: int = 64
    max_model_len: int = 0  # tokens; 0: the model's own context length
    weights: str = "auto"
    kv_cache: str = "auto"
    max_adapters: int = 0
    max_adapter_rank: int = 16


@dataclass(frozen=True)
class WeightsNeed:
    """Bytes of a plan's weights once they are loaded."""

    formats: str  # of the matrices, as the executor names them: int8, int4+int8_group; without any, of the tables
    packed_bytes: int  # matrices
    table_bytes: int  # tables of embeddings, as the checkpoint stores them

    def row(self) -> tuple[str, ...]:
        """For people."""
        parts = [f"{mib(self.packed_bytes)} packed as {self.formats}"] * bool(self.packed_bytes)
        parts += [f"{mib(self.table_bytes)} of embeddings as stored"] * bool(self.table_bytes)
        return ("weights", ", ".join(parts))


@dataclass(frozen=True)
class Need:
    """What a model would take without a limit, in bytes unless named otherwise."""

    name: str
    options: MemoryOptions
    weights: WeightsNeed
    kv_format: str
    kv_bytes_per_token: int
    max_model_len: int
    adapter_bytes: int = 0  # of max_adapters, each of the largest rank for every linear

    @property
    def weight_bytes(self) -> int:
        return self.weights.packed_bytes + self.weights.table_bytes

    @property
    def standing_bytes(self) -> int:
        """Bytes of weights and adapters."""
        return self.weight_bytes + self.adapter_bytes

    @property
    def block_bytes(self) -> int:
        return max(1, self.options.block_size * self.kv_bytes_per_token)

    @property
    def num_blocks_per_sequence(self) -> int:
        """Cache blocks of one sequence of full length."""
        return -(-self.max_model_len // self.options.block_size)

    @property
    def min_bytes(self) -> int:
        """Bytes of weights, adapters, and the cache of one sequence of full length."""
        return self.standing_bytes + self.num_blocks_per_sequence * self.block_bytes

    @property
    def max_bytes(self) -> int:
        """Bytes with the cache of as many sequences of full length as run at once: more could not be used."""
        return self.standing_bytes + self.options.max_sequences * self.num_blocks_per_sequence * self.block_bytes

    def within(self, limit_bytes: int) -> Fit:
        """The division of `limit_bytes`. Raises ModelRefused when not even one sequence of full length fits."""
        num_affordable = max(0, limit_bytes - self.standing_bytes) // self.block_bytes
        if num_affordable < self.num_blocks_per_sequence:
            longest = num_affordable * self.options.block_size
            knob = f"set --max-model-len to {longest} or less" if longest else "choose smaller --weights"
            if self.adapter_bytes:
                knob += f" or fewer --max-adapters (they take {mib(self.adapter_bytes)})"
            raise ModelRefused(
                f"{self.name} needs {mib(self.weight_bytes)} for weights ({self.weights.formats}) and "
                f"{mib(self.min_bytes - self.standing_bytes)} for the cache of one sequence of {self.max_model_len:,} "
                f"tokens; {mib(limit_bytes)} may be taken: {knob}, or give more --memory"
            )
        num_blocks = min(num_affordable, self.options.max_sequences * self.num_blocks_per_sequence)
        return Fit(self, limit_bytes, num_blocks)


@dataclass(frozen=True)
class Fit:
    """The division of the memory that a model may take."""

    need: Need
    limit_bytes: int
    num_blocks: int

    @property
    def max_model_len(self) -> int:
        return self.need.max_model_len

    @property
    def num_tokens(self) -> int:
        """Tokens that the cache holds."""
        return self.num_blocks * self.need.options.block_size

    @property
    def held_bytes(self) -> int:
        return self.need.standing_bytes + self.num_blocks * self.need.block_bytes

    def rows(self) -> list[tuple[str, ...]]:
        """A table for people."""
        need, sequences = self.need, self.need.options.max_sequences
        is_roomy = self.num_tokens >= sequences * need.max_model_len
        full = "fits" if is_roomy else "preempts some: lower --max-sequences or --max-model-len to avoid it"
        cache_bytes = self.num_tokens * need.kv_bytes_per_token
        adapters = [("adapters", f"{mib(need.adapter_bytes)} kept for {need.options.max_adapters}")]
        return [
            ("will it fit?", need.name),
            need.weights.row(),
            *(adapters if need.adapter_bytes else ()),
            ("cache", f"{mib(cache_bytes)} as {need.kv_format}, for {self.num_tokens:,} tokens"),
            ("sequences", f"{sequences} at once, each up to {need.max_model_len:,} tokens"),
            ("all at their longest", full),
            ("limit", f"{mib(self.limit_bytes)} for weights and cache (--memory)"),
        ]


def mib(num_bytes: float) -> str:
    """A size for people."""
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"


def measure(name: str, plan: Plan, weights: Weights, context_length: int, options: MemoryOptions) -> Need:
    """What a model would take. `context_length`: of the model, in tokens.

    Raises ConfigError for a longer max_model_len.
    """
    if options.max_model_len > context_length:
        raise ConfigError(f"--max-model-len {options.max_model_len}: the context length of {name} is {context_length}")
    weights_format = options.weights if options.weights != "auto" else stored_format(plan, weights)
    kv_format = cache_format(weights_format) if options.kv_cache == "auto" else options.kv_cache
    return Need(
        name=name,
        options=options,
        weights=measure_weights(plan, weights, options.weights),
        kv_format=kv_format,
        kv_bytes_per_token=cost(plan, bytes_per_kv=BYTES_PER_KV[kv_format]).kv_bytes_per_token,
        max_model_len=options.max_model_len or context_length,
        adapter_bytes=_adapter_bytes(plan, weights_format, options),
    )


def measure_weights(plan: Plan, weights: Weights, weights_format: str) -> WeightsNeed:
    """Bytes of a plan's weights. `weights_format`: the format to run in; auto: as they are stored."""
    matrices = [weights[part] for part in _parts(plan, "linear")]
    kinds = [_packed_kind(tensor, weights_format) for tensor in matrices]
    packed_bytes = sum(_packed_bytes(tensor, kind) for tensor, kind in zip(matrices, kinds, strict=True))
    table_bytes = sum(_stored_bytes(weights[part]) for part in _parts(plan, "embed"))
    formats = sorted(set(kinds)) or [stored_format(plan, weights)]
    return WeightsNeed("+".join(formats), packed_bytes, table_bytes)


def _parts(plan: Plan, kind: str) -> list[str]:
    """The weights of all ops of a kind, each once."""
    return list({part: None for op in plan.ops if op.kind == kind for part in plan.weights[op.weights[0]].parts})


def cache_format(weights_format: str) -> str:
    """The cache format that `auto` means. Integer weights lose more accuracy than an int8 cache does
    (docs/explanation/quantization.md), and attention over it takes less than half the time of fp16."""
    return "int8" if weights_format in ("int8", "int4") else "fp16"


def stored_format(plan: Plan, weights: Weights) -> str:
    """The format in which most of the plan's matrices are stored; of its tables where it has no matrix."""
    sizes: dict[str, int] = {}
    for name in _parts(plan, "linear") or _parts(plan, "embed"):
        tensor = weights[name]
        kind = tensor.panels.format if tensor.panels is not None else DTYPE_FORMAT[tensor.dtype]
        sizes[kind] = sizes.get(kind, 0) + prod(tensor.shape)
    return max(sizes, key=lambda kind: sizes[kind]).removesuffix("_group")


def _packed_kind(tensor: WeightTensor, weights_format: str) -> str:
    """The format in which the kernels pack a linear's matrix."""
    if tensor.panels is not None:
        return tensor.panels.format
    if weights_format != "auto":
        return weights_format
    kind = DTYPE_FORMAT[tensor.dtype]
    return "int8_group" if kind == "int8" else kind  # of blocks


def _packed_bytes(tensor: WeightTensor, kind: str) -> int:
    """Bytes of a matrix in panels, scales included (kernels/ops/linear_layout.h)."""
    rows, cols = tensor.shape
    groups = -(-cols // _PANEL)
    panel = {
        "fp32": 128 * cols,
        "bf16": 64 * cols,
        "fp16": 64 * cols,
        "fp8": 128 + 64 * (-(-cols // 2)),
        "int8": 128 + 1024 * groups,
        "int8_group": 1088 * groups,
        "int4": 640 * groups,
    }
    return -(-rows // _PANEL) * panel[kind]


def _stored_bytes(tensor: WeightTensor) -> int:
    per_block, size = FORMATS.get(tensor.dtype, (1, 2))  # panels: the table lies beside them, in some float type
    return prod(tensor.shape) // per_block * size


def _adapter_bytes(plan: Plan, weights_format: str, options: MemoryOptions) -> int:
    """Bytes of adapters: two matrices of the largest rank for every linear but the head, for each that may be
    loaded."""
    linears = [op.weights[0] for op in plan.ops if op.kind == "linear" and op.outputs[0] != plan.output]
    values = padded_rank(options.max_adapter_rank) * sum(sum(plan.weights[name].shape) for name in linears)
    return options.max_adapters * values * (4 if weights_format == "fp32" else 2)
