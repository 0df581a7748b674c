"""A thread beside the event loop, for texts that take long to encode.

It is a daemon, and waiting for it is bounded: an encoding that does not end blocks neither the event loop nor other
models nor the end of the process.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from tripos.errors import DeadlineExceeded

MOST_S = 120.0  # the largest request, 32 MiB, takes 30 s
GRACE_S = 5.0
Value = TypeVar("Value")


def beside(function: Callable[[], Value]) -> Future[Value]:
    """Run a function in a daemon thread of its own; the result or the error is in the future."""
    future: Future[Value] = Future()
    threading.Thread(target=_complete, args=(future, function), name="tripos-beside", daemon=True).start()
    return future


class SideThread:
    """Runs functions one after the other, in the order of their submission. `most_s`: how long `run` waits at most."""

    def __init__(self, most_s: float | None = MOST_S) -> None:
        self._most_s = most_s
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="tripos-encode", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], Value]) -> Future[Value]:
        """Queue a function. A future that is cancelled before its turn is skipped."""
        future: Future[Value] = Future()
        self._queue.put((future, function))
        return future

    async def run(self, function: Callable[[], Value]) -> Value:
        """Run a function and wait for it. Raises DeadlineExceeded after `most_s`; the function may run on."""
        import asyncio  # 12 ms; imported already wherever an event loop runs

        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.submit(function)), self._most_s)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the text could not be tokenized within {self._most_s or 0:.0f} s: send a shorter one"
            ) from None

    async def stop(self) -> None:
        """End the thread after the queued functions; waits at most GRACE_S."""
        import asyncio

        self._queue.put(None)
        until_s = time.monotonic() + GRACE_S
        while self._thread.is_alive() and time.monotonic() < until_s:
            await asyncio.sleep(0.001)

    def _loop(self) -> None:
        while (task := self._queue.get()) is not None:
            future, function = task
            if not future.set_running_or_notify_cancel():
                continue
            _complete(future, function)
            del task, future, function  # an idle thread holds no text


def _complete(future: Future[Value], function: Callable[[], Value]) -> None:
    try:
        future.set_result(function())
    except BaseException as problem:  # goes to the caller, a panic of a library too
        future.set_exception(problem)
