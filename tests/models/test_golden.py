"""Every architecture, on every executor, gives what its original implementation gave (see make_golden.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
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
from tripos.runtime.native import NativeExecutor, about, find_library
from tripos.runtime.reference import ReferenceExecutor

OPTIONS = ExecutorOptions(
    block_size=BLOCK_SIZE, max_num_tokens=64, max_num_rows=64, threads=2,
    weights="fp32", kv_cache="fp32", keep_logits=True,
)  # fmt: skip


def load_reference(golden: Golden, *, optimized: bool) -> Executor:
    plan = trace(golden.config)
    executor = ReferenceExecutor(OPTIONS)
    executor.load(optimize(plan) if optimized else plan, golden.weights)
    return executor


def load_native(golden: Golden, **options: str) -> Executor:
    if find_library() is None:
        pytest.skip("needs the native kernels: install the package, or set TRIPOS_NATIVE_LIBRARY to the library")
    isa = options.get("isa", "auto")
    if isa not in ("auto", *about()["isas"].split(",")):
        pytest.skip(f"needs a CPU with {isa}")
    executor = NativeExecutor(replace(OPTIONS, **options))
    executor.load(optimize(trace(golden.config)), golden.weights)
    return executor


LOADERS: dict[str, Callable[[Golden], Executor]] = {
    "reference-as-traced": partial(load_reference, optimized=False),
    "reference-optimized": partial(load_reference, optimized=True),
    "native-scalar": partial(load_native, isa="scalar"),
    "native-avx2": partial(load_native, isa="avx2"),
    "native-avx512": partial(load_native, isa="avx512"),
}
# How far whole models of 32 columns may stray in coarser formats. The formats themselves are tested in tests/ops.
COARSER: dict[str, tuple[dict[str, str], float]] = {
    "weights-fp16": ({"weights": "fp16"}, 0.01),
    "weights-bf16": ({"weights": "bf16"}, 0.06),
    "weights-int8": ({"weights": "int8"}, 0.3),
    "cache-fp16": ({"kv_cache": "fp16"}, 0.01),
    "cache-int8": ({"kv_cache": "int8"}, 0.12),
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


@pytest.mark.parametrize("name", COARSER)
def test_coarser_formats_stay_near_and_give_the_same_bits_in_any_chunks(golden: Golden, name: str) -> None:
    options, tolerance = COARSER[name]
    if name == "weights-fp16" and about()["isas"].startswith("amx"):  # multiplies what is rounded to bf16
        tolerance = COARSER["weights-bf16"][1]
    executor = load_native(golden, **options)
    whole = run_in_chunks(executor, golden.prompts[2], 64)
    assert relative_error(whole, golden.logits[2]) < tolerance
    for chunk in (1, 5):
        assert np.array_equal(run_in_chunks(executor, golden.prompts[2], chunk), whole)
    executor.close()
