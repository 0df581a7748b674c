"""A server on a loopback socket over a scripted model, and the official clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx
import openai

from tripos.api.app import App
from tripos.api.auth import Keys
from tripos.api.server import Door, listen
from tripos.controls.deadline import deadline
from tripos.controls.limits import limits
from tripos.service import Service
from tripos.types import Model


class Running:
    """A Door in this event loop."""

    def __init__(self, door: Door, service: Service, task: asyncio.Task[None]) -> None:
        self.door = door
        self.service = service
        self.task = task
        self.url = door.address
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.AsyncClient(base_url=self.url, timeout=10)
        self.openai = openai.AsyncOpenAI(base_url=self.url + "/v1", api_key="none", max_retries=0)


@asynccontextmanager
async def running(models: Sequence[Model], keys: Keys | None = None, drain_s: float = 5.0) -> AsyncIterator[Running]:
    service = Service()
    for model in models:
        service.add(model, (limits(max_model_len=model.card.max_model_len), deadline()))
    listener = listen("127.0.0.1", 0)
    door = Door(service, App(service, keys), listener, drain_s)
    ready = asyncio.Event()
    task = asyncio.create_task(door.run(lambda address: ready.set()))
    await asyncio.wait({task, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
    server = Running(door, service, task)
    try:
        yield server
    finally:
        await server.http.aclose()
        await server.openai.close()
        door.stop(now=True)
        await task
        listener.close()
