"""The op set: one table, with its shape rules, and the tracer that architectures write with.

OPS is the definition. The native library has a row for each op beside its kernel and prints them; runtime/native.py
refuses a library whose rows differ. What an op computes is written in runtime/reference.py:

    embed           rows of a table, picked by an array of the step (+ row_offset), times scale: [T, C]
    norm            RMS or layer norm over groups of len(weight) columns, which divides those of x
    linear          x · wᵀ (+ b) of a weight [N, K]: [rows, N], then its epilogue
    rope_table      cos and sin of positions · frequencies, times scale: [T, R], half and half
    rope            the first R columns of each head rotated, x[i] with x[i + R/2]
    attention       causal over the paged cache, into which it first writes k and v: [T, H * D]
    self_attention  among the tokens of a step's whole sequences, without a cache: [T, H * D]
    glu             act(gate) · up
    act             an activation, elementwise
    add             a + b
    select          the rows that the step wants logits for: [S, C]
    pool            the mean of each sequence's rows, S being sequences: [S, C]
  made by passes:
    add_norm        a + b, and the norm of it
    shrink          x times its row's adapter's a, scaled, one part of the weight after the other: [rows, parts * rank]

Epilogues of a linear, made by passes too: `add` adds the residual and writes over it (no later op may read that);
`gelu` and `gelu_tanh` activate; `glu_*` take the halves of N as gate and up: [rows, N/2]. `interleaved` is how their
weight is packed: panels with 16 rows of either half. `shrunk` is what a shrink made of x: a linear adds the product of
that with the adapter's b before its epilogue.

Every value is float32 between ops. Checkpoints whose rope interleaves are unpermuted when they are read. `attention`
lets a query see positions <= its own, no further back than window-1 (0: all), scores capped by softcap (0: not).
`self_attention` lets a query at i see keys from i - left to i + right (-1: all; causal: right = 0).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tripos.plan.ir import Attr, KVSpec, Op, Plan, Rows, Tensor, View, WeightSpec

SOURCES = ("token_ids", "positions", "token_types")
NORMS = ("rms", "layer")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "tanh")
EPILOGUES = ("store", "add", "gelu", "gelu_tanh", "glu_silu", "glu_gelu", "glu_gelu_tanh")

AttrType = str | tuple[str, ...]  # "int", "float", "bool", or the values of an enum
HEADS: Mapping[str, AttrType] = {"num_heads": "int", "num_kv_heads": "int", "head_dim": "int", "scale": "float"}


@dataclass(frozen=True)
class OpSpec:
    """A row of the op table. Operands are named in order; one that may be missing ends in "?". Executors pack a weight
    called `matrix` as their kernels want it, and read any other as it is stored."""

    name: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, AttrType]
    is_row_wise: bool  # row i of every output depends on row i of the inputs alone

    def typed(self, attr: str, value: Attr) -> Attr:
        """Attributes with their types: an integer for a float becomes a float."""
        return float(value) if self.attrs.get(attr) == "float" else value

    def problem(self, op: Op) -> str | None:
        """The error in an op's operands and attributes; None: there is none. The tracer checks shapes."""
        for operands in ("inputs", "weights", "outputs"):
            names, given = getattr(self, operands), len(getattr(op, operands))
            if not sum(not name.endswith("?") for name in names) <= given <= len(names):
                return f"{given} {operands}, takes {' '.join(names) or 'none'}"
        if op.attrs.keys() != self.attrs.keys():
            return f"attributes {sorted(op.attrs)}, takes {sorted(self.attrs)}"
        for name, value in op.attrs.items():
            kind = self.attrs[name]
            if value not in kind if isinstance(kind, tuple) else type(value).__name__ != kind:
                return f"{name} is {value!r}, must be {kind if isinstance(kind, str) else ' or '.join(kind)}"
        return None


def _row(name: str, inputs: str, outputs: str, weights: str = "", /, **attrs: AttrType) -> OpSpec:
    return OpSpec(name, tuple(inputs.split()), tuple(weights.split()), tuple(outputs.split()), attrs, False)


def _row_wise(name: str, inputs: str, outputs: str, weights: str = "", /, **attrs: AttrType) -> OpSpec:
    return replace(_row(name, inputs, outputs, weights, **attrs), is_row_wise=True)


