"""A fused plan computes what the traced one does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.plan.small_plan import VOCAB, decoder, one_sequence, weights
from tripos.plan.dump import cost, dump
from tripos.plan.ir import Panels, Plan, Weights
from tripos.plan.ops import ACTIVATIONS, ShapeError, Tracer
from tripos.plan.passes import optimize
from tripos.runtime.executor import ExecutorOptions
from tripos.runtime.reference import ReferenceExecutor

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]


def logits(plan: Plan, values: Weights) -> np.ndarray:
    executor = ReferenceExecutor(ExecutorOptions(block_size=4, keep_logits=True))
    executor.load(plan, values)
    executor.reserve(8)
    out = executor.run(one_sequence(TOKENS, 4, rows=list(range(len(TOKENS)))))
    assert out.logits is not None
    return out.logits


@pytest.mark.parametrize("has_bias", [False, True])
def test_optimize_keeps_the_values(has_bias: bool) -> None:
    plan = decoder(has_bias=has_bias)
    values = weights(plan)
    fused = optimize(plan)
    assert len(fused.ops) < len(plan.ops)
    np.testing.assert_allclose(logits(fused, values), logits(plan, values), rtol=1e-5, atol=1e-6)


def test_optimize_stacks_projections_that_read_the_same_rows() -> None:
    kinds = [op.kind for op in optimize(decoder(num_layers=1)).ops]
    assert kinds.count("linear") == 5  # qkv, o, gate+up, down, head


def test_optimize_leaves_sums_and_gated_products_to_linears() -> None:
    plan = optimize(decoder(num_layers=1))
    linears = [op for op in plan.ops if op.kind == "linear"]
    assert [op.attrs["epilogue"] for op in linears] == ["store", "add", "glu_silu", "add", "store"]
    assert [op.attrs["interleaved"] for op in linears] == [False, False, True, False, False]
    assert not {"glu", "add", "add_norm"} & {op.kind for op in plan.ops}


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_a_linear_activates_where_its_kernels_can(act: str) -> None:
    t = Tracer()
    x = t.linear(t.embed("table", 9, 8), "w", 6)
    plan = optimize(t.plan(t.select(t.act(x, act=act)), vocab_size=6))
    fused = [str(op.attrs["epilogue"]) for op in plan.ops if op.kind == "linear"]
    assert fused == [act if act in ("gelu", "gelu_tanh") else "store"]
    assert ("act" in [op.kind for op in plan.ops]) == (fused == ["store"])


def test_a_residual_that_is_read_again_is_not_written_over() -> None:
    t = Tracer()
    x = t.embed("table", 9, 8)
    total = t.add(x, t.linear(x, "w", 8))  # the linear itself reads it
    again = t.add(t.linear(total, "v", 8), x)  # read before, last here
    last = t.add(t.linear(t.norm(again, "n", eps=1e-5), "u", 8), again)
    plan = optimize(t.plan(t.select(t.add(last, total)), vocab_size=8))
    assert [op.attrs["epilogue"] for op in plan.ops if op.kind == "linear"] == ["store", "add", "add"]


def test_a_gated_pair_that_was_packed_row_by_row_stays_apart() -> None:
    plan = decoder(num_layers=1)
    values = dict(weights(plan))
    parts = ("0.gate", "0.up")
    panels = Panels(parts, (48, 16), "fp32", False, 1, np.zeros(0, np.uint8))
    for part in parts:
        values[part] = replace(values[part], panels=panels)
    assert "glu" in [op.kind for op in optimize(plan, values).ops]
    for part in parts:
        values[part] = replace(values[part], panels=replace(panels, is_interleaved=True))
    assert "glu" not in [op.kind for op in optimize(plan, values).ops]


def test_optimize_selects_rows_before_the_last_feed_forward() -> None:
    plan = optimize(decoder())
    last = max(i for i, op in enumerate(plan.ops) if op.kind == "attention")
    after = [op for op in plan.ops[last + 1 :] if op.kind != "select"]
    assert [op.kind for op in plan.ops[last + 1 : last + 3]] == ["select", "select"]
    assert {plan.tensors[t].rows for op in after for t in op.outputs} == {"S"}


def test_optimize_keeps_weights_of_different_formats_apart() -> None:
    plan = decoder(num_layers=1)
    values = dict(weights(plan))
    values |= {name: replace(values[name], dtype=dtype) for name, dtype in (("0.q", "q4_k"), ("0.k", "q4_k"))}
    kinds = [op.kind for op in optimize(plan, values).ops]
    assert kinds.count("linear") == 6  # qk, v, o, gate+up, down, head


def test_optimize_selects_any_rows_in_any_order() -> None:
    plan = decoder()
    values = weights(plan)
    executor = ReferenceExecutor(ExecutorOptions(block_size=4, keep_logits=True))
    executor.load(optimize(plan), values)
    executor.reserve(8)
    picked = executor.run(one_sequence(TOKENS, 4, rows=[7, 0, 10, 7])).logits
    np.testing.assert_allclose(picked, logits(plan, values)[[7, 0, 10, 7]], rtol=1e-5, atol=1e-6)


def test_optimize_is_idempotent() -> None:
    once = optimize(decoder())
    assert optimize(once).ops == once.ops


def test_chunked_feeding_gives_the_same_logits() -> None:
    plan = optimize(decoder())
    executor = ReferenceExecutor(ExecutorOptions(block_size=4, keep_logits=True))
    executor.load(plan, weights(decoder()))
    executor.reserve(8)
    whole = executor.run(one_sequence(TOKENS, 4)).logits
    executor.run(one_sequence(TOKENS[:5], 4))
    rest = executor.run(one_sequence(TOKENS[5:], 4, start=5)).logits
    assert whole is not None
    np.testing.assert_allclose(rest, whole, rtol=1e-5, atol=1e-6)


def test_dump_counts_the_arithmetic() -> None:
    plan = decoder(num_layers=1)
    text = dump(plan)
    assert text.count("\n") == len(plan.ops) + 1
    assert "epilogue=glu_silu interleaved=True  1,536 FLOP/row, 768 bytes" in dump(optimize(plan), bytes_per_weight=1)
    per_layer = 2 * (16 * 16 + 2 * 16 * 8 + 16 * 16 + 3 * 16 * 24)
    assert cost(plan).flops_per_token == per_layer
    assert cost(plan).flops_per_row == 2 * 16 * VOCAB
    assert cost(plan, bytes_per_kv=2).kv_bytes_per_token == 2 * 8 * 2


def test_wrong_shapes_are_refused_while_tracing() -> None:
    t = Tracer()
    x = t.embed("e", 10, 16)
    with pytest.raises(ShapeError):
        t.norm(x, "n", eps=1e-5, group=5)
    with pytest.raises(ShapeError):
        t.attention(x, x, x, num_heads=3, num_kv_heads=2, head_dim=8, scale=1.0)
    with pytest.raises(ShapeError):
        t.embed("e", 11, 16)
    with pytest.raises(ShapeError, match="act is 'swish', must be silu or gelu"):
        t.act(x, act="swish")


def test_a_step_may_want_no_logits() -> None:
    executor = ReferenceExecutor(ExecutorOptions(block_size=4))
    executor.load(optimize(decoder()), weights(decoder()))
    executor.reserve(8)
    assert len(executor.run(one_sequence(TOKENS, 4, rows=[])).token_ids) == 0
