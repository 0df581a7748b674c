"""Gives every call a deadline and holds it, even if the model does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from msgspec.structs import replace

from tripos.errors import DeadlineExceeded
from tripos.types import Call, Event, Run, Stage

DEFAULT_TIMEOUT_S = 600.0
GRACE_S = 0.25  # the model's own error is better: it says where the time went


def deadline(default_s: float = DEFAULT_TIMEOUT_S) -> Stage:
    """A stage that raises DeadlineExceeded when no event came in time. A call's own deadline may only be earlier."""

    async def stage(call: Call, run: Run) -> AsyncIterator[Event]:
        latest_s = (call.arrival_s or time.monotonic()) + default_s
        end_s = latest_s if call.deadline_s is None else min(call.deadline_s, latest_s)
        alarm = _Alarm(end_s + GRACE_S - time.monotonic())
        events = aiter(run(replace(call, deadline_s=end_s)))
        reader = asyncio.current_task()  # of all events
        try:
            while True:
                alarm.waiter = reader
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
                finally:
                    alarm.waiter = None
                yield event
        except asyncio.CancelledError:
            if not alarm.is_cause():
                raise
            message = f"no answer within {end_s - call.arrival_s:.3g} s: allow more time or lower max_tokens"
            raise DeadlineExceeded(message) from None
        finally:
            alarm.stop()

    return stage


class _Alarm:
    """One timer for a whole call, which cancels `waiter`; asyncio.timeout would be one timer per event.

    A call whose time is over while nobody waits for an event goes on until somebody does.
    """

    def __init__(self, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(max(0.0, seconds), self._ring)
        self._cancelled: asyncio.Task[Any] | None = None
        self._num_before = 0  # cancellations that others asked for
        self.waiter: asyncio.Task[Any] | None = None

    def _ring(self) -> None:
        if self.waiter is None:
            self._timer = self._loop.call_later(GRACE_S, self._ring)
        else:
            self._cancelled, self._num_before = self.waiter, self.waiter.cancelling()
            self.waiter.cancel()

    def is_cause(self) -> bool:
        """Whether the cancellation that was caught is ours alone; then it is taken back."""
        return self._cancelled is not None and self._cancelled.uncancel() <= self._num_before

    def stop(self) -> None:
        self._timer.cancel()
