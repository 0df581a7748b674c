"""The ops that only encoders use, against their definition: attention without a cache, pooling, token types."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.ops.executors import assert_close, logits_of, native, reference
from tests.ops.steps import Batch, random_weights
from tripos.plan.ir import Plan, View
from tripos.plan.ops import Tracer
from tripos.plan.passes import optimize
from tripos.runtime.executor import StepInput

VOCAB = 50
LENGTHS = (5, 1, 40, 17, 2, 33)


def attention_plan(
    num_heads: int, num_kv_heads: int, head_dim: int, *, left: int = -1, right: int = -1, num_layers: int = 1
) -> Plan:
    """Every token's attention output; the rows that the step selects."""
    t = Tracer()
    x = t.embed("table", VOCAB, num_heads * head_dim)
    x = t.add(x, t.embed("places", 700, num_heads * head_dim, source="positions"))
    for layer in range(num_layers):
        q = t.linear(x, f"q.{layer}", num_heads * head_dim)
        k, v = (t.linear(x, f"{name}.{layer}", num_kv_heads * head_dim) for name in "kv")
        x = t.self_attention(
            q, k, v, num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, scale=head_dim**-0.5,
            left=left, right=right,
        )  # fmt: skip
    return t.plan(t.select(x), vocab_size=x.cols)


def whole_step(lengths: tuple[int, ...], *, all_rows: bool = True) -> StepInput:
    return Batch(lengths, VOCAB).step(dict(enumerate(lengths)), all_rows=all_rows)


@pytest.mark.parametrize(("num_heads", "num_kv_heads", "head_dim"), [(12, 12, 32), (4, 2, 64), (3, 1, 24), (2, 2, 5)])
@pytest.mark.parametrize(("left", "right"), [(-1, -1), (-1, 0), (7, 0), (8, 8), (0, 3)])
def test_self_attention(
    isa: str, threads: int, num_heads: int, num_kv_heads: int, head_dim: int, left: int, right: int
) -> None:
    plan = attention_plan(num_heads, num_kv_heads, head_dim, left=left, right=right)
    weights = random_weights(plan, np.random.default_rng(1))
    step = whole_step(LENGTHS)
    want = logits_of(reference(plan, weights, num_blocks=1), step)
    assert_close(logits_of(native(plan, weights, isa=isa, threads=threads, num_blocks=1), step), want, terms=200)


def test_causal_self_attention_is_what_attention_does_over_a_cache(isa: str) -> None:
    t = Tracer()
    x = t.embed("table", VOCAB, 48)
    cached = t.attention(x, x, x, num_heads=3, num_kv_heads=3, head_dim=16, scale=0.25)
    own = t.self_attention(x, x, x, num_heads=3, num_kv_heads=3, head_dim=16, scale=0.25, right=0)
    sums = [t.plan(t.select(y), vocab_size=48) for y in (cached, own)]
    weights = random_weights(sums[0], np.random.default_rng(2))
    batch = Batch(LENGTHS, VOCAB)
    step = batch.step(dict(enumerate(LENGTHS)))
    with_cache, without = (
        logits_of(native(p, weights, isa=isa, num_blocks=batch.num_blocks, kv_cache="fp32"), step) for p in sums
    )
    assert_close(without, with_cache, terms=48)


@pytest.mark.parametrize("head_dim", [24, 32, 64])
def test_a_sequence_has_the_same_bits_alone_and_in_any_batch(isa: str, head_dim: int) -> None:
    plan = attention_plan(4, 2, head_dim, num_layers=2)
    weights = random_weights(plan, np.random.default_rng(3))
    lengths = (3, 130, 1, 16, 64)
    step = whole_step(lengths)
    together = logits_of(native(plan, weights, isa=isa, threads=2, num_blocks=1), step)
    for b in range(len(lengths)):
        rows = slice(step.query_start[b], step.query_start[b + 1])
        own = Batch(lengths, VOCAB).step({b: lengths[b]})
        for threads in (1, 2):
            alone = logits_of(native(plan, weights, isa=isa, threads=threads, num_blocks=1), own)
            np.testing.assert_array_equal(alone, together[rows])


@pytest.mark.parametrize("width", [1, 7, 16, 33, 384])
def test_pool_is_the_mean_of_each_sequence(isa: str, threads: int, width: int) -> None:
    t = Tracer()
    plan = t.plan(t.pool(t.embed("table", VOCAB, width)), vocab_size=width)
    weights = random_weights(plan, np.random.default_rng(4))
    step = whole_step(LENGTHS, all_rows=False)
    want = logits_of(reference(plan, weights, num_blocks=1), step)
    assert_close(logits_of(native(plan, weights, isa=isa, threads=threads, num_blocks=1), step), want, terms=40)


def typed_plan() -> Plan:
    t = Tracer()
    x: View = t.add(t.embed("table", VOCAB, 24), t.embed("types", 2, 24, source="token_types"))
    return t.plan(t.select(x), vocab_size=24)


