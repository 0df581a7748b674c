"""Composes stages around a model's run, and closes them inner-first.

Python closes nested async generators in no set order, and an abandoned one only when it is collected. Each level here
owns the one below with `aclosing`, so letting go at the top aborts the sequence first and then runs each `finally`
outwards.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import cast

from tripos.types import Call, Event, Run, Stage


def chain(stages: Sequence[Stage], model: Run) -> Run:
    """One Run: the first stage is the outermost, `model` the innermost."""
    run = _closing(model)
    for stage in reversed(stages):
        run = _closing(_around(stage, run))
    return run


def _around(stage: Stage, inner: Run) -> Run:
    def run(call: Call) -> AsyncIterator[Event]:
        opened: list[AsyncIterator[Event]] = []

        def inner_run(inner_call: Call) -> AsyncIterator[Event]:
            opened.append(inner(inner_call))
            return opened[-1]

        return _closing_all(stage(call, inner_run), opened)

    return run


async def _closing_all(events: AsyncIterator[Event], opened: list[AsyncIterator[Event]]) -> AsyncIterator[Event]:
    """`events` of a stage; what the stage opened below it is closed before the stage itself."""
    outer = cast("AsyncGenerator[Event, None]", events)
    try:
        async for event in outer:
            yield event
    finally:
        try:
            for each in reversed(opened):
                await cast("AsyncGenerator[Event, None]", each).aclose()
        finally:
            await outer.aclose()


def _closing(inner: Run) -> Run:
    async def run(call: Call) -> AsyncIterator[Event]:
        async with aclosing(cast("AsyncGenerator[Event, None]", inner(call))) as events:
            async for event in events:
                yield event

    return run
