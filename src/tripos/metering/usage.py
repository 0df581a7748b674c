"""The meter: sees every event of a call and counts the call once, however it ends."""

from __future__ import annotations

import time

from tripos.errors import TriposError
from tripos.metering.metrics import Series
from tripos.types import Call, Delta, Event, Finish


class Meter:
    """Of one call: `see` each event, then `end`."""

    __slots__ = ("_arrival_s", "_finish", "_last_s", "_series")

    def __init__(self, series: Series, call: Call) -> None:
        self._series = series
        self._arrival_s = call.arrival_s or time.monotonic()
        self._last_s = 0.0  # of the last event with tokens
        self._finish: Finish | None = None

    def see(self, event: Event) -> None:
        if type(event) is Delta:
            if event.token_ids:
                now_s = time.monotonic()
                if self._last_s:
                    self._series.inter_token.observe(now_s - self._last_s)
                else:
                    self._series.observe_first(now_s - self._arrival_s)
                self._last_s = now_s
        elif type(event) is Finish:
            self._finish = event

    def end(self, error: BaseException | None) -> None:
        """`error`: that ended the call, GeneratorExit where its reader let go."""
        finish = self._finish
        if isinstance(error, TriposError):
            outcome = error.code
        elif isinstance(error, Exception):
            outcome = "internal_error"
        else:
            outcome = "abort" if finish is None else finish.reason
        self._series.observe_end(outcome, time.monotonic() - self._arrival_s, finish.usage if finish else None)
