"""A two-layer decoder traced by hand, with weights: what the plan tests work on."""

from __future__ import annotations

from math import prod

import numpy as np

from tripos.plan.ir import Plan, View, Weights, WeightTensor
from tripos.plan.ops import Tracer
from tripos.runtime.executor import SamplingInput, StepInput

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB = 16, 4, 2, 4, 24, 50


def decoder(num_layers: int = 2, *, has_bias: bool = False) -> Plan:
    """Llama-shaped: norm, q/k/v, rope, attention, residual, gated MLP, head on selected rows."""
    t = Tracer()
    inv_freq = t.constant("inv_freq", 10000.0 ** -(np.arange(HEAD_DIM // 2) * 2 / HEAD_DIM))
    x = t.embed("embed", VOCAB, HIDDEN)
    for i in range(num_layers):
        h = t.norm(x, f"{i}.norm1", eps=1e-5)

        def project(name: str, heads: int, h: View = h, i: int = i) -> View:
            return t.linear(h, f"{i}.{name}", heads * HEAD_DIM, bias=f"{i}.{name}.bias" if has_bias else None)

        q, k, v = project("q", HEADS), project("k", KV_HEADS), project("v", KV_HEADS)
        q, k = t.rope(q, head_dim=HEAD_DIM, inv_freq=inv_freq), t.rope(k, head_dim=HEAD_DIM, inv_freq=inv_freq)
        a = t.attention(q, k, v, num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, scale=HEAD_DIM**-0.5)
        x = t.add(x, t.linear(a, f"{i}.o", HIDDEN))
        h = t.norm(x, f"{i}.norm2", eps=1e-5)
        m = t.glu(t.linear(h, f"{i}.gate", INNER), t.linear(h, f"{i}.up", INNER), act="silu")
        x = t.add(x, t.linear(m, f"{i}.down", HIDDEN))
    x = t.norm(t.select(x), "norm", eps=1e-5)
    return t.plan(t.linear(x, "embed", VOCAB), vocab_size=VOCAB)


def weights(plan: Plan, seed: int = 0) -> Weights:
    """Random float32 tensors for every checkpoint name of the plan."""
    rng = np.random.default_rng(seed)
    out = {}
    for spec in plan.weights.values():
        for part in spec.parts:
            shape = spec.shape if len(spec.parts) == 1 else None
            assert shape is not None, "make the weights from the unfused plan"
            data = (rng.standard_normal(prod(shape)) / np.sqrt(shape[-1])).astype(np.float32)
            out[part] = WeightTensor(part, "f32", shape, data)
    return out


def one_sequence(token_ids: list[int], block_size: int, *, start: int = 0, rows: list[int] | None = None) -> StepInput:
    """A step that feeds tokens start.. of one sequence whose blocks are 0, 1, 2 ..."""
    n = len(token_ids)
    positions = np.arange(start, start + n, dtype=np.int32)
    last_rows = np.array([n - 1] if rows is None else rows, np.int32)
    num_blocks = -(-(start + n) // block_size)
    return StepInput(
        token_ids=np.array(token_ids, np.int32), positions=positions,
        query_start=np.array([0, n], np.int32), seq_lens=np.array([start + n], np.int32),
        block_tables=np.arange(num_blocks, dtype=np.int32)[None], slots=positions.copy(),
        last_rows=last_rows, sampling=SamplingInput.greedy(len(last_rows)),
    )  # fmt: skip
