"""Decoded bodies → calls, and several calls at once. What every endpoint that runs a model has in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Any, Protocol, cast

from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.types import Call, Event, ModelCard, Priority, Request


class Asked(Protocol):
    """What decoded bodies of every dialect say of their calls."""

    @property
    def model(self) -> str: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def timeout_s(self) -> float | None: ...


def find_card(exchange: Exchange, service: Service, name: str) -> ModelCard:
    """The card of a served model, whose digest goes with the response. Raises NotFound."""
    card = service.card(name)
    exchange.model = card.name
    exchange.add_header(_digest_line(card.digest))
    return card


@lru_cache(256)
def _digest_line(digest: str) -> bytes:
    return b"x-tripos-model-digest: %b\r\n" % digest.encode()


def make_calls(exchange: Exchange, asked: Asked, requests: Sequence[Request], arrival_s: float) -> list[Call]:
    """One per request, in their order. `arrival_s`: of time.monotonic, which the client's timeout is counted from."""
    deadline_s = None if asked.timeout_s is None else arrival_s + asked.timeout_s
    return [
        Call(
            id=exchange.request_id if len(requests) == 1 else f"{exchange.request_id}-{i}",
            route=asked.model,
            request=request,
            principal=exchange.principal,
            priority=asked.priority,
            arrival_s=arrival_s,
            deadline_s=deadline_s,
        )
        for i, request in enumerate(requests)
    ]


async def run_together(service: Service, calls: Sequence[Call]) -> AsyncIterator[list[tuple[int, Event]]]:
    """The events of several calls as they come: (index of the call, event), everything since the last wake-up. A call
    whose last event was not taken waits, and merges what it makes meanwhile.

    When one call fails the others are cancelled and its error is raised, after what came before it.
    """
    waiting: list[tuple[int, Event]] = []
    errors: list[BaseException] = []
    untaken: set[int] = set()  # calls
    news, room = asyncio.Event(), asyncio.Event()
    num_open = len(calls)

    async def pump(call_idx: int, call: Call) -> None:
        nonlocal num_open
        try:
            async with aclosing(cast("Any", service.run(call))) as events:
                async for event in events:
                    while call_idx in untaken:
                        room.clear()
                        await room.wait()
                    untaken.add(call_idx)
                    waiting.append((call_idx, event))
                    news.set()
        except BaseException as error:
            errors.append(error)
            raise
        finally:
            num_open -= 1
            news.set()

    tasks = [asyncio.create_task(pump(i, call)) for i, call in enumerate(calls)]
    try:
        while True:
            if waiting:
                batch = waiting[:]
                waiting.clear()
                untaken.clear()
                room.set()
                yield batch
            elif errors:
                raise errors[0]
            elif not num_open:
                return
            else:
                news.clear()
                await news.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
