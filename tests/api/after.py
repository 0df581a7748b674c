"""What must hold after every bad input, and after every test that breaks things (reliability document, 2.2)."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import re
import time
from pathlib import Path

from tests.api.running import NUM_BLOCKS, Running, TinyModel

ANSWER_S = 2.0  # P10; a row that waits for a deadline of the server's has that much more
ROOM_BYTES = 8 << 20  # P6
LEAKS = re.compile(r"Traceback|0x[0-9a-f]{6,}|/src/|site-packages|object at")
SETTLE_S = 10.0


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def settled_bytes() -> int:
    """Of memory that is in use: what was freed is given back first."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return resident_bytes()


class Log(logging.Handler):
    """The access log's lines, and what else was logged as an error."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, object]] = []
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "tripos.access":
            self.lines.append(record.fields)  # type: ignore[attr-defined]
        elif record.levelno >= logging.ERROR:
            self.errors.append(record.getMessage())


class After:
    """Knows how the server was before, and that it is the same again."""

    def __init__(
        self, server: Running, tiny: TinyModel, answer: str, log: Log, num_blocks: int, folder: Path | None
    ) -> None:
        self._server, self._tiny, self._answer, self._log = server, tiny, answer, log
        self._num_blocks = num_blocks
        self._folder = folder
        self._tasks = asyncio.all_tasks()
        self._num_descriptors = num_descriptors()
        self._pid = os.getpid()
        self._resident_bytes: int | None = None  # when the request was sent
        self._began_s = 0.0

    @classmethod
    async def of(
        cls, server: Running, tiny: TinyModel, log: Log, num_blocks: int = NUM_BLOCKS, folder: Path | None = None
    ) -> After:
        """`folder`: where temporary files go, of nobody else's; None: they are not watched."""
        answer = await server.canary()
        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "null"}}}
        chat = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "x"}],
            "response_format": form,
            "max_tokens": 1,
        }
        await server.post("/v1/chat/completions", chat)  # what compiles grammars starts with the first of them
        await server.http.get("/livez")
        await asyncio.sleep(0.05)
        return cls(server, tiny, answer, log, num_blocks, folder)

    def begin(self) -> None:
        """A request is sent now; what one that failed has left does not count."""
        self.forget()
        self._resident_bytes = resident_bytes()
        self._began_s = time.monotonic()

    def answered(self) -> None:
        took_s = time.monotonic() - self._began_s
        assert took_s < ANSWER_S, f"P10: answered after {took_s:.1f} s"

    def forget(self) -> None:
        """What was logged so far is not of the next request."""
        self._log.lines.clear()
        self._log.errors.clear()

    async def check(self, *, num_requests: int | None = None) -> None:
        """Raises AssertionError naming the post-condition. `num_requests`: that must each have left one line."""
        assert os.getpid() == self._pid, "P1: another process"
        if num_requests is not None:
            async with asyncio.timeout(SETTLE_S):
                while len(self._log.lines) < num_requests:
                    await asyncio.sleep(0.001)
            assert len(self._log.lines) == num_requests, f"P8: {self._log.lines}"
        assert not self._log.errors, f"P8: {self._log.errors}"
        for probe in ("/livez", "/readyz"):
            assert (await self._server.http.get(probe)).status_code == 200, f"P2: {probe}"
        assert await self._server.canary() == self._answer, "P3: another answer"
        await self._settle()
        self._tiny.engine.pool.check_integrity()
        if self._resident_bytes is not None and resident_bytes() - self._resident_bytes > ROOM_BYTES:
            grown = settled_bytes() - self._resident_bytes
            assert grown <= ROOM_BYTES, f"P6: {grown / 2**20:.1f} MiB more memory"
        if self._folder is not None:
            assert not os.listdir(self._folder), "P7: a temporary file is left"
        self.forget()

    async def _settle(self) -> None:
        """P4, P5: no block held, no call, descriptor or task left."""
        pool, service = self._tiny.engine.pool, self._server.service
        state = ""
        try:
            async with asyncio.timeout(SETTLE_S):
                while True:
                    tasks = [task for task in asyncio.all_tasks() - self._tasks if task is not asyncio.current_task()]
                    state = (
                        f"{self._tiny.num_held} blocks held, {pool.num_available} free of {self._num_blocks}, "
                        f"{service.num_in_flight} calls, {len(tasks)} tasks, "
                        f"{num_descriptors()} descriptors of {self._num_descriptors}"
                    )
                    if (
                        not self._tiny.num_held
                        and pool.num_available == self._num_blocks
                        and not service.num_in_flight
                        and not tasks
                        and num_descriptors() <= self._num_descriptors
                    ):
                        return
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise AssertionError(f"P4, P5: {state}") from None
