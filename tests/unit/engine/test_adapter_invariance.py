"""Batch invariance with adapters: a request gives the same bits alone and beside requests with other adapters or none,
with shared prefixes, preemptions, guesses and any number of threads.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from tests.unit.engine.test_invariance import (
    NATIVE_BLOCK_SIZE,
    VOCAB_SIZE,
    Answer,
    Request,
    answer,
    check,
    load,
    needs_native,
)
from tests.unit.engine.tiny import BLOCK_SIZE
from tripos.engine.block_pool import PrefixIdentity
from tripos.engine.scheduler import SchedulerOptions
from tripos.engine.sequence import Sequence
from tripos.plan.ir import LowRank, WeightTensor
from tripos.runtime.executor import Executor, ExecutorOptions
from tripos.runtime.native import NativeExecutor
from tripos.testing import ScriptedExecutor
from tripos.types import Priority, Sampling

NUM_ADAPTERS = 3


@dataclass(frozen=True)
class Adapted(Request):
    """A request for the adapter in a slot."""

    slot: int

    def sequence(self, priority: Priority = Priority.ONLINE) -> Sequence:
        sequence = super().sequence(priority)
        sequence.adapter_slot = self.slot
        sequence.identity = PrefixIdentity(adapter=f"digest {self.slot}" if self.slot >= 0 else "").encode()
        return sequence


def adapted(i: int, request: Request) -> Request:
    """A quarter of them has no adapter."""
    return Adapted(request.prompt, request.sampling, request.seed, request.prompt_logprobs, i % (NUM_ADAPTERS + 1) - 1)


def scripted(threads: int = 1) -> ScriptedExecutor:
    executor = ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE))
    empty = WeightTensor("t", "f32", (1, 1), np.zeros((1, 1), np.float32))
    for slot in range(NUM_ADAPTERS):
        executor.load_adapter(slot, {"w": LowRank(empty, empty, 1.0 + slot)})
    return executor


def native(threads: int, weights: str = "fp32") -> Executor:
    options = ExecutorOptions(
        block_size=NATIVE_BLOCK_SIZE, max_num_tokens=512, threads=threads, weights=weights, max_adapters=NUM_ADAPTERS
    )
    return load(NativeExecutor(options), "llama", num_adapters=NUM_ADAPTERS)


def test_the_engine_mixes_no_adapters_up() -> None:
    check(scripted, 6, vary=adapted)


def test_a_prefix_shared_between_adapters_would_be_noticed() -> None:
    """The negative control: sequences that do not tell their adapter in their identity."""

    @dataclass(frozen=True)
    class Careless(Adapted):
        def sequence(self, priority: Priority = Priority.ONLINE) -> Sequence:
            sequence = super().sequence(priority)
            sequence.identity = b""
            return sequence

    with pytest.raises(AssertionError, match="failed inside the engine"):
        check(scripted, 4, vary=lambda i, r: Careless(**vars(adapted(i, r))))


@needs_native
@pytest.mark.parametrize("weights", ["fp32", "int8", "int4"])
def test_same_tokens_and_logprobs_alone_and_beside_other_adapters(weights: str) -> None:
    check(lambda threads: native(threads, weights), 5, vary=adapted)


@needs_native
def test_without_adapters_as_on_a_model_that_takes_none() -> None:
    prompt = tuple(range(40))
    requests = [Request(prompt, Sampling(temperature=t, logprobs=3), 7, 2) for t in (0.0, 1.0)]

    def answers(executor: Executor, beside: list[Request]) -> list[Answer]:
        executor.reserve(64)
        found = answer(executor, [*requests, *beside], 64, SchedulerOptions(), Counter())
        executor.close()
        return found[: len(requests)]

    plain = ExecutorOptions(block_size=NATIVE_BLOCK_SIZE, max_num_tokens=512, threads=2)
    want = answers(load(NativeExecutor(plain), "llama"), [])
    others = [Adapted(prompt, Sampling(temperature=0.5), 3, None, slot) for slot in range(NUM_ADAPTERS)]
    assert answers(native(2), others) == want
    assert answers(native(2), []) == want
