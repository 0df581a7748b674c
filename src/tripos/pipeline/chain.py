"""Composes stages around a model's run, and closes them inner-first.

Python closes an abandoned async generator only when it is collected, and nested ones in no set order. `Levels` owns
every generator of one call, so that letting go first aborts the work and then runs each stage's `finally`, from the
inside out. A stage that only looks at the call may return `run(call)` itself, or an iterator with `aclose` that hands
on what it is given: then it costs nothing per event. `aclose` may raise why a call that was cancelled had to end.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import AsyncGeneratorType

from tripos.errors import RequestFailed
from tripos.types import Call, Event, Result, Run, Stage


def chain(stages: Sequence[Stage], model: Run) -> Run:
    """One Run: the first stage is the outermost, `model` the innermost."""

    async def run(call: Call) -> AsyncGenerator[Event, None]:
        levels = Levels(stages, model)
        try:
            async for event in levels.open(call):
                yield event
        finally:
            await levels.aclose()

    return run


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


class Levels:
    """The open generators of one call. Whoever calls `open` must `aclose`."""

    __slots__ = ("_model", "_opened", "_stages")

    def __init__(self, stages: Sequence[Stage], model: Run) -> None:
        self._stages = stages
        self._model = model
        self._opened: list[AsyncGenerator[Event, None]] = []  # the outermost last opened stands first

    def open(self, call: Call, depth: int = 0) -> AsyncGenerator[Event, None]:
        """The events of the stages from `depth` on."""
        if depth == len(self._stages):
            events = self._model(call)
        else:
            events = self._stages[depth](call, lambda inner_call: self.open(inner_call, depth + 1))
        opened = self._opened
        if not opened or opened[-1] is not events:  # else the stage returned what it was given
            opened.append(events)
        return events

    async def aclose(self) -> None:
        """Close all, the innermost first; every one is closed, and the first error is raised."""
        failure: BaseException | None = None
        while self._opened:
            events = self._opened.pop()
            if type(events) is AsyncGeneratorType and events.ag_frame is None:
                continue  # it has come to its end
            try:
                await events.aclose()
            except BaseException as error:
                failure = failure or error
        if failure is not None:
            raise failure
