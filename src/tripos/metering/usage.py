"""The meter: a stage that sees every event of a call and counts it once, however the call ends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from tripos.errors import TriposError
from tripos.metering.metrics import Metrics
from tripos.types import Call, Delta, Event, Finish, ModelCard, Run, Stage


def meter(metrics: Metrics, card: ModelCard) -> Stage:
    """The outermost stage of a route."""
    series = metrics.series(card.name)

    async def stage(call: Call, run: Run) -> AsyncIterator[Event]:
        arrival_s = call.arrival_s or time.monotonic()
        first_s = last_s = 0.0
        outcome, finish = "abort", None
        try:
            async for event in run(call):
                if isinstance(event, Delta) and event.token_ids:
                    now_s = time.monotonic()
                    if first_s:
                        series.inter_token.observe(now_s - last_s)
                    else:
                        first_s = now_s
                        series.observe_first(now_s - arrival_s)
                    last_s = now_s
                elif isinstance(event, Finish):
                    outcome, finish = event.reason, event
                yield event
        except TriposError as error:
            outcome = error.code
            raise
        except Exception:
            outcome = "internal_error"
            raise
        finally:
            series.observe_end(outcome, time.monotonic() - arrival_s, finish.usage if finish else None)

    return stage
