"""Each op of the native executor against its definition, at the edges of the shapes that kernels treat differently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.ops.executors import assert_close, logits_of, native, reference
from tests.ops.steps import Batch, random_blocks, random_weights
from tripos.plan.formats import FORMATS, float32_to_bf16
from tripos.plan.ir import Plan, View, WeightTensor
from tripos.plan.ops import ACTIVATIONS, Tracer
from tripos.plan.passes import optimize

VOCAB = 50
# Around one and two vectors of each instruction set, and a row of a real model.
WIDTHS = (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 576)


def plan_of(width: int, body: Callable[[Tracer, View], View], inputs: int = 1) -> Plan:
    """body over token embeddings of `width` columns; its output is the plan's."""
    t = Tracer()
    x = body(t, t.embed("table", VOCAB, width * inputs))
    return t.plan(t.select(x), vocab_size=x.cols)


def columns(x: View, start: int, cols: int) -> View:
    return View(x.tensor, x.offset + start, cols)


def check(plan: Plan, isa: str, threads: int, *, lengths: tuple[int, ...] = (5, 1), terms: int = 1) -> None:
    weights = random_weights(plan, np.random.default_rng(1))
    step = Batch(lengths, VOCAB).step(dict(enumerate(lengths)))
    want = logits_of(reference(plan, weights, num_blocks=20), step)
    got = logits_of(native(plan, weights, isa=isa, threads=threads, num_blocks=20), step)
    assert got.shape == want.shape
    assert_close(got, want, terms=terms)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_norm(isa: str, threads: int, width: int, kind: str) -> None:
    plan = plan_of(width, lambda t, x: t.norm(x, "w", eps=1e-5, kind=kind, bias="b" if kind == "layer" else None))
    check(plan, isa, threads, terms=width)


@pytest.mark.parametrize("head_dim", [1, 8, 16, 64, 80])
def test_norm_per_head(isa: str, head_dim: int) -> None:
    check(plan_of(3 * head_dim, lambda t, x: t.norm(x, "w", eps=1e-6, group=head_dim)), isa, 2, terms=head_dim)


@pytest.mark.parametrize("width", [1, 8, 33, 576])
def test_add_norm_gives_sum_and_normed(isa: str, width: int) -> None:
    def body(t: Tracer, x: View) -> View:
        total = t.add(columns(x, 0, width), columns(x, width, width))
        return t.add(total, t.norm(total, "w", eps=1e-5))

    plan = plan_of(width, body, inputs=2)
    fused = optimize(plan)
    assert "add_norm" in [op.kind for op in fused.ops]
    check(fused, isa, 1, terms=width)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations(isa: str, width: int, act: str) -> None:
    check(plan_of(width, lambda t, x: t.act(x, act=act)), isa, 1)
    pair = plan_of(width, lambda t, x: t.glu(columns(x, 0, width), columns(x, width, width), act=act), inputs=2)
    check(pair, isa, 1)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_of_large_values(isa: str, act: str) -> None:
    plan = plan_of(9, lambda t, x: t.act(x, act=act))
    values = np.linspace(-120, 120, VOCAB * 9, dtype=np.float32).reshape(VOCAB, 9)
    weights = {"table": WeightTensor("table", "f32", values.shape, values)}
    step = Batch((VOCAB,), VOCAB).step({0: VOCAB})
    with np.errstate(over="ignore"):
        want = logits_of(reference(plan, weights, num_blocks=3), step)
    got = logits_of(native(plan, weights, isa=isa, num_blocks=3), step)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations_keep_what_is_not_a_number(isa: str, act: str) -> None:
    values = np.ones((VOCAB, 9), np.float32)
    values[3, :] = values[4, 8] = np.nan  # in a whole vector, and in what a row has left
    plan = plan_of(9, lambda t, x: t.act(x, act=act))
    step = Batch((VOCAB,), VOCAB).step({0: VOCAB})
    step.token_ids[:] = np.arange(VOCAB)
    weights = {"table": WeightTensor("table", "f32", values.shape, values)}
    got = logits_of(native(plan, weights, isa=isa, num_blocks=3), step)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(values))


