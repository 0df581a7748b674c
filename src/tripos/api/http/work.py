"""A coroutine that begins at once and becomes a task only when it has to wait.

Most requests can begin, and some end, as soon as their last byte is read, without a turn of the event loop and without
a task. Python 3.12 calls such tasks eager; this class is for 3.11, and for event loops without them.
"""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, cast


class Work(Coroutine[Any, Any, None]):
    """Stands in for its task until there is one: for `asyncio.current_task()`, and for cancelling."""

    __slots__ = ("_coroutine", "_is_cancelled", "_loop", "_waits_for", "task")

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, None]) -> None:
        self._loop = loop
        self._coroutine = coroutine
        self._waits_for: Any = None  # the future that the first step waits for, until the task takes it
        self._is_cancelled = False  # before there was a task
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run to the end or to the first wait, outside of any task. Raises what the coroutine raises."""
        loop, stand_in = self._loop, cast("asyncio.Task[None]", self)
        _enter_task(loop, stand_in)
        try:
            self._waits_for = self._coroutine.send(None) or _NOTHING
        except StopIteration:
            return
        finally:
            _leave_task(loop, stand_in)
        self.task = loop.create_task(self)
        if self._is_cancelled:
            self.task.cancel()

    # -- as the task's coroutine --------------------------------------------------------------------------------------
    def send(self, value: None) -> Any:
        waits_for = self._waits_for
        if waits_for is not None:
            self._waits_for = None
            return None if waits_for is _NOTHING else waits_for
        try:
            return self._coroutine.send(value)
        except BaseException:
            self.task = None  # which holds us
            raise

    def throw(self, kind: Any, value: Any = None, traceback: TracebackType | None = None) -> Any:
        waits_for, self._waits_for = self._waits_for, None
        if waits_for is not None and waits_for is not _NOTHING:
            waits_for.cancel()
        try:
            return self._coroutine.throw(kind if value is None else value)
        except BaseException:
            self.task = None
            raise

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self._coroutine.__await__()

    # -- as the task ------------------------------------------------------------------------------------------------
    def cancel(self, msg: Any = None) -> bool:
        if self.task is not None:
            return self.task.cancel(msg)
        self._is_cancelled = True
        return True

    def cancelling(self) -> int:
        return int(self._is_cancelled) if self.task is None else self.task.cancelling()

    def uncancel(self) -> int:
        if self.task is not None:
            return self.task.uncancel()
        self._is_cancelled = False
        return 0


_NOTHING = object()  # the coroutine yielded without waiting for anything
