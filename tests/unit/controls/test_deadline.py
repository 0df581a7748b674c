"""A deadline is set on every call, only ever earlier than asked, and held."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from tripos.controls.deadline import deadline
from tripos.errors import DeadlineExceeded
from tripos.pipeline.chain import chain
from tripos.types import Call, Delta, Event, Finish, Generate


def call(**fields: float | None) -> Call:
    return Call(id="c", route="m", request=Generate(prompt="x"), arrival_s=time.monotonic(), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(("own_s", "expected_s"), [(None, 10.0), (3.0, 3.0), (99.0, 10.0)])
async def test_the_earlier_of_both_deadlines_counts(own_s: float | None, expected_s: float) -> None:
    asked = call()
    if own_s is not None:
        asked = call(deadline_s=asked.arrival_s + own_s)
    seen: list[Call] = []

    async def model(call: Call) -> AsyncGenerator[Event, None]:
        seen.append(call)
        yield Finish(reason="stop")

    assert [type(event) async for event in chain([deadline(10.0)], model)(asked)] == [Finish]
    assert seen[0].deadline_s is not None
    assert seen[0].deadline_s - asked.arrival_s == pytest.approx(expected_s, abs=0.1)


async def test_a_model_that_does_not_end_is_ended() -> None:
    closed = []

    async def model(call: Call) -> AsyncGenerator[Event, None]:
        try:
            yield Delta(text="a")
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    events: list[Event] = []

    async def read() -> None:
        async with aclosing(chain([deadline(0.01)], model)(call())) as timed:
            async for event in timed:
                events.append(event)

    with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.01 s"):
        await read()
    assert events == [Delta(text="a")]
    assert closed == [True]
