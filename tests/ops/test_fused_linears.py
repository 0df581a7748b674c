"""Linears that do what follows them as well (activation, residual sum), and what a poisoned row does to its step."""

from __future__ import annotations

import numpy as np
import pytest

from tests.ops.executors import assert_close, logits_of, native, reference
from tests.ops.steps import Batch, random_weights
from tripos.plan.ir import Plan, View, Weights, WeightTensor
from tripos.plan.ops import ACTIVATIONS, Tracer
from tripos.plan.passes import optimize

VOCAB = 40


def mlp_plan(width: int, inner: int, act: str, *, reads_residual_later: bool = False) -> Plan:
    """Two gated layers with residual sums, optimized as models are."""
    t = Tracer()
    x: View = t.embed("table", VOCAB, width)
    first = x
    for layer in "ab":
        h = t.norm(x, f"{layer}.norm", eps=1e-5)
        gate = t.linear(h, f"{layer}.gate", inner, bias=f"{layer}.gate.bias")
        up = t.linear(h, f"{layer}.up", inner, bias=f"{layer}.up.bias")
        x = t.add(x, t.linear(t.glu(gate, up, act=act), f"{layer}.down", width))
    if reads_residual_later:
        x = t.add(x, first)
    return optimize(t.plan(t.select(t.norm(x, "norm", eps=1e-5)), vocab_size=width))


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize(("width", "inner"), [(8, 1), (24, 17), (64, 48), (40, 100)])
def test_gated_layers(isa: str, threads: int, act: str, width: int, inner: int) -> None:
    check(mlp_plan(width, inner, act), isa, threads)


def test_a_residual_that_is_read_again_is_kept(isa: str, threads: int) -> None:
    check(mlp_plan(32, 40, "silu", reads_residual_later=True), isa, threads)


def check(plan: Plan, isa: str, threads: int) -> None:
    weights = random_weights(plan, np.random.default_rng(2))
    step = Batch((13, 1, 6), VOCAB).step({0: 13, 1: 1, 2: 6})
    want = logits_of(reference(plan, weights, num_blocks=9), step)
    assert_close(logits_of(native(plan, weights, isa=isa, threads=threads, num_blocks=9), step), want, terms=200)


@pytest.mark.parametrize("is_gated", [False, True], ids=["act", "glu"])
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_a_fused_activation_has_the_bits_of_one_on_its_own(isa: str, act: str, is_gated: bool) -> None:
    width, inner, num_rows = 24, 37, 30
    names = ("gate", "up") if is_gated else ("gate",)

    def activated(t: Tracer, views: list[View]) -> View:
        return t.glu(*views, act=act) if is_gated else t.act(*views, act=act)

    def linears(t: Tracer) -> list[View]:
        x = t.embed("table", num_rows, width)
        return [t.linear(x, name, inner, bias=f"{name}.bias") for name in names]

    t = Tracer()
    fused = optimize(t.plan(t.select(activated(t, linears(t))), vocab_size=inner))
    weights = random_weights(fused, np.random.default_rng(7))
    weights["table"].data[:] *= np.float32(3)  # to where activations bend
    step = Batch((num_rows,), num_rows).step({0: num_rows})
    got = logits_of(native(fused, weights, isa=isa, num_blocks=4), step)

    t = Tracer()
    views = [t.embed(name, num_rows, inner) for name in names]
    alone = t.plan(t.select(activated(t, views)), vocab_size=inner)
    tables = {name: linear_alone(weights, name, isa) for name in names}
    np.testing.assert_array_equal(got, logits_of(native(alone, tables, isa=isa, num_blocks=4), step))


def linear_alone(weights: Weights, name: str, isa: str) -> WeightTensor:
    """The named linear's outputs of every row of the table, in the order of token ids."""
    num_rows, width = weights["table"].shape
    inner = weights[name].shape[0]
    t = Tracer()
    plan = t.plan(
        t.select(t.linear(t.embed("table", num_rows, width), name, inner, bias=f"{name}.bias")), vocab_size=inner
    )
    step = Batch((num_rows,), num_rows).step({0: num_rows})
    step.token_ids[:] = np.arange(num_rows)
    rows = logits_of(native(plan, weights, isa=isa, num_blocks=4), step)
    return WeightTensor(name, "f32", rows.shape, rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("weight_format", ["fp32", "bf16", "int8", "int4"])
def test_a_poisoned_row_fails_alone(isa: str, threads: int, weight_format: str, bad: float) -> None:
    """Quantized activations must not hide what is not finite, nor hand it to a neighbour."""
    plan = mlp_plan(64, 96, "silu")
    weights = random_weights(plan, np.random.default_rng(5))
    step = Batch((12,), VOCAB).step({0: 12})
    step.token_ids[:] = np.arange(12)
    clean = native(plan, weights, isa=isa, threads=threads, num_blocks=4, weight_format=weight_format).run(step)
    weights["table"].data[7, 3] = bad
    poisoned = native(plan, weights, isa=isa, threads=threads, num_blocks=4, weight_format=weight_format).run(step)
    assert np.flatnonzero(poisoned.ok == 0).tolist() == [7]
    others = np.arange(12) != 7
    np.testing.assert_array_equal(poisoned.token_ids[others], clean.token_ids[others])