def test_token_types_pick_rows_and_none_means_the_first(isa: str) -> None:
    plan = typed_plan()
    weights = random_weights(plan, np.random.default_rng(5))
    step = whole_step((6, 3))
    executor = native(plan, weights, isa=isa, num_blocks=1)
    plain = logits_of(executor, step)
    np.testing.assert_array_equal(plain, logits_of(reference(plan, weights, num_blocks=1), step))
    typed = replace(step, token_types=np.array([0, 0, 1, 1, 1, 1, 0, 1, 1], np.int32))
    want = logits_of(reference(plan, weights, num_blocks=1), typed)
    np.testing.assert_array_equal(logits_of(executor, typed), want)
    assert not np.array_equal(want, plain)


def test_steps_that_would_read_out_of_bounds_are_refused() -> None:
    plan = typed_plan()
    executor = native(plan, random_weights(plan, np.random.default_rng(6)), num_blocks=1)
    step = whole_step((2,))
    with pytest.raises(ValueError, match=r"token_types\[1\] is 2"):
        executor.run(replace(step, token_types=np.array([0, 2], np.int32)))
    with pytest.raises(ValueError, match="token_types has 1 entries"):
        executor.run(replace(step, token_types=np.array([0], np.int32)))


def test_half_a_sequence_is_refused_where_there_is_no_cache() -> None:
    plan = attention_plan(2, 2, 8)
    executor = native(plan, random_weights(plan, np.random.default_rng(7)), num_blocks=1)
    batch = Batch((10,), VOCAB)
    batch.step({0: 4})
    with pytest.raises(ValueError, match="seq_lens"):
        executor.run(batch.step({0: 6}))


def test_pooling_gives_one_row_per_sequence() -> None:
    t = Tracer()
    plan = t.plan(t.pool(t.embed("table", VOCAB, 8)), vocab_size=8)
    executor = native(plan, random_weights(plan, np.random.default_rng(8)), num_blocks=1)
    with pytest.raises(ValueError, match="5 rows for 2 sequences"):
        executor.run(whole_step((3, 2)))


MANY = tuple(1 + 7 * i % 31 for i in range(60))  # enough tokens for slices of their own per thread


def encoder_plan(*, pools: bool) -> Plan:
    """A layer of everything that an encoder has, and one row per sequence."""
    t = Tracer()
    x = t.add(t.embed("table", VOCAB, 48), t.embed("places", 700, 48, source="positions"))
    x = t.add(x, t.embed("types", 2, 48, source="token_types"))
    q, k, v = (t.linear(x, name, 48, bias=f"{name}.bias") for name in "qkv")
    x = t.add(x, t.self_attention(q, k, v, num_heads=4, num_kv_heads=4, head_dim=12, scale=12**-0.5))
    x = t.norm(x, "norm", bias="norm.bias", eps=1e-6, kind="layer")
    wide = t.act(t.linear(x, "wide", 100, bias="wide.bias"), act="gelu")
    x = t.add(x, t.linear(wide, "narrow", 48, bias="narrow.bias"))
    return optimize(t.plan(t.pool(x) if pools else t.select(x), vocab_size=48))


@pytest.mark.parametrize("pools", [True, False], ids=["pool", "select"])
@pytest.mark.parametrize("weight_format", ["fp32", "int8"])
def test_slices_of_a_step_have_the_bits_of_each_sequence_alone(
    isa: str, threads: int, pools: bool, weight_format: str
) -> None:
    plan = encoder_plan(pools=pools)
    weights = random_weights(plan, np.random.default_rng(9))
    step = whole_step(MANY, all_rows=False)
    types = np.arange(len(step.token_ids), dtype=np.int32) % 2
    executor = native(plan, weights, isa=isa, threads=threads, weight_format=weight_format)
    together = logits_of(executor, replace(step, token_types=types))
    if weight_format == "fp32":
        want = logits_of(reference(plan, weights), replace(step, token_types=types))
        assert_close(together, want, terms=400)
    for b in (0, 1, 17, 30, 59):
        own = Batch(MANY, VOCAB).step({b: MANY[b]}, all_rows=False)
        rows = slice(step.query_start[b], step.query_start[b + 1])
        alone = logits_of(executor, replace(own, token_types=types[rows]))
        np.testing.assert_array_equal(alone[0], together[b])


def test_slices_count_every_row_once_and_in_place(isa: str, threads: int) -> None:
    plan = encoder_plan(pools=False)
    weights = random_weights(plan, np.random.default_rng(10))
    executor = native(plan, weights, isa=isa, threads=threads)
    lengths = (*(3,) * 90, 400, *(5,) * 90, 130)
    step = whole_step(lengths, all_rows=False)
    assert_close(logits_of(executor, step), logits_of(reference(plan, weights), step), terms=400)


@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "silu", "relu", "tanh"])
def test_an_activation_right_after_a_linear(isa: str, act: str) -> None:
    t = Tracer()
    y = t.act(t.linear(t.embed("table", VOCAB, 40), "w", 70, bias="b"), act=act)
    plan = optimize(t.plan(t.select(y), vocab_size=70))
    weights = random_weights(plan, np.random.default_rng(11))
    weights["table"].data[:] *= np.linspace(0.01, 12, VOCAB, dtype=np.float32)[:, None]  # into both tails
    step = whole_step(LENGTHS)
    assert_close(logits_of(native(plan, weights, isa=isa), step), logits_of(reference(plan, weights), step), terms=64)
