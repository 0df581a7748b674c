"""Gives every call a deadline and holds it, even if the model does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

from msgspec.structs import replace

from tripos.errors import DeadlineExceeded
from tripos.types import Call, Event, Run, Stage

DEFAULT_TIMEOUT_S = 600.0
GRACE_S = 0.25  # the model's own error is better: it says where the time went


def deadline(default_s: float = DEFAULT_TIMEOUT_S) -> Stage:
    """A stage that ends a call whose time is over; closing its events raises DeadlineExceeded then. A call's own
    deadline may only be earlier.
    """
    watch = _Watch()

    def stage(call: Call, run: Run) -> AsyncGenerator[Event, None]:
        arrival_s = call.arrival_s or time.monotonic()
        latest_s = arrival_s + default_s
        end_s = latest_s if call.deadline_s is None else min(call.deadline_s, latest_s)
        return _Timed(run(replace(call, deadline_s=end_s)), arrival_s, end_s, watch)

    return stage


class _Timed(AsyncGenerator[Event, None]):
    """The events of one call; whoever opened them is cancelled when the time is over."""

    __slots__ = ("_arrival_s", "_events", "_num_before", "_reader", "_watch", "end_s", "is_over")

    def __init__(self, events: AsyncGenerator[Event, None], arrival_s: float, end_s: float, watch: _Watch) -> None:
        self._events = events
        self._arrival_s = arrival_s
        self.end_s = end_s
        self.is_over = False
        self._reader = asyncio.current_task(watch.loop())
        self._num_before = 0  # cancellations that others asked for
        self._watch = watch
        watch.calls.add(self)

    def __anext__(self) -> Coroutine[Any, Any, Event]:
        return self._events.__anext__()

    def asend(self, value: None) -> Coroutine[Any, Any, Event]:
        return self._events.asend(value)

    def athrow(self, *error: Any) -> Coroutine[Any, Any, Event]:
        return self._events.athrow(*error)

    def end(self) -> None:
        """The time is over."""
        if self._reader is not None:
            self.is_over, self._num_before = True, self._reader.cancelling()
            self._reader.cancel()

    async def aclose(self) -> None:
        """Raises DeadlineExceeded when the time was over and nobody else cancelled the call."""
        self._watch.calls.discard(self)
        try:
            await self._events.aclose()
        finally:
            if self.is_over:
                self._raise_if_over()

    def _raise_if_over(self) -> None:
        self.is_over = False
        if self._reader is not None and self._reader.uncancel() <= self._num_before:
            message = f"no answer within {self.end_s - self._arrival_s:.3g} s: allow more time or lower max_tokens"
            raise DeadlineExceeded(message)


class _Watch:
    """Looks at all open `calls` of a stage every GRACE_S seconds, instead of a timer for each."""

    def __init__(self) -> None:
        self.calls: set[_Timed] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # in which the next look is due

    def loop(self) -> asyncio.AbstractEventLoop:
        """That the calls run in. Which one does, asyncio asks the system for each time: who is watched need not."""
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.get_running_loop()
            self._loop.call_later(GRACE_S, self._look)
        return self._loop

    def _look(self) -> None:
        now_s = time.monotonic() - GRACE_S
        for call in [call for call in self.calls if call.end_s <= now_s]:
            self.calls.discard(call)
            call.end()
        loop, self._loop = self._loop, None
        if self.calls and loop is not None:
            self._loop = loop
            loop.call_later(GRACE_S, self._look)
