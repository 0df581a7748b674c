"""Both executors on one plan, and how far apart float32 arithmetic in another order may put them."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from tripos.plan.ir import Plan, Weights
from tripos.runtime.executor import Executor, ExecutorOptions, StepInput
from tripos.runtime.native import NativeExecutor
from tripos.runtime.reference import ReferenceExecutor

F32 = npt.NDArray[np.float32]
E = TypeVar("E", bound=Executor)


def native(
    plan: Plan, weights: Weights, *, isa: str = "auto", threads: int = 1, num_blocks: int = 1,
    kv_cache: str = "fp32", weight_format: str = "fp32", block_size: int = 32,
) -> NativeExecutor:  # fmt: skip
    options = ExecutorOptions(
        block_size=block_size, max_num_tokens=4096, max_num_rows=4096, threads=threads, weights=weight_format,
        kv_cache=kv_cache, isa=isa, keep_logits=True,
    )  # fmt: skip
    return _ready(NativeExecutor(options), plan, weights, num_blocks)


def reference(plan: Plan, weights: Weights, *, num_blocks: int = 1, block_size: int = 32) -> ReferenceExecutor:
    options = ExecutorOptions(block_size=block_size, keep_logits=True)
    return _ready(ReferenceExecutor(options), plan, weights, num_blocks)


def _ready(executor: E, plan: Plan, weights: Weights, num_blocks: int) -> E:
    executor.load(plan, weights)
    executor.reserve(num_blocks)
    return executor


def logits_of(executor: Executor, step: StepInput) -> F32:
    logits = executor.run(step).logits
    assert logits is not None
    return logits


def assert_close(got: F32, want: F32, *, terms: int = 1, error: float = 2.0**-23) -> None:
    """Within what `terms` roundings of relative size `error` can do to the largest value, random-walk fashion."""
    tolerance = 8 * error * np.sqrt(terms) * max(float(np.abs(want).max()), 1e-6)
    worst = float(np.abs(got - want).max())
    assert worst <= tolerance, f"differs by {worst:.3g}, tolerance {tolerance:.3g}"
