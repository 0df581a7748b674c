"""One round of one engine: its figure, its memory, and what the machine could do right before and right after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.limits import Limit, Limits
from benchmarks.peers.process import Driver
from benchmarks.peers.work import COLD, Timing, tokens_per_s, work

WARM_UP = "pp128"  # the job of every engine before it is measured
LOAD_S = 1800.0  # a compiler may be at work


@dataclass(frozen=True)
class Measured:
    figure: float  # tokens/s, or seconds of a cold start
    peak_mb: int
    asked_mb: int | None = None  # what we allow ourselves, where the engine says what it holds
    limit: Limit | None = None

    @property
    def share(self) -> float | None:
        """Of the round's own limit."""
        return None if self.limit is None else self.figure / self.limit.tokens_per_s


class Loaded:
    """A driver whose engine has answered once: threads awake, memory touched."""

    def __init__(self, driver: Driver, limits: Limits | None, turn: int, timeout_s: float) -> None:
        """Raises process.Failed, as `measure` does."""
        self._driver, self._limits, self._timeout_s = driver, limits, timeout_s
        said = driver.wait(LOAD_S)
        self.version, self.load_s = str(said["version"]), float(said["load_s"])
        self.facts: dict[str, Any] = said["facts"]
        driver.ask(WARM_UP, turn, timeout_s)

    def warm_up(self, row: str, turn: int) -> None:
        """One answer that does not count: some engines compile kernels at the first of its shape, at half the speed."""
        self._driver.ask(row, turn, self._timeout_s)

    def measure(self, row: str, turn: int) -> Measured:
        before = self._limits.sample() if self._limits is not None else None
        answer = self._driver.ask(row, turn, self._timeout_s)
        limit = None
        if self._limits is not None and before is not None:
            limit = self._limits.of(row, before, self._limits.sample())
        figure = tokens_per_s(row, Timing(answer["first_s"], answer["total_s"]))
        return Measured(figure, answer["peak_mb"], asked_mb(self.facts, row), limit)


def first_token(start: Callable[[], Driver], turn: int, timeout_s: float) -> Measured:
    """Seconds from the start of a process to the first token of a short text. Raises process.Failed."""
    with start() as driver:
        said = driver.ask(COLD, turn, timeout_s)
        return Measured(driver.since_start_s(said), said["peak_mb"], asked_mb(said["facts"], COLD))


def asked_mb(facts: dict[str, Any], row: str) -> int | None:
    """1.3 times the packed checkpoint (matrices and embedding table) and the cache of the row's tokens, and 120 MB."""
    if not facts:
        return None
    in_use = facts["packed_bytes"] + facts["kv_bytes_per_token"] * work(row).num_tokens
    return int(1.3 * in_use / 1e6 + 120)
