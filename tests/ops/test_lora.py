"""Low-rank adapters: the native shrink and expand against the reference, and that rows do not touch each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.ops.adapters import random_adapter
from tests.ops.executors import assert_close, logits_of, native, reference
from tests.ops.steps import Batch, random_weights
from tests.ops.test_fused_linears import VOCAB, mlp_plan
from tests.unit.plan import small_plan
from tripos.errors import ModelRefused
from tripos.plan.formats import to_float32
from tripos.plan.ir import Adapter, LowRank, Plan, Weights, WeightTensor
from tripos.plan.lora import with_adapters
from tripos.plan.passes import optimize
from tripos.runtime.executor import Executor, ExecutorOptions, StepInput
from tripos.runtime.native import NativeExecutor
from tripos.runtime.reference import ReferenceExecutor

LENGTHS = (13, 1, 6, 9, 1)


def loaded(executor: Executor, plan: Plan, weights: Weights, adapters: list[Adapter]) -> Executor:
    executor.load(plan, weights)
    executor.reserve(16)
    for slot, adapter in enumerate(adapters):
        executor.load_adapter(slot, adapter)
    return executor


def options(isa: str = "auto", threads: int = 1, weight_format: str = "fp32") -> ExecutorOptions:
    return ExecutorOptions(
        max_num_tokens=256, max_num_rows=256, threads=threads, weights=weight_format, kv_cache="fp32", isa=isa,
        keep_logits=True, max_adapters=4,
    )  # fmt: skip


def step_of(slots: list[int], vocab_size: int = VOCAB) -> StepInput:
    """Sequences of LENGTHS, each with the adapter of its slot."""
    step = Batch(LENGTHS, vocab_size).step(dict(enumerate(LENGTHS)))
    return replace(step, adapter_slots=np.array(slots, np.int32))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize(("width", "inner", "rank"), [(8, 1, 1), (24, 17, 3), (64, 48, 16), (40, 100, 33)])
def test_gated_layers(isa: str, threads: int, dtype: str, width: int, inner: int, rank: int) -> None:
    plan = with_adapters(mlp_plan(width, inner, "silu"), 33)
    weights = random_weights(plan, np.random.default_rng(2))
    adapters = [
        random_adapter(plan, weights, 1, rank=rank, dtype=dtype),
        random_adapter(plan, weights, 2, rank=1, dtype=dtype, targets=lambda name: "up" in name or "a.down" in name),
    ]
    step = step_of([0, 1, -1, 0, 1])
    want = logits_of(loaded(ReferenceExecutor(options()), plan, weights, adapters), step)
    got = logits_of(loaded(NativeExecutor(options(isa, threads)), plan, weights, adapters), step)
    assert_close(got, want, terms=200)


@pytest.mark.parametrize("has_bias", [False, True])
def test_whole_decoder(isa: str, threads: int, has_bias: bool) -> None:
    """Stacked q/k/v, residual sums done by linears, and a last layer that works on sampled rows."""
    traced = small_plan.decoder(has_bias=has_bias)
    weights = small_plan.weights(traced)
    plan = with_adapters(optimize(traced), 8)
    adapters = [
        random_adapter(plan, weights, 3, rank=8),
        random_adapter(plan, weights, 4, rank=5, targets=lambda name: name.endswith((".q", ".v"))),
    ]
    step = step_of([1, 0, -1, 1, 0], small_plan.VOCAB)
    step = replace(step, last_rows=step.query_start[1:] - 1, sampling=step.sampling.greedy(len(LENGTHS)))
    want = logits_of(loaded(ReferenceExecutor(options()), plan, weights, adapters), step)
    got = logits_of(loaded(NativeExecutor(options(isa, threads)), plan, weights, adapters), step)
    assert_close(got, want, terms=400)


def merged(weights: Weights, adapter: Adapter) -> Weights:
    """The checkpoint with an adapter's products added to its matrices."""
    result = dict(weights)
    for name, low in adapter.items():
        product = low.scale * (to_float32(low.b) @ to_float32(low.a))
        result[name] = replace(weights[name], data=(to_float32(weights[name]) + product).astype(np.float32))
    return result


def test_as_the_merged_weights(isa: str) -> None:
    """The reference's own meaning: W + scale · B A, for the whole plan and the optimized one."""
    traced = small_plan.decoder()
    weights = small_plan.weights(traced)
    plan = with_adapters(optimize(traced), 8)
    adapter = random_adapter(plan, weights, 3, rank=8)
    step = step_of([0] * len(LENGTHS), small_plan.VOCAB)
    want = logits_of(reference(traced, merged(weights, adapter), num_blocks=16), step)
    unlike = logits_of(reference(traced, weights, num_blocks=16), step)
    assert np.abs(unlike - want).max() > 0.1 * np.abs(want).max()
    for executor in (ReferenceExecutor(options()), NativeExecutor(options(isa))):
        assert_close(logits_of(loaded(executor, plan, weights, [adapter]), step), want, terms=400)


