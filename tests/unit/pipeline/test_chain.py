"""Stages compose in order, and let go from the inside out wherever a call is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from tripos.pipeline.chain import chain
from tripos.types import Call, Delta, Event, Finish, Generate, Run, Stage

CALL = Call(id="c", route="m", request=Generate(prompt="x"))
NUM_STAGES = 3
NUM_EVENTS = 4  # three Deltas and a Finish


def recording_stage(name: str, closed: list[str]) -> Stage:
    async def stage(call: Call, run: Run) -> AsyncGenerator[Event, None]:
        try:
            async for event in run(call):
                yield event
        finally:
            closed.append(name)

    return stage


def recording_model(closed: list[str], *, waits_at: int = -1) -> Run:
    """Yields NUM_EVENTS; before event `waits_at` it waits for ever."""

    async def run(call: Call) -> AsyncGenerator[Event, None]:
        try:
            for i in range(NUM_EVENTS):
                if i == waits_at:
                    await asyncio.Event().wait()
                yield Finish(reason="stop") if i == NUM_EVENTS - 1 else Delta(text=str(i))
        finally:
            await asyncio.sleep(0)  # cleaning up may wait
            closed.append("model")

    return run


def opened(run: Run) -> Any:
    return aclosing(run(CALL))


async def read_all(run: Run) -> None:
    async with opened(run) as events:
        async for _ in events:
            pass


async def test_first_stage_is_the_outermost() -> None:
    def marking(name: str) -> Stage:
        async def stage(call: Call, run: Run) -> AsyncGenerator[Event, None]:
            async for event in run(call):
                yield Delta(text=f"{name}({event.text})") if isinstance(event, Delta) else event

        return stage

    async with opened(chain([marking("a"), marking("b")], recording_model([]))) as events:
        assert (await anext(events)).text == "a(b(0))"


@pytest.mark.parametrize("num_read", range(NUM_EVENTS + 1))
@pytest.mark.parametrize("num_stages", range(NUM_STAGES + 1))
async def test_letting_go_after_any_event_closes_inner_first(num_stages: int, num_read: int) -> None:
    closed: list[str] = []
    names = [f"stage{i}" for i in range(num_stages)]
    run = chain([recording_stage(name, closed) for name in names], recording_model(closed))
    async with opened(run) as events:
        for _ in range(num_read):
            await anext(events)
    assert closed == (["model", *reversed(names)] if num_read else [])


@pytest.mark.parametrize("waits_at", range(NUM_EVENTS))
@pytest.mark.parametrize("num_stages", range(NUM_STAGES + 1))
async def test_cancelling_while_any_event_is_awaited_closes_inner_first(num_stages: int, waits_at: int) -> None:
    closed: list[str] = []
    names = [f"stage{i}" for i in range(num_stages)]
    run = chain([recording_stage(name, closed) for name in names], recording_model(closed, waits_at=waits_at))
    task = asyncio.create_task(read_all(run))
    for _ in range(10):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == ["model", *reversed(names)]


@pytest.mark.parametrize("guilty", range(NUM_STAGES))
@pytest.mark.parametrize("at_event", range(NUM_EVENTS))
async def test_a_stage_that_raises_at_any_event_leaves_nothing_open(guilty: int, at_event: int) -> None:
    closed: list[str] = []

    async def raising(call: Call, run: Run) -> AsyncGenerator[Event, None]:
        i = 0
        async for event in run(call):
            if i == at_event:
                raise ValueError("no")
            i += 1
            yield event

    stages = [raising if i == guilty else recording_stage(f"stage{i}", closed) for i in range(NUM_STAGES)]
    with pytest.raises(ValueError, match="no"):
        await read_all(chain(stages, recording_model(closed)))
    assert sorted(closed) == sorted(["model", *(f"stage{i}" for i in range(NUM_STAGES) if i != guilty)])


async def test_a_stage_that_answers_early_closes_the_model() -> None:
    closed: list[str] = []

    async def first_only(call: Call, run: Run) -> AsyncGenerator[Event, None]:
        async for event in run(call):
            yield event
            break
        yield Finish(reason="stop")

    async with opened(chain([first_only], recording_model(closed))) as events:
        assert len([event async for event in events]) == 2
        assert closed == ["model"]
