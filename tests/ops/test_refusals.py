"""Whatever step, plan or option it is given, the native executor answers with an error and never reads astray."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.ops.executors import native
from tests.ops.steps import Batch, random_weights
from tests.ops.test_attention import VOCAB, attention_plan, weights_for
from tests.unit.plan import small_plan
from tripos.errors import ConfigError, EnvironmentProblem, ModelRefused
from tripos.plan.ir import Plan, Weights, WeightTensor
from tripos.plan.lora import with_adapters
from tripos.plan.ops import Tracer
from tripos.plan.passes import optimize
from tripos.runtime.executor import ExecutorOptions, SamplingInput, StepInput
from tripos.runtime.native import ABI, NativeExecutor, about, load_library, ops
from tripos.runtime.plan_bytes import WeightTable, encode_plan

ARRAYS = ("token_ids", "positions", "query_start", "seq_lens", "block_tables", "slots", "last_rows")
SAMPLING_ARRAYS = (
    "forced_token", "num_logprobs", "history_start", "history_ids", "bias_start", "bias_ids", "mask_row",
    "requested_start", "requested_ids",
)  # fmt: skip


def small_step() -> tuple[NativeExecutor, StepInput]:
    plan = attention_plan(4, 2, 16)
    batch = Batch((70, 5), VOCAB)
    start, ids = np.arange(76, dtype=np.int32), np.ones(75, np.int32)
    sampling = replace(
        SamplingInput.greedy(75),
        history_start=start,
        history_ids=ids,
        history_counts=ids,
        bias_start=start.copy(),
        bias_ids=ids.copy(),
        bias_values=np.ones(75, np.float32),
        requested_start=start.copy(),
        requested_ids=ids.copy(),
    )
    return native(plan, weights_for(plan), num_blocks=batch.num_blocks), batch.step({0: 70, 1: 5}, sampling=sampling)


EXECUTOR, STEP = small_step()
EXPECTED = EXECUTOR.run(STEP).token_ids


@settings(max_examples=300, deadline=None)
def array_of(name: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = getattr(STEP.sampling if name in SAMPLING_ARRAYS else STEP, name)
    return array


def step_with(name: str, array: npt.NDArray[Any]) -> StepInput:
    """STEP with another array."""
    if name in SAMPLING_ARRAYS:
        return replace(STEP, sampling=replace(STEP.sampling, **{name: array}))
    return replace(STEP, **{name: array})  # type: ignore[arg-type]


@given(
    name=st.sampled_from(ARRAYS + SAMPLING_ARRAYS),
    at=st.integers(0, 10**6),
    value=st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-3, 100)),
)
def test_a_step_with_one_wrong_number_is_refused_or_harmless(name: str, at: int, value: int) -> None:
    array = array_of(name).copy()
    array.reshape(-1)[at % array.size] = value
    step = step_with(name, array)
    assume(name != "num_logprobs" or value < 10**5)  # the output itself must fit in memory
    with contextlib.suppress(ValueError):
        out = EXECUTOR.run(step)
        assert ((out.token_ids >= 0) & (out.token_ids < 64)).all()
    unchanged = EXECUTOR.run(STEP)
    np.testing.assert_array_equal(unchanged.token_ids, EXPECTED)


@pytest.mark.parametrize("name", [*ARRAYS[1:-1], *SAMPLING_ARRAYS])
def test_arrays_of_the_wrong_length_are_refused(name: str) -> None:
    step = step_with(name, array_of(name)[:-1])
    with pytest.raises(ValueError, match=r"step: "):
        EXECUTOR.run(step)


def test_arrays_of_the_step_before_are_taken_anew_where_they_changed() -> None:
    executor, step = small_step()
    want = executor.run(step).token_ids
    assert np.array_equal(executor.run(step).token_ids, want)  # the very same arrays
    with pytest.raises(ValueError, match="positions"):
        executor.run(replace(step, seq_lens=step.seq_lens.astype(np.int64) + 1))
    with pytest.raises(ValueError, match="temperature"):
        executor.run(replace(step, sampling=replace(step.sampling, temperature=np.zeros(3, np.float32))))
    step.sampling.bias_values[:] = 1e9  # changed in place, seen all the same
    assert (executor.run(step).token_ids == step.sampling.bias_ids).all()


def test_a_step_larger_than_promised_is_refused() -> None:
    plan = attention_plan(4, 2, 16)
    executor = NativeExecutor(ExecutorOptions(max_num_tokens=4, kv_cache="fp32"))
    executor.load(plan, weights_for(plan))
    executor.reserve(4)
    with pytest.raises(ValueError, match="max_num_tokens = 4"):
        executor.run(Batch((5,), VOCAB).step({0: 5}))


def test_blocks_that_were_not_reserved_are_refused() -> None:
    plan = attention_plan(4, 2, 16)
    executor = native(plan, weights_for(plan), num_blocks=1)
    batch = Batch((40,), VOCAB)
    with pytest.raises(ValueError, match="block_tables"):
        executor.run(batch.step({0: 40}))


def test_calls_out_of_order_are_refused() -> None:
    executor = NativeExecutor()
    with pytest.raises(ValueError, match="load"):
        executor.run(STEP)
    with pytest.raises(EnvironmentProblem, match="load"):
        executor.reserve(1)
    executor.close()
    executor.close()
    with pytest.raises(ValueError, match="closed"):
        executor.run(STEP)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (ExecutorOptions(isa="avx1024"), "isa"),
        (ExecutorOptions(kv_cache="fp12"), "kv_cache"),
        (ExecutorOptions(block_size=24), "block_size"),
        (ExecutorOptions(max_num_tokens=0), "max_num_tokens"),
        (ExecutorOptions(threads=100_000), "threads"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: ExecutorOptions, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        NativeExecutor(options)


def test_a_checkpoint_that_does_not_fit_the_plan_is_refused() -> None:
    t = Tracer()
    plan = t.plan(t.select(t.linear(t.embed("table", 10, 8), "w", 6)), vocab_size=6)
    good = random_weights(plan, np.random.default_rng(0))
    executor = NativeExecutor(ExecutorOptions(weights="int13"))
    with pytest.raises(ModelRefused, match="int13"):
        executor.load(plan, good)
    executor = NativeExecutor()
    with pytest.raises(ModelRefused, match="no tensor w"):
        executor.load(plan, {"table": good["table"]})
    short = WeightTensor("w", "f32", (6, 7), np.zeros((6, 7), np.float32))
    with pytest.raises(ModelRefused, match=r"w: .*42 values"):
        executor.load(plan, {**good, "w": short})
    lying = WeightTensor("w", "f32", (6, 8), np.zeros((6, 7), np.float32))
    with pytest.raises(ModelRefused, match="168 bytes"):
        executor.load(plan, {**good, "w": lying})
    executor.load(plan, good)


def test_a_missing_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIPOS_NATIVE_LIBRARY", "/nowhere/lib.so")
    with pytest.raises(EnvironmentProblem, match="not built"):
        load_library()


def small_decoder() -> tuple[Plan, Weights]:
    """A plan of every op that a decoder has once passes and adapters are through with it."""
    traced = small_plan.decoder(has_bias=True)
    return with_adapters(optimize(traced), 4), small_plan.weights(traced)


def test_a_plan_that_writes_over_what_it_reads_later_is_refused() -> None:
    t = Tracer()
    x = t.embed("table", 9, 8)
    y = t.linear(t.norm(x, "n", eps=1e-5), "w", 8)
    plan = t.plan(t.select(t.add(t.add(x, y), x)), vocab_size=8)
    embed, norm, linear, total, *rest = plan.ops
    attrs = {"epilogue": "add", "interleaved": False}
    fused = linear.with_(inputs=(*linear.inputs, total.inputs[0]), outputs=total.outputs, attrs=attrs)
    with pytest.raises(ModelRefused, match=r"\(linear\): residual is read later"):
        native(replace(plan, ops=(embed, norm, fused, *rest)), random_weights(plan, np.random.default_rng(0)))


DECODER, DECODER_WEIGHTS = small_decoder()
TABLE = WeightTable(DECODER, DECODER_WEIGHTS, about())
ENCODED = np.frombuffer(encode_plan(DECODER, TABLE, ops(), ABI), np.int32)


@settings(max_examples=400, deadline=None)
@given(
    at=st.integers(0, len(ENCODED) - 1),
    value=st.one_of(st.integers(-2, 80), st.sampled_from([-(2**31), 2**31 - 1, 2**30])),
)
def test_a_plan_with_one_wrong_number_is_refused_or_harmless(at: int, value: int) -> None:
    encoded = ENCODED.copy()
    encoded[at] = value
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(ModelRefused, EnvironmentProblem, ValueError):
        patch.setattr("tripos.runtime.native.encode_plan", lambda *_: encoded.tobytes())
        executor = NativeExecutor(ExecutorOptions(max_num_tokens=16, max_num_rows=16, threads=2, max_adapters=1))
        executor.load(DECODER, DECODER_WEIGHTS)
        executor.reserve(2)
        executor.run(Batch((7,), 8).step({0: 7}))