@pytest.mark.parametrize("weight_format", ["fp32", "bf16", "int8", "int4", "fp8"])
def test_rows_are_the_same_in_any_mix(isa: str, threads: int, weight_format: str) -> None:
    """Bit-equal: a row without an adapter as on an executor without adapters, a row with one as alone."""
    base = mlp_plan(64, 96, "silu")
    plan = with_adapters(base, 16)
    weights = random_weights(plan, np.random.default_rng(5))
    adapters = [random_adapter(plan, weights, seed, rank=16, dtype="bf16") for seed in range(3)]
    executor = loaded(NativeExecutor(options(isa, threads, weight_format)), plan, weights, adapters)
    plain = logits_of(
        native(base, weights, isa=isa, threads=threads, weight_format=weight_format, num_blocks=16), step_of([-1] * 5)
    )
    alone = [logits_of(executor, step_of([slot] * 5)).copy() for slot in range(3)]
    np.testing.assert_array_equal(logits_of(executor, step_of([-1] * 5)), plain)
    starts = np.cumsum((0, *LENGTHS))
    for slots in ([0, -1, 2, 1, 0], [2, 2, -1, -1, 1], [-1, 0, 1, 0, 2]):
        got = logits_of(executor, step_of(slots))
        for b, slot in enumerate(slots):
            rows = slice(starts[b], starts[b + 1])
            np.testing.assert_array_equal(got[rows], (plain if slot < 0 else alone[slot])[rows])


def test_a_long_prompt_beside_others_is_the_same(isa: str, threads: int) -> None:
    """More rows than one task holds, and more than one chunk of an adapter."""
    plan = with_adapters(mlp_plan(16, 40, "gelu_tanh"), 8)
    weights = random_weights(plan, np.random.default_rng(5))
    adapters = [random_adapter(plan, weights, seed, rank=8) for seed in range(2)]
    executor = loaded(NativeExecutor(options(isa, threads)), plan, weights, adapters)
    batch = Batch((150, 3, 90), VOCAB)
    step = replace(batch.step({0: 150, 1: 3, 2: 90}), adapter_slots=np.array([0, -1, 1], np.int32))
    together = logits_of(executor, step).copy()
    want = logits_of(loaded(ReferenceExecutor(options()), plan, weights, adapters), step)
    assert_close(together, want, terms=200)
    for b, rows in ((0, slice(0, 150)), (1, slice(150, 153)), (2, slice(153, 243))):
        single = Batch((150, 3, 90), VOCAB).step({b: (150, 3, 90)[b]})
        single = replace(single, adapter_slots=step.adapter_slots[b : b + 1])
        np.testing.assert_array_equal(logits_of(executor, single), together[rows])


def test_a_slot_is_replaced_and_freed(isa: str) -> None:
    plan = with_adapters(mlp_plan(24, 17, "silu"), 8)
    weights = random_weights(plan, np.random.default_rng(2))
    first, second = (random_adapter(plan, weights, seed, rank=3) for seed in (1, 2))
    executor = loaded(NativeExecutor(options(isa)), plan, weights, [first])
    step = step_of([0] * 5)
    executor.load_adapter(0, second)
    want = logits_of(loaded(NativeExecutor(options(isa)), plan, weights, [second]), step)
    np.testing.assert_array_equal(logits_of(executor, step), want)
    executor.load_adapter(0, {})
    with pytest.raises(ValueError, match="adapter_slots\\[0\\] is 0, which holds no adapter"):
        executor.run(step)
    with pytest.raises(ValueError, match="adapter_slots"):
        executor.run(step_of([4] * 5))
    with pytest.raises(ValueError, match="adapter_slots"):
        executor.run(step_of([-2] * 5))


@pytest.mark.parametrize("make", [ReferenceExecutor, NativeExecutor])
def test_what_does_not_fit_is_refused(make: type[ReferenceExecutor] | type[NativeExecutor]) -> None:
    plan = with_adapters(mlp_plan(24, 17, "silu"), 8)
    weights = random_weights(plan, np.random.default_rng(2))
    executor = loaded(make(options()), plan, weights, [])
    good = random_adapter(plan, weights, 1, rank=3)["a.gate"]

    def tensor(dtype: str, *shape: int) -> WeightTensor:
        return WeightTensor("t", dtype, shape, np.zeros(shape, np.float32 if dtype == "f32" else np.uint16))

    wrong: list[tuple[str, LowRank, str]] = [
        ("a.norm", good, "not a linear layer"),
        ("a.gate", replace(good, a=tensor("f32", 3, 23)), "trained on another model"),
        ("a.gate", replace(good, b=tensor("f32", 16, 3)), "trained on another model"),
        ("a.gate", replace(good, b=tensor("f32", 17, 2)), "trained on another model"),
        ("a.gate", replace(good, a=tensor("f32", 17, 24), b=tensor("f32", 17, 17)), "rank for a.gate is 17"),
        ("a.gate", replace(good, a=tensor("bf16", 3, 24)), "use f32 or bf16"),
    ]
    for name, low, message in wrong:
        with pytest.raises(ModelRefused, match=message):
            executor.load_adapter(0, {name: low})
    for slot in (-1, 4):
        with pytest.raises(ModelRefused, match="slot"):
            executor.load_adapter(slot, {"a.gate": good})
