"""A thread beside the event loop for texts that take long to become tokens.

It is a daemon and nobody waits for it for ever: an encoding that does not end holds up neither the loop nor other
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

MOST_S = 120.0  # 32 MiB, the largest request, take a quarter of it
GRACE_S = 5.0
Value = TypeVar("Value")


def beside(function: Callable[[], Value]) -> Future[Value]:
    """What a function gives or raises, run in a thread of its own that nobody waits for at the end of the process."""
    future: Future[Value] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as problem:  # whoever asks gets it, a panic in a library too
            future.set_exception(problem)

    threading.Thread(target=run, name="tripos-beside", daemon=True).start()
    return future


class SideThread:
    """Runs one function after the other, in the order in which they came. `most_s`: how long a caller waits at most."""

    def __init__(self, most_s: float | None = MOST_S) -> None:
        self._most_s = most_s
        self._queue: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="tripos-encode", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], Value]) -> Future[Value]:
        """Its result, or what it raises; forgotten if it is cancelled before its turn."""
        future: Future[Value] = Future()
        self._queue.put((future, function))
        return future

    async def run(self, function: Callable[[], Value]) -> Value:
        """The same for a caller who waits. Raises DeadlineExceeded; the function then runs on, perhaps without end."""
        import asyncio  # 12 ms, and in this process wherever a loop runs

        try:
            return await asyncio.wait_for(asyncio.wrap_future(self.submit(function)), self._most_s)
        except TimeoutError:
            raise DeadlineExceeded(
                f"the text did not become tokens within {self._most_s or 0:.0f} s: send less"
            ) from None

    async def stop(self) -> None:
        """End after what is there to do; waited for GRACE_S."""
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
            try:
                future.set_result(function())
            except BaseException as problem:  # whoever waits gets it, a panic in a library too
                future.set_exception(problem)
            del task, future, function  # nothing of the last text stays while there is none
