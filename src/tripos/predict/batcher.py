"""Dynamic batching by tokens: texts of many calls share a step, ragged and without padding.

Owns the queue, its bounds and its order (online first; calls take turns, a text each), and the thread that runs steps.
A step begins as soon as the last one is over; no call waits for a batch to fill. Knows nothing of text or HTTP.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tripos.errors import DeadlineExceeded, EngineFailed, Overloaded, RequestFailed, TriposError, reraise_stop
from tripos.types import Priority

log = logging.getLogger(__name__)

F32 = npt.NDArray[np.float32]
STALL_S = 60.0  # a step that takes longer counts as stuck


@dataclass(frozen=True)
class Text:
    """One sequence of a step."""

    token_ids: Sequence[int]
    token_types: Sequence[int] = ()  # as many, or none: all 0


RunStep = Callable[[Sequence[Text]], tuple[F32, npt.NDArray[np.bool_]]]
"""Texts → one row each, and which rows are finite."""


@dataclass(frozen=True)
class BatcherOptions:
    """Bounds of a step and of the queue."""

    token_budget: int = 2048  # tokens of a step; a longer text has a step of its own
    max_texts: int = 256  # texts of a step
    max_waiting_tokens: int = 1 << 20
    max_waiting_calls: int = 1024


@dataclass(eq=False)
class PendingCall:
    """The texts of one call on their way through the queue. `rows` is complete when `is_over` and there is no error."""

    texts: Sequence[Text]
    priority: Priority = Priority.ONLINE
    deadline_s: float | None = None  # by time.monotonic
    arrival_s: float = field(default_factory=time.monotonic)
    rows: list[F32] = field(default_factory=list)
    error: TriposError | None = None
    is_cancelled: bool = False
    started_s: float | None = None
    run_s: float = 0.0  # its share of the steps, by tokens
    num_taken: int = 0  # texts that are in a step or done

    @property
    def is_over(self) -> bool:
        return self.error is not None or len(self.rows) == len(self.texts)

    @property
    def num_tokens(self) -> int:
        return sum(len(text.token_ids) for text in self.texts)


class Batcher:
    """Runs calls. `start` gives it a thread; without one, callers run `step` themselves."""

    def __init__(
        self,
        run: RunStep,
        options: BatcherOptions,
        deliver: Callable[[list[PendingCall]], None] = lambda _: None,
    ) -> None:
        """`deliver` gets the calls that a step ended, once per step, from the batcher's thread."""
        self.options = options
        self.num_steps = 0
        self._run = run
        self._deliver = deliver
        self._queues: dict[Priority, deque[PendingCall]] = {priority: deque() for priority in sorted(Priority)}
        self._waiting_tokens = 0
        self._num_running = 0
        # The lock is entered directly: an interrupt inside Condition.__enter__ could leave it held.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._is_stopping = self._is_closed = False
        self._ending = EngineFailed("the model was stopped", retry_after_s=1.0)
        self._failure: EngineFailed | None = None  # set when no step can run any more
        self._step_began_s: float | None = None

    # -- from any thread ------------------------------------------------------------------------------------
    def check_capacity(self) -> None:
        """Refuse before costly work. Raises Overloaded."""
        with self._lock:
            self._check(0)

    def add(self, call: PendingCall, *, is_bounded: bool = True) -> None:
        """Queue a call's texts. Raises EngineFailed when it is closed or failed and, where it `is_bounded`, Overloaded
        when the queue is full.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            if self._is_stopping:
                raise self._ending
            num_tokens = call.num_tokens
            if is_bounded:
                self._check(num_tokens)
            self._waiting_tokens += num_tokens
            self._queues[call.priority].append(call)
            self._changed.notify()

    def cancel(self, call: PendingCall) -> None:
        """Drop a call that nobody waits for; texts that are in a step run to its end."""
        with self._lock:
            call.is_cancelled = True
            if call in self._queues[call.priority]:
                self._remove(call)

    @property
    def num_waiting(self) -> int:
        """Calls with texts that are in no step yet."""
        with self._lock:
            return sum(map(len, self._queues.values()))

    @property
    def num_running(self) -> int:
        """Texts in the step."""
        return self._num_running

    @property
    def is_progressing(self) -> bool:
        began_s = self._step_began_s
        is_alive = self._failure is None and self._thread is not None and self._thread.is_alive()
        return is_alive and (began_s is None or time.monotonic() - began_s < STALL_S)

    def start(self) -> None:
        """Start the thread. Idempotent; without effect once closed."""
        if self._thread is None:
            with self._lock:
                if self._thread is None and not self._is_closed:
                    self._is_stopping = False
                    self._thread = threading.Thread(target=self._loop, name="tripos-batcher", daemon=True)
                    self._thread.start()

    def stop(self) -> None:
        """End after the step in progress; waiting calls get EngineFailed. Idempotent."""
        with self._lock:
            self._is_stopping = True
            self._changed.notify_all()
        thread = self._thread
        if thread is not None:
            thread.join()
            self._thread = None
        with self._lock:
            left = [call for queue in self._queues.values() for call in queue]
            for call in left:
                self._fail(call, self._ending)
        self._deliver(left)

    def begin_close(self, ending: EngineFailed) -> None:
        """Refuse all further calls; unfinished ones get `ending`. `stop` waits for the step in progress."""
        with self._lock:
            self._is_closed = self._is_stopping = True
            self._ending = ending
            self._changed.notify_all()

    def step(self) -> list[PendingCall]:
        """Run one batch now, if there is one; returns the calls that it ended."""
        batch, ended = self._take()
        if batch:
            ended += self._execute(batch)
        return ended

    # -- the thread -----------------------------------------------------------------------------------------
    def _loop(self) -> None:
        while True:
            with self._lock:
                while not self._is_stopping and not any(self._queues.values()):
                    self._changed.wait()
                if self._is_stopping:
                    return
            if ended := self.step():
                self._deliver(ended)

    def _take(self) -> tuple[list[tuple[PendingCall, int]], list[PendingCall]]:
        """The next step's (call, index of its text), and the calls that are too late."""
        batch: list[tuple[PendingCall, int]] = []
        num_tokens = 0
        now_s = time.monotonic()
        with self._lock:
            late = [w for queue in self._queues.values() for w in queue if w.deadline_s and now_s >= w.deadline_s]
            for call in late:
                self._fail(call, DeadlineExceeded(f"no answer within {now_s - call.arrival_s:.3g} s"))
            for queue in self._queues.values():
                while queue:
                    call = queue[0]
                    length = len(call.texts[call.num_taken].token_ids)
                    if batch and not self._fits(len(batch), num_tokens + length):
                        return batch, late
                    if call.started_s is None:
                        call.started_s = now_s
                    batch.append((call, call.num_taken))
                    num_tokens += length
                    call.num_taken += 1
                    self._waiting_tokens -= length
                    queue.popleft()
                    if call.num_taken < len(call.texts):
                        queue.append(call)  # calls take turns: a small one does not wait for a large one
        return batch, late

    def _fits(self, num_texts: int, num_tokens: int) -> bool:
        return num_texts < self.options.max_texts and num_tokens <= self.options.token_budget

    def _execute(self, batch: list[tuple[PendingCall, int]]) -> list[PendingCall]:
        texts = [call.texts[index] for call, index in batch]
        began_s = time.monotonic()
        self._step_began_s, self._num_running = began_s, len(texts)
        try:
            rows, are_finite = self._run(texts)
        except EngineFailed as error:
            log.error("no step can run any more: %s", error.message)
            return self._give_up(error, batch)
        except BaseException as error:  # panics too: they must not end the thread
            reraise_stop(error)
            if len(batch) > 1:  # one text causes the failure: the others are answered
                log.exception("a step of %d texts failed; each runs again alone", len(batch))
                return [call for each in batch if not each[0].is_over for call in self._execute([each])]
            log.exception("a text failed: this is a bug in Tripos")
            return self._end_failed(batch[0][0], RequestFailed("the model failed on this input"))
        finally:
            self._step_began_s, self._num_running = None, 0
            self.num_steps += 1
        return self._collect(batch, rows, are_finite, time.monotonic() - began_s)

    def _collect(
        self, batch: list[tuple[PendingCall, int]], rows: F32, are_finite: npt.NDArray[np.bool_], seconds: float
    ) -> list[PendingCall]:
        share_s = seconds / max(1, sum(len(call.texts[index].token_ids) for call, index in batch))
        ended: dict[int, PendingCall] = {}
        for (call, index), row, is_finite in zip(batch, rows, are_finite, strict=True):
            call.run_s += share_s * len(call.texts[index].token_ids)
            if call.is_over or call.is_cancelled:
                continue
            if is_finite:
                call.rows.append(row)
            else:
                self._end_failed(call, RequestFailed("the model gave values that are not finite"))
            if not is_finite or len(call.rows) == len(call.texts):
                ended[id(call)] = call
        return list(ended.values())

    def _give_up(self, error: EngineFailed, batch: list[tuple[PendingCall, int]]) -> list[PendingCall]:
        """End all calls with the error and accept no more: the executor failed, not a text."""
        with self._lock:
            self._failure = error
            waiting = [call for queue in self._queues.values() for call in queue]
            ended = dict.fromkeys([*(call for call, _ in batch if not call.is_over), *waiting])
            for call in ended:
                self._fail(call, error)
        return list(ended)

    def _end_failed(self, call: PendingCall, error: TriposError) -> list[PendingCall]:
        with self._lock:
            self._fail(call, error)
        return [call]

    def _fail(self, call: PendingCall, error: TriposError) -> None:
        call.error = call.error or error
        if call in self._queues[call.priority]:
            self._remove(call)

    def _remove(self, call: PendingCall) -> None:
        self._queues[call.priority].remove(call)
        self._waiting_tokens -= sum(len(text.token_ids) for text in call.texts[call.num_taken :])

    def _check(self, num_tokens: int) -> None:
        calls, tokens = sum(map(len, self._queues.values())), self._waiting_tokens
        if calls >= self.options.max_waiting_calls:
            raise Overloaded(
                f"{calls} requests are waiting, the limit is {self.options.max_waiting_calls}", retry_after_s=1.0
            )
        if tokens and tokens + num_tokens > self.options.max_waiting_tokens:
            raise Overloaded(
                f"{tokens} tokens are waiting, with this request's {num_tokens} more than the limit of "
                f"{self.options.max_waiting_tokens}",
                retry_after_s=1.0,
            )
