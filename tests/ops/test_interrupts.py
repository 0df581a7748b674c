"""What is raised while a load tells of its progress ends the load, and the executor can load again."""

from __future__ import annotations

import random
import signal
import threading
import time
from types import FrameType

import numpy as np
import pytest

from tests.ops.executors import logits_of, native
from tests.ops.steps import Batch, random_weights
from tests.ops.test_fused_linears import VOCAB, mlp_plan

PLAN = mlp_plan(128, 512, "silu")
WEIGHTS = random_weights(PLAN, np.random.default_rng(0))


class Struck(BaseException):
    """In place of KeyboardInterrupt, which would end the test run where it is lost."""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Struck(), ValueError("the bar fell over")])
def test_what_progress_raises_ends_the_load_and_a_later_load_works(
    error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[float] = []

    def tell(done: float) -> None:
        told.append(done)
        raise error

    batch = Batch((5,), VOCAB)
    step = batch.step({0: 5})
    executor = native(PLAN, WEIGHTS, num_blocks=batch.num_blocks)
    expected = logits_of(executor, step)
    with pytest.raises(type(error)) as raised:
        executor.load(PLAN, WEIGHTS, tell)
    assert raised.value is error
    assert (len(told), told[0] < 1.0) == (1, True)  # it did not go on
    with pytest.raises(ValueError, match="load"):
        executor.run(step)
    executor.load(PLAN, WEIGHTS)
    executor.reserve(batch.num_blocks)
    assert np.array_equal(logits_of(executor, step), expected)
    assert not capfd.readouterr().err


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_what_a_signal_raises_at_any_moment_of_a_load_is_not_lost() -> None:
    """Its handler runs as soon as this thread runs Python: also at the start of what C++ calls."""
    executor, moments, main = native(PLAN, WEIGHTS), random.Random(0), threading.get_ident()
    num_raised = 0

    def strike(number: int, frame: FrameType | None) -> None:
        raise Struck

    def send() -> None:
        time.sleep(moments.random() * 2e-3)
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    try:
        for _ in range(100):
            sender = threading.Thread(target=send)
            try:
                sender.start()
                while sender.is_alive():
                    executor.load(PLAN, WEIGHTS)
                sender.join()
            except Struck:
                num_raised += 1
            sender.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert num_raised == 100
