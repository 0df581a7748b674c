"""One server per module over the real engine and a scripted executor; after each module nothing may be left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.api.running import Running, TinyModel, running, tiny_encoder


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    return TinyModel()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tiny: TinyModel) -> AsyncIterator[Running]:
    before = asyncio.all_tasks()
    async with running(tiny, tiny_encoder()) as server:
        yield server
        async with asyncio.timeout(5):
            await server.service.wait_idle()
            while tiny.num_held:
                await asyncio.sleep(0.01)
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}