OPS: Mapping[str, OpSpec] = {
    row.name: row
    for row in (
        _row("embed", "", "y", "table", source=SOURCES, row_offset="int", scale="float"),
        _row_wise("norm", "x", "y", "w b?", kind=NORMS, eps="float"),
        _row_wise("add_norm", "a b", "sum y", "w b?", kind=NORMS, eps="float"),
        _row_wise("linear", "x residual? shrunk?", "y", "matrix b?", epilogue=EPILOGUES, interleaved="bool"),
        _row("shrink", "x", "y", "matrix", rank="int"),
        _row("rope_table", "", "y", "inv_freq", scale="float"),
        _row("rope", "x table", "y", head_dim="int"),
        _row("attention", "q k v", "y", layer="int", **HEADS, window="int", softcap="float"),
        _row("self_attention", "q k v", "y", **HEADS, left="int", right="int"),
        _row_wise("glu", "gate up", "y", act=ACTIVATIONS),
        _row_wise("act", "x", "y", act=ACTIVATIONS),
        _row_wise("add", "a b", "y"),
        _row("select", "x", "y"),
        _row("pool", "x", "y"),
    )
}


class ShapeError(ValueError):
    """An architecture asked for an op that its operands do not fit. This is a bug in the model file."""


class Tracer:
    """Records ops while an architecture function runs. `plan()` closes the trace."""

    def __init__(self) -> None:
        self._ops: list[Op] = []
        self._tensors: list[Tensor] = []
        self._weights: dict[str, WeightSpec] = {}
        self._constants: dict[str, np.ndarray] = {}
        self._rope_tables: dict[tuple[str, float], View] = {}
        self._kv: KVSpec | None = None
        self._num_layers = 0

    # -- operands -------------------------------------------------------------------------------------------
    def _new(self, rows: Rows, cols: int, name: str) -> View:
        self._tensors.append(Tensor(len(self._tensors), rows, cols, name))
        return View(len(self._tensors) - 1, 0, cols)

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        known = self._weights.get(name)
        if known is not None and known.shape != shape:
            raise ShapeError(f"weight {name} used as {known.shape} and as {shape}")
        self._weights[name] = WeightSpec(name, shape, (name,))
        return name

    def constant(self, name: str, values: np.ndarray) -> str:
        """A float32 table that the plan carries; the same name must mean the same values."""
        table = np.ascontiguousarray(values, dtype=np.float32)
        if name in self._constants and not np.array_equal(self._constants[name], table):
            raise ShapeError(f"constant {name} defined twice with different values")
        self._constants[name] = table
        return name

    def _emit(
        self,
        op_kind: str,
        inputs: tuple[View, ...],
        output: View,
        weights: tuple[str, ...] = (),
        /,
        **attrs: Attr,
    ) -> View:
        spec = OPS[op_kind]
        op = Op(op_kind, inputs, (output.tensor,), weights, {name: spec.typed(name, attrs[name]) for name in attrs})
        if problem := spec.problem(op):
            raise ShapeError(f"{op_kind}: {problem}")
        self._ops.append(op)
        return output

    def _rows(self, view: View) -> Rows:
        return self._tensors[view.tensor].rows

    # -- ops ------------------------------------------------------------------------------------------------
    def embed(
        self,
        table: str,
        num_rows: int,
        cols: int,
        *,
        source: str = "token_ids",
        row_offset: int = 0,
        scale: float = 1.0,
    ) -> View:
        """Rows of a table, picked by the step's array `source` (+ row_offset), times scale: [T, cols]."""
        w = self._weight(table, (num_rows, cols))
        return self._emit(
            "embed", (), self._new("T", cols, table), (w,), source=source, row_offset=row_offset, scale=scale
        )

    def norm(
        self, x: View, weight: str, *, eps: float, kind: str = "rms", bias: str | None = None, group: int | None = None
    ) -> View:
        """RMS or layer norm over each group of `group` columns (whole rows by default)."""
        size = group or x.cols
        if x.cols % size:
            raise ShapeError(f"norm of {x.cols} columns in groups of {size}")
        weights = (self._weight(weight, (size,)),) + ((self._weight(bias, (size,)),) if bias else ())
        return self._emit("norm", (x,), self._new(self._rows(x), x.cols, weight), weights, kind=kind, eps=eps)

    def linear(self, x: View, weight: str, out_features: int, *, bias: str | None = None) -> View:
        """x · wᵀ (+ b): [rows, K] by [N, K] gives [rows, N]."""
        weights = (self._weight(weight, (out_features, x.cols)),) + (
            (self._weight(bias, (out_features,)),) if bias else ()
        )
        y = self._new(self._rows(x), out_features, weight)
        return self._emit("linear", (x,), y, weights, epilogue="store", interleaved=False)

    def rope(self, x: View, *, head_dim: int, inv_freq: str, scale: float = 1.0) -> View:
        """Rotate the first 2·len(inv_freq) columns of each head by position · inv_freq; equal ones share a table."""
        rotary_dim = 2 * len(self._constants[inv_freq])
        if x.cols % head_dim or rotary_dim > head_dim or self._rows(x) != "T":
            raise ShapeError(f"rope over {x.cols} columns, head_dim {head_dim}, rotary_dim {rotary_dim}")
        table = self._rope_tables.get((inv_freq, scale))
        if table is None:
            new = self._new("T", rotary_dim, inv_freq)
            table = self._rope_tables[inv_freq, scale] = self._emit("rope_table", (), new, (inv_freq,), scale=scale)
        return self._emit("rope", (x, table), self._new("T", x.cols, "rope"), head_dim=head_dim)

    def attention(
        self, q: View, k: View, v: View, *, num_heads: int, num_kv_heads: int, head_dim: int,
        scale: float, window: int = 0, softcap: float = 0.0,
    ) -> View:  # fmt: skip
        """Causal attention over the paged cache; each call is the next cache layer."""
        kv = KVSpec(0, num_kv_heads, head_dim)
        if self._kv not in (None, kv):
            raise ShapeError("all attention layers of a plan share num_kv_heads and head_dim")
        if (
            num_heads % num_kv_heads
            or q.cols != num_heads * head_dim
            or k.cols != num_kv_heads * head_dim
            or v.cols != k.cols
        ):
            raise ShapeError(
                f"attention of {num_heads}/{num_kv_heads} heads × {head_dim} over q {q.cols}, k {k.cols}, v {v.cols}"
            )
        self._kv = kv
        layer = self._num_layers
        self._num_layers += 1
        return self._emit(
            "attention", (q, k, v), self._new("T", q.cols, f"attention.{layer}"),
            layer=layer, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim,
            scale=scale, window=window, softcap=softcap,
        )  # fmt: skip

    def self_attention(
        self, q: View, k: View, v: View, *, num_heads: int, num_kv_heads: int, head_dim: int, scale: float,
        left: int = -1, right: int = -1,
    ) -> View:  # fmt: skip
        """Attention among the tokens of each whole sequence of the step: [T, num_heads * head_dim], no cache.

        A query at position i sees keys i - left .. i + right; -1: to the sequence's end on that side.
        """
        fits = (
            num_heads % num_kv_heads == 0
            and q.cols == num_heads * head_dim
            and k.cols == v.cols == num_kv_heads * head_dim
            and min(left, right) >= -1
        )
        if not fits:
            raise ShapeError(
                f"self_attention of {num_heads}/{num_kv_heads} heads × {head_dim} over q {q.cols}, k {k.cols}, "
                f"v {v.cols}, left {left}, right {right}"
            )
        return self._emit(
            "self_attention", (q, k, v), self._new("T", q.cols, "self_attention"),
            num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, scale=scale, left=left, right=right,
        )  # fmt: skip

    def pool(self, x: View) -> View:
        """The mean of each sequence's rows: [S, cols], one sampled row per sequence."""
        if self._rows(x) != "T":
            raise ShapeError("pool of rows that are pooled already")
        return self._emit("pool", (x,), self._new("S", x.cols, "pool"))

    def glu(self, gate: View, up: View, *, act: str) -> View:
        """act(gate) · up."""
        if gate.cols != up.cols:
            raise ShapeError(f"glu of {gate.cols} and {up.cols}")
        return self._emit("glu", (gate, up), self._new(self._rows(gate), gate.cols, "glu"), act=act)

    def act(self, x: View, *, act: str) -> View:
        """Elementwise activation."""
        return self._emit("act", (x,), self._new(self._rows(x), x.cols, act), act=act)

    def add(self, a: View, b: View) -> View:
        """a + b, the residual sum."""
        if a.cols != b.cols or self._rows(a) != self._rows(b):
            raise ShapeError(f"add of {a.cols} and {b.cols}")
        return self._emit("add", (a, b), self._new(self._rows(a), a.cols, "add"))

    def select(self, x: View) -> View:
        """The rows of x that the step wants logits for: [S, cols]."""
        return self._emit("select", (x,), self._new("S", x.cols, "select"))

    def plan(self, output: View, *, vocab_size: int) -> Plan:
        """Close the trace."""
        kv = self._kv or KVSpec(0, 1, 1)
        return Plan(
            ops=tuple(self._ops),
            tensors=tuple(self._tensors),
            weights=self._weights,
            constants=self._constants,
            kv=KVSpec(self._num_layers, kv.num_kv_heads, kv.head_dim),
            vocab_size=vocab_size,
            output=output.tensor,
        )
