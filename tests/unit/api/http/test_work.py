"""Work that need not wait makes no task; work that must wait is cancelled and timed as a task is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tripos.api.http.work import Work


def begin(coroutine: Coroutine[Any, Any, None]) -> Work:
    """Started as a connection starts it: from a callback of the loop, outside of any task."""
    work = Work(asyncio.get_running_loop(), coroutine)
    asyncio.get_running_loop().call_soon(work.start)
    return work


async def turn(times: int = 3) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_what_need_not_wait_ends_at_once_and_without_a_task() -> None:
    seen: list[Any] = []

    async def run() -> None:
        seen.append(asyncio.current_task())

    before = asyncio.all_tasks()
    work = begin(run())
    await turn(1)
    assert seen == [work]
    assert work.task is None
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("waits_in_vain", [True, False])
async def test_what_must_wait_goes_on_as_a_task(waits_in_vain: bool) -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    said: list[str] = []

    async def run() -> None:
        if not waits_in_vain:
            await asyncio.sleep(0)
        said.append(await ready)
        said.append(await asyncio.to_thread(str, 2))

    work = begin(run())
    await turn()
    assert work.task is not None
    task = work.task
    ready.set_result("1")
    await task
    assert said == ["1", "2"]
    assert work.task is None


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_cancelling_reaches_the_coroutine_and_what_it_waits_for(turns: int) -> None:
    ended: list[str] = []
    inner: list[asyncio.Task[None]] = []

    async def run() -> None:
        inner.append(asyncio.ensure_future(asyncio.sleep(60)))
        try:
            await inner[0]
        finally:
            ended.append("cancelled")

    work = begin(run())
    await turn(turns)
    assert work.task is not None
    task = work.task
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await turn()
    assert ended == ["cancelled"]
    assert inner[0].cancelled()


async def test_a_timeout_that_begins_before_there_is_a_task_holds() -> None:
    ended: list[str] = []

    async def run() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            ended.append("late")

    work = begin(run())
    await turn()
    assert work.task is not None
    await work.task
    assert ended == ["late"]


async def test_cancelling_itself_before_it_waits_is_felt_when_it_does() -> None:
    ended: list[str] = []

    async def run() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")

    begin(run())
    await turn()
    assert ended == ["cancelled"]
