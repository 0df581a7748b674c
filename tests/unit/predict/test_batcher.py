"""Batching by tokens: bounds, order, deadlines, cancellation, and that one text's failure stays its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from tripos.errors import DeadlineExceeded, EngineFailed, Overloaded, RequestFailed
from tripos.predict.batcher import Batcher, BatcherOptions, PendingCall, Text
from tripos.types import Priority


class Panic(BaseException):
    """As a failure inside a compiled library arrives."""


class Steps:
    """Answers each text with its token ids' sum; 13 raises, 14 gives NaN, 15 panics. Remembers every step."""

    def __init__(self) -> None:
        self.steps: list[list[list[int]]] = []

    def __call__(self, texts: Sequence[Text]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        self.steps.append([list(text.token_ids) for text in texts])
        if any(13 in text.token_ids for text in texts):
            raise ValueError("unlucky")
        if any(15 in text.token_ids for text in texts):
            raise Panic("planted")
        rows = np.array([[sum(text.token_ids)] for text in texts], np.float32)
        rows[[14 in text.token_ids for text in texts]] = np.nan
        return rows, np.isfinite(rows).all(-1)


def pending(*texts: list[int], priority: Priority = Priority.ONLINE, deadline_s: float | None = None) -> PendingCall:
    return PendingCall([Text(text) for text in texts], priority, deadline_s)


def batcher(run: Steps, **options: int) -> Batcher:
    return Batcher(run, BatcherOptions(**options))


def run_all(queue: Batcher) -> list[PendingCall]:
    ended: list[PendingCall] = []
    while queue.num_waiting:
        ended += queue.step()
    return ended


def sums(each: PendingCall) -> list[float]:
    return [float(row[0]) for row in each.rows]


def test_texts_of_many_calls_share_a_step_within_its_budget() -> None:
    run = Steps()
    queue = batcher(run, token_budget=5, max_texts=3)
    calls = [pending([1, 2]), pending([3], [4, 4]), pending([5])]
    for call in calls:
        queue.add(call)
    assert {id(each) for each in run_all(queue)} == {id(each) for each in calls}
    assert [sums(call) for call in calls] == [[3], [3, 8], [5]]
    assert all(len(step) <= 3 and sum(map(len, step)) <= 5 for step in run.steps)
    assert run.steps[0] == [[1, 2], [3], [5]]  # calls take turns


def test_a_text_beyond_the_budget_has_a_step_of_its_own() -> None:
    run = Steps()
    queue = batcher(run, token_budget=3)
    queue.add(pending([1]))
    queue.add(pending([1] * 9))
    run_all(queue)
    assert run.steps == [[[1]], [[1] * 9]]


def test_online_work_goes_first_and_batch_work_fills() -> None:
    run = Steps()
    queue = batcher(run, token_budget=2)
    queue.add(pending([9], [9], priority=Priority.BATCH))
    queue.add(pending([1], [1], [1]))
    run_all(queue)
    assert run.steps == [[[1], [1]], [[1], [9]], [[9]]]


def test_a_small_call_does_not_wait_for_a_large_one() -> None:
    queue = batcher(Steps(), token_budget=4)
    large, small = pending(*([1] for _ in range(100))), pending([2])
    queue.add(large)
    queue.add(small)
    assert queue.step() == [small]


def test_a_failing_text_fails_alone() -> None:
    queue = batcher(Steps())
    good, bad, other, empty, worse = pending([1]), pending([13], [1]), pending([2], [3]), pending([14]), pending([15])
    for call in (good, bad, other, empty, worse):
        queue.add(call)
    run_all(queue)
    assert (sums(good), sums(other)) == ([1], [2, 3])
    assert isinstance(bad.error, RequestFailed)
    assert isinstance(worse.error, RequestFailed)
    assert isinstance(empty.error, RequestFailed)
    assert "not finite" in empty.error.message
    assert queue.num_waiting == 0


def test_a_lost_executor_ends_everything_at_once_and_nothing_is_accepted_any_more() -> None:
    lost = EngineFailed("gone", retry_after_s=5.0)
    num_steps = 0
    delivered: list[PendingCall] = []
    came = threading.Event()

    def run(texts: Sequence[Text]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        nonlocal num_steps
        num_steps += 1
        raise lost

    def deliver(pending_calls: list[PendingCall]) -> None:
        delivered.extend(pending_calls)
        came.set()

    queue = Batcher(run, BatcherOptions(max_texts=3), deliver)
    calls = [pending([1], [2]), pending([3]), pending([4])]
    for call in calls:
        queue.add(call)
    queue.start()
    assert came.wait(10)
    assert [id(each) for each in delivered] == [id(each) for each in calls]
    assert all(call.error is lost for call in calls)
    assert (num_steps, queue.num_waiting) == (1, 0)
    assert not queue.is_progressing
    with pytest.raises(EngineFailed, match="gone"):
        queue.add(pending([5]))
    queue.stop()


def test_late_windows_are_refused_before_they_run() -> None:
    run = Steps()
    queue = batcher(run)
    late, good = pending([1], deadline_s=time.monotonic() - 1), pending([2])
    queue.add(late)
    queue.add(good)
    assert queue.step() == [late, good]
    assert isinstance(late.error, DeadlineExceeded)
    assert run.steps == [[[2]]]


def test_cancelled_windows_leave_the_queue() -> None:
    run = Steps()
    queue = batcher(run, max_waiting_tokens=4)
    gone = pending([1, 1], [1, 1])
    queue.add(gone)
    with pytest.raises(Overloaded):
        queue.add(pending([2]))
    queue.cancel(gone)
    queue.add(pending([2]))
    run_all(queue)
    assert run.steps == [[[2]]]


def test_a_full_queue_refuses_and_says_when_to_come_back() -> None:
    queue = batcher(Steps(), max_waiting_calls=1)
    queue.add(pending([1]))
    with pytest.raises(Overloaded) as refused:
        queue.check_capacity()
    assert refused.value.retry_after_s


def test_the_thread_delivers_once_per_step_and_stopping_fails_what_waits() -> None:
    began, go = threading.Event(), threading.Event()
    delivered: list[list[PendingCall]] = []

    def run(texts: Sequence[Text]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        began.set()
        go.wait(10)
        return np.ones((len(texts), 1), np.float32), np.ones(len(texts), np.bool_)

    queue = Batcher(run, BatcherOptions(token_budget=1), delivered.append)
    first, second = pending([1]), pending([2])
    queue.start()
    queue.add(first)
    assert began.wait(10)
    queue.add(second)
    assert queue.is_progressing
    stopping = threading.Thread(target=queue.stop)
    stopping.start()
    while queue._is_stopping is False:
        time.sleep(0.001)
    go.set()
    stopping.join(10)
    assert delivered == [[first], [second]]
    assert isinstance(second.error, EngineFailed)
    with pytest.raises(EngineFailed):
        queue.add(pending([3]))
