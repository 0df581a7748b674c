"""One server per test over the real engine and a scripted executor; afterwards nothing may be left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.api.running import Running, TinyModel, running


@pytest.fixture
def tiny() -> TinyModel:
    return TinyModel()


@pytest.fixture
async def server(tiny: TinyModel) -> AsyncIterator[Running]:
    async with running(tiny) as server:
        yield server
        async with asyncio.timeout(5):
            await server.service.wait_idle()
            while tiny.num_held:
                await asyncio.sleep(0.01)
    assert len(asyncio.all_tasks()) <= 2, asyncio.all_tasks()  # the test, and this fixture
