"""The plan: a list of ops over tensors of T (tokens of a step) or S (sampled rows) rows.

Owns the data structures only. What an op means is written in plan/ops.py (shapes) and runtime/reference.py
(values); how it is fused and placed, in plan/passes.py.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

Rows = Literal["T", "S"]
Attr = int | float | str | bool


@dataclass(frozen=True)
class Tensor:
    """An activation: float32 [rows, cols], rows being T or S."""

    id: int
    rows: Rows
    cols: int
    name: str


@dataclass(frozen=True)
class View:
    """`cols` columns of a tensor, starting at `offset`. Fusions turn tensors into views; rows never change."""

    tensor: int
    offset: int
    cols: int


@dataclass(frozen=True)
class WeightSpec:
    """A weight as the executor wants it: the named checkpoint tensors stacked along axis 0."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]  # checkpoint tensors, in order; one unless a fusion stacked several


@dataclass(frozen=True)
class Op:
    """One step of the plan. `outputs` are whole tensors, `inputs` views; `attrs` as plan/ops.py documents."""

    kind: str
    inputs: tuple[View, ...]
    outputs: tuple[int, ...]
    weights: tuple[str, ...] = ()
    attrs: Mapping[str, Attr] = field(default_factory=dict)

    def with_(self, **changes: object) -> Op:
        return replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class KVSpec:
    """The cache that attention layers write: float rows of num_kv_heads × head_dim, for K and for V."""

    num_layers: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Plan:
    """A traced model. `output` is the logits tensor [S, vocab_size] (or the pooled tensor of an encoder)."""

    ops: tuple[Op, ...]
    tensors: tuple[Tensor, ...]
    weights: Mapping[str, WeightSpec]
    constants: Mapping[str, np.ndarray]  # small float32 tables made at trace time (rope frequencies)
    kv: KVSpec
    vocab_size: int
    output: int

    def tensor(self, view: View | int) -> Tensor:
        return self.tensors[view if isinstance(view, int) else view.tensor]


@dataclass(frozen=True)
class Panels:
    """A linear's weight as the native kernels hold it (kernels/ops/linear.h), usually a view into a mapped file.

    The bytes are the same for every instruction set; `layout` is the version of what is inside them.
    """

    parts: tuple[str, ...]  # checkpoint tensors stacked along axis 0, in order
    shape: tuple[int, int]
    format: str  # fp32, bf16, fp16, int8, int4, fp8 or int8_group
    is_interleaved: bool
    layout: int
    data: np.ndarray  # uint8, 64-byte aligned


@dataclass(frozen=True)
class WeightTensor:
    """A checkpoint tensor, usually a view into a mapped file.

    dtype: f32, f16, bf16 (data uint16), or a block format (as q4_k; formats.py lists them: data is the raw
    uint8 bytes, shape is the logical one, row-major with the last axis contiguous), or `panels`: no data of its own,
    only the packed form that it is part of. A table that is also a linear's weight has both.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: np.ndarray
    panels: Panels | None = None

    @property
    def kind(self) -> str:
        """Equal for weights that may be stacked: the stored type, or the stack that they were packed in."""
        return self.dtype if self.panels is None else " ".join(self.panels.parts)


Weights = Mapping[str, WeightTensor]


def map_of(array: np.ndarray) -> mmap.mmap | None:
    """The mapped file that an array is a view into; None: it lies in memory of its own."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    mapped = owner.obj if isinstance(owner, memoryview) else owner
    return mapped if isinstance(mapped, mmap.mmap) else None


def let_pages_go(array: np.ndarray) -> None:
    """Let a mapped array's pages leave this process's memory; they come back from the file when touched."""
    mapped = map_of(array)
    if mapped is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    begin = int(array.ctypes.data) - int(np.frombuffer(mapped, np.uint8).ctypes.data)
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (begin + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if first < last:
        mapped.madvise(mmap.MADV_DONTNEED, first, last - first)


@dataclass(frozen=True)
class LowRank:
    """What an adapter adds to a linear [N, K] (Hu et al. 2021): scale · b · a, with a [r, K] and b [N, r].

    Both are f32 or both bf16; the executor copies them.
    """

    a: WeightTensor
    b: WeightTensor
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


Adapter = Mapping[str, LowRank]  # by the checkpoint name of the weight that it adds to
