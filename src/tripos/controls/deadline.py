"""Gives every call a deadline and holds it, even if the model does not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast

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
        async with aclosing(cast("Any", run(replace(call, deadline_s=end_s)))) as events:
            while True:
                try:
                    async with asyncio.timeout(end_s + GRACE_S - time.monotonic()):
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    message = f"no answer within {end_s - call.arrival_s:.3g} s: allow more time or lower max_tokens"
                    raise DeadlineExceeded(message) from None
                yield event

    return stage
