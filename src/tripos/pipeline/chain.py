"""Composes stages around a model's run, and closes them inner-first.

Python closes an abandoned async generator only when it is collected, and nested ones in no set order. Each level here
owns the one below with `aclosing`, so that letting go at the top first aborts the work and then runs each stage's
`finally`, from the inside out.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import cast

from tripos.types import Call, Event, Run, Stage


def chain(stages: Sequence[Stage], model: Run) -> Run:
    """One Run: the first stage is the outermost, `model` the innermost."""
    run = model
    for stage in reversed(stages):
        run = _around(stage, run)
    return run


def _around(stage: Stage, inner: Run) -> Run:
    async def run(call: Call) -> AsyncIterator[Event]:
        opened = AsyncExitStack()  # what the stage runs below itself

        def inner_run(inner_call: Call) -> AsyncIterator[Event]:
            events = _generator(inner(inner_call))
            opened.push_async_callback(events.aclose)
            return events

        async with aclosing(_generator(stage(call, inner_run))) as events, opened:
            async for event in events:
                yield event

    return run


def _generator(events: AsyncIterator[Event]) -> AsyncGenerator[Event, None]:
    """Runs are async generators; their type says only what readers need."""
    return cast("AsyncGenerator[Event, None]", events)
