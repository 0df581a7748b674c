"""Composes stages around a model's run, once; and closes what a call has opened, the innermost first.

Python closes an abandoned async generator only when it is collected, and nested ones in no set order. So a stage that
is an async generator function gets an owner for its events and for those that it opened. One that is a plain function
returns `run(call)`, at no cost per event, or events that close what they opened; their `aclose` may raise why a call
that was cancelled had to end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from inspect import isasyncgenfunction
from types import AsyncGeneratorType

from tripos.errors import RequestFailed
from tripos.types import Call, Event, Result, Run, Stage


def chain(stages: Sequence[Stage], model: Run) -> Run:
    """One Run: the first stage is the outermost, `model` the innermost. Whoever reads its events closes them."""
    run = model
    for stage in reversed(stages):
        run = _owned(stage, run) if isasyncgenfunction(stage) else _applied(stage, run)
    return run


def _applied(stage: Stage, inner: Run) -> Run:
    return lambda call: stage(call, inner)


def _owned(stage: Stage, inner: Run) -> Run:
    async def run(call: Call) -> AsyncGenerator[Event, None]:
        opened: list[AsyncGenerator[Event, None]] = []

        def open_inner(inner_call: Call) -> AsyncGenerator[Event, None]:
            opened.append(inner(inner_call))
            return opened[-1]

        events = stage(call, open_inner)
        try:
            async for event in events:
                yield event
        finally:
            await _close([events, *opened])

    return run


async def _close(opened: list[AsyncGenerator[Event, None]]) -> None:
    """Closes all, the last first; every one is closed, and the first error is raised."""
    failure: BaseException | None = None
    for events in reversed(opened):
        if type(events) is AsyncGeneratorType and events.ag_frame is None:
            continue  # it has come to its end
        try:
            await events.aclose()
        except BaseException as error:
            failure = failure or error
    if failure is not None:
        raise failure


async def result_of(events: AsyncGenerator[Event, None]) -> Result:
    """The Result of a run, read to its end. Raises RequestFailed where there was none."""
    result: Result | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Result):
                result = event
    if result is None:
        raise RequestFailed("the model ended without a result: this is a bug in Tripos")
    return result
