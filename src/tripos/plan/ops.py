"""The op set with its shape rules, and the tracer that architectures write with.

    op         inputs            weights            output          attrs
    embed      –                 table [V, C]       [T, C]          source (token_ids, positions or
                                                                    token_types), row_offset, scale
    norm       x                 w [G] (, b [G])    like x          kind (rms|layer), eps; G divides cols: per head
    linear     x (, shrunk)      w [N, K] (, b [N]) [rows, N]       –
    rope       x                 table c [R/2]      like x          head_dim, rotary_dim R, scale (on sin and cos)
    attention  q, k, v           –                  [T, H*D]        layer, num_heads, num_kv_heads, head_dim,
                                                                    scale, window (0 = all), softcap (0 = none)
    self_attention  q, k, v      –                  [T, H*D]        num_heads, num_kv_heads, head_dim, scale,
                                                                    left, right (-1 = all)
    glu        gate, up          –                  like gate       act (silu|gelu|gelu_tanh|relu|tanh)
    act        x                 –                  like x          act
    add        a, b              –                  like a          –
    select     x                 –                  [S, cols]       – (the step's last_rows)
    pool       x                 –                  [S, cols]       – (mean of each sequence's rows; S = sequences)
  made by passes:
    add_norm   a, b              as norm            sum, normed     as norm
    shrink     x                 –                  [rows, parts*R] weight, rank R (plan/adapters.py)

Every value is float32 between ops. `rope` rotates halves (x[i], x[i + R/2]); checkpoints that interleave are
unpermuted when they are read. `attention` first writes the rows of k and v into the cache at the step's slots,
then lets every query see positions <= its own, no further back than window-1. `self_attention` keeps no cache: a
step holds whole sequences, and a query at i sees keys from i - left to i + right of its own (causal: right = 0).
`shrink` gives each row the product of x with its adapter's a, scaled, one part of the named weight after the other;
the linear then adds the product of that with the adapter's b.
"""

from __future__ import annotations

import numpy as np

from tripos.plan.ir import Attr, KVSpec, Op, Plan, Rows, Tensor, View, WeightSpec

OP_KINDS = (
    "embed", "norm", "linear", "rope", "attention", "glu", "act", "add", "select", "add_norm", "self_attention", "pool",
    "shrink",
)  # fmt: skip
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu", "tanh")
SOURCES = ("token_ids", "positions", "token_types")


class ShapeError(ValueError):
    """An architecture asked for an op that its operands do not fit. This is a bug in the model file."""


class Tracer:
    """Records ops while an architecture function runs. `plan()` closes the trace."""

    def __init__(self) -> None:
        self._ops: list[Op] = []
        self._tensors: list[Tensor] = []
        self._weights: dict[str, WeightSpec] = {}
        self._constants: dict[str, np.ndarray] = {}
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
        self._ops.append(Op(op_kind, inputs, (output.tensor,), weights, attrs))
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
        if source not in SOURCES:
            raise ShapeError(f"embed source {source}")
        w = self._weight(table, (num_rows, cols))
        return self._emit(
            "embed", (), self._new("T", cols, table), (w,), source=source, row_offset=row_offset, scale=scale
        )

    def norm(
        self, x: View, weight: str, *, eps: float, kind: str = "rms", bias: str | None = None, group: int | None = None
    ) -> View:
        """RMS or layer norm over each group of `group` columns (whole rows by default)."""
        size = group or x.cols
        if x.cols % size or kind not in ("rms", "layer"):
            raise ShapeError(f"norm {kind} of {x.cols} columns in groups of {size}")
        weights = (self._weight(weight, (size,)),) + ((self._weight(bias, (size,)),) if bias else ())
        return self._emit("norm", (x,), self._new(self._rows(x), x.cols, weight), weights, kind=kind, eps=eps)

    def linear(self, x: View, weight: str, out_features: int, *, bias: str | None = None) -> View:
        """x · wᵀ (+ b): [rows, K] by [N, K] gives [rows, N]."""
        weights = (self._weight(weight, (out_features, x.cols)),) + (
            (self._weight(bias, (out_features,)),) if bias else ()
        )
        return self._emit("linear", (x,), self._new(self._rows(x), out_features, weight), weights)

    def rope(self, x: View, *, head_dim: int, inv_freq: str, scale: float = 1.0) -> View:
        """Rotate the first 2·len(inv_freq) columns of each head by position · inv_freq."""
        rotary_dim = 2 * len(self._constants[inv_freq])
        if x.cols % head_dim or rotary_dim > head_dim or self._rows(x) != "T":
            raise ShapeError(f"rope over {x.cols} columns, head_dim {head_dim}, rotary_dim {rotary_dim}")
        return self._emit(
            "rope", (x,), self._new("T", x.cols, "rope"), (inv_freq,),
            head_dim=head_dim, rotary_dim=rotary_dim, scale=scale,
        )  # fmt: skip

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
        if gate.cols != up.cols or act not in ACTIVATIONS:
            raise ShapeError(f"glu {act} of {gate.cols} and {up.cols}")
        return self._emit("glu", (gate, up), self._new(self._rows(gate), gate.cols, "glu"), act=act)

    def act(self, x: View, *, act: str) -> View:
        """Elementwise activation."""
        if act not in ACTIVATIONS:
            raise ShapeError(f"activation {act}")
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