@pytest.mark.parametrize(("head_dim", "rotary_dim"), [(2, 2), (8, 8), (16, 8), (64, 64), (80, 32), (128, 128)])
def test_rope(isa: str, threads: int, head_dim: int, rotary_dim: int) -> None:
    def body(t: Tracer, x: View) -> View:
        inv_freq = t.constant("inv_freq", 1e4 ** (-np.arange(0, rotary_dim, 2) / rotary_dim))
        return t.rope(x, head_dim=head_dim, inv_freq=inv_freq, scale=0.75)

    check(plan_of(3 * head_dim, body), isa, threads, lengths=(40, 1, 2))


def test_rope_tables_of_one_plan_stay_apart(isa: str) -> None:
    def body(t: Tracer, x: View) -> View:
        slow, fast = t.constant("slow", np.full(4, 1e-3)), t.constant("fast", np.full(4, 0.5))
        return t.add(t.rope(x, head_dim=8, inv_freq=slow), t.rope(x, head_dim=8, inv_freq=fast, scale=2.0))

    check(plan_of(16, body), isa, 2, lengths=(9,))


@pytest.mark.parametrize("dtype", sorted(FORMATS))
def test_embed_reads_every_format(isa: str, dtype: str) -> None:
    plan = plan_of(256, lambda t, x: x)
    rng = np.random.default_rng(2)
    values = rng.standard_normal((VOCAB, 256)).astype(np.float32)
    data: np.ndarray[Any, np.dtype[Any]]
    if dtype == "f32":
        data = values
    elif dtype == "f16":
        data = values.astype(np.float16)
    elif dtype == "bf16":
        data = float32_to_bf16(values)
    else:
        data = random_blocks(rng, dtype, VOCAB * 256 // FORMATS[dtype][0])
    weights = {"table": WeightTensor("table", dtype, (VOCAB, 256), data)}
    step = Batch((40,), VOCAB).step({0: 40})
    want = logits_of(reference(plan, weights, num_blocks=5), step)
    assert_close(logits_of(native(plan, weights, isa=isa, num_blocks=5), step), want)


def test_embed_of_positions_with_offset_and_scale(isa: str, threads: int) -> None:
    t = Tracer()
    x = t.add(t.embed("table", VOCAB, 24, scale=4.9), t.embed("places", 70, 24, source="positions", row_offset=2))
    plan = t.plan(t.select(x), vocab_size=24)
    check(plan, isa, threads, lengths=(60, 3))


@pytest.mark.parametrize("rows", [1, 2, 5, 17])
@pytest.mark.parametrize(("k", "n"), [(1, 1), (8, 31), (33, 32), (96, 33), (576, 100)])
def test_linear_with_bias(isa: str, threads: int, rows: int, k: int, n: int) -> None:
    check(plan_of(k, lambda t, x: t.linear(x, "w", n, bias="b")), isa, threads, lengths=(rows,), terms=k)


@pytest.mark.parametrize("threads_", [1, 2])
def test_stacked_linears_read_as_views(isa: str, threads_: int) -> None:
    def body(t: Tracer, x: View) -> View:
        a, b, c = (t.linear(x, name, 40, bias=f"{name}.bias") for name in "abc")
        return t.add(t.glu(a, b, act="silu"), c)

    plan = optimize(plan_of(48, body))
    assert [op.kind for op in plan.ops].count("linear") == 1
    check(plan, isa, threads_, lengths=(7, 3), terms=48)


def test_select_takes_the_rows_of_the_step(isa: str) -> None:
    plan = plan_of(24, lambda t, x: x)
    weights = random_weights(plan, np.random.default_rng(3))
    step = Batch((6, 1, 9), VOCAB).step({0: 6, 1: 1, 2: 9}, all_rows=False)
    want = logits_of(reference(plan, weights, num_blocks=9), step)
    np.testing.assert_array_equal(logits_of(native(plan, weights, isa=isa, threads=2, num_blocks=9), step), want)
