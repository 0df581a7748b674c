"""Every architecture, on every executor, gives what its original implementation gave (see make_golden.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.models.driver import (
    BLOCK_SIZE,
    TOLERANCE,
    Golden,
    continue_together,
    golden_names,
    relative_error,
    run_in_chunks,
)
from tripos.models.registry import check_weights, trace
from tripos.plan.passes import optimize
from tripos.runtime.executor import Executor, ExecutorOptions
from tripos.runtime.native import NativeExecutor, find_library
from tripos.runtime.reference import ReferenceExecutor

OPTIONS = ExecutorOptions(
    block_size=BLOCK_SIZE, max_num_tokens=64, max_num_rows=64, threads=2,
    weights="fp32", kv_cache="fp32", keep_logits=True,
)  # fmt: skip


def load_as_traced(golden: Golden) -> Executor:
    executor = ReferenceExecutor(OPTIONS)
    executor.load(trace(golden.config), golden.weights)
    return executor


def load_optimized(golden: Golden) -> Executor:
    executor = ReferenceExecutor(OPTIONS)
    executor.load(optimize(trace(golden.config)), golden.weights)
    return executor


def load_native(golden: Golden) -> Executor:
    if find_library() is None:
        pytest.skip("needs the native kernels: make build, or TRIPOS_NATIVE_LIBRARY")
    executor = NativeExecutor(OPTIONS)
    executor.load(optimize(trace(golden.config)), golden.weights)
    return executor


LOADERS: dict[str, Callable[[Golden], Executor]] = {
    "reference": load_as_traced,
    "reference-optimized": load_optimized,
    "native": load_native,
}


@pytest.fixture(scope="module", params=golden_names())
def golden(request: pytest.FixtureRequest) -> Golden:
    return Golden(request.param)


@pytest.fixture(scope="module", params=LOADERS)
def executor(request: pytest.FixtureRequest, golden: Golden) -> Iterator[Executor]:
    executor = LOADERS[request.param](golden)
    yield executor
    executor.close()


def test_checkpoint_fits_the_plan_and_nothing_is_left_over(golden: Golden) -> None:
    assert check_weights(trace(golden.config), golden.weights) == ()


@pytest.mark.parametrize("chunk", [64, 5, 1], ids=["whole", "chunks-of-5", "one-by-one"])
def test_logits_equal_the_originals(executor: Executor, golden: Golden, chunk: int) -> None:
    for prompt, expected in zip(golden.prompts, golden.logits, strict=True):
        assert relative_error(run_in_chunks(executor, prompt, chunk), expected) < TOLERANCE


def test_greedy_continuations_equal_the_originals_in_one_ragged_batch(executor: Executor, golden: Golden) -> None:
    assert continue_together(executor, golden.prompts, len(golden.greedy[0])) == golden.greedy


def test_greedy_continuation_equals_the_originals_alone(executor: Executor, golden: Golden) -> None:
    assert continue_together(executor, golden.prompts[2:], len(golden.greedy[2])) == golden.greedy[2:]
