"""POST /v1/chat/completions and /v1/completions: calls through the service, events to the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, Protocol, cast

from tripos.api.exchange import Exchange
from tripos.service import Service
from tripos.types import Call, Event, ModelCard
from tripos.wire.generation import Asked, for_model
from tripos.wire.openai import chat, completions
from tripos.wire.openai.generation import Identity

MAX_UNSENT_EVENTS = 64  # per stream; then the model waits, and merges what it makes meanwhile


async def complete_chat(exchange: Exchange, service: Service) -> None:
    asked = chat.decode(await exchange.read_body())
    card = find_card(exchange, service, asked.model)
    asked = for_model(asked, card)
    await deliver(exchange, service, asked, chat.ChatAnswer(asked, _identity(exchange, card, "chatcmpl")))


async def complete(exchange: Exchange, service: Service) -> None:
    asked = completions.decode(await exchange.read_body())
    card = find_card(exchange, service, asked.model)
    tokenizer = getattr(service.model(asked.model), "tokenizer", None)
    texts = tokenizer.decode if tokenizer is not None else lambda ids: ""
    answer = completions.CompletionAnswer(asked, _identity(exchange, card, "cmpl"), texts)
    await deliver(exchange, service, asked, answer)


def find_card(exchange: Exchange, service: Service, name: str) -> ModelCard:
    """The card of a served model, whose digest goes with the response. Raises NotFound."""
    card = service.card(name)
    exchange.model = card.name
    exchange.add_header(b"x-tripos-model-digest: %b\r\n" % card.digest.encode())
    return card


class Answer(Protocol):
    """Makes bodies of the events of one request."""

    def take(self, events: Sequence[tuple[int, Event]]) -> list[Any]:
        """Remember (index of the call, event) pairs; returns what a stream sends now."""

    def end(self, elapsed_s: float) -> list[Any]:
        """What a stream sends last. `elapsed_s`: wall time since arrival."""

    def response(self, elapsed_s: float) -> Any:
        """The whole body."""


async def deliver(exchange: Exchange, service: Service, asked: Asked, answer: Answer) -> None:
    """Run the calls of a request and send what comes, in pieces or at once."""
    arrival_s = time.monotonic()
    calls = _calls(exchange, for_model(asked, service.card(asked.model)), arrival_s)
    if len(calls) == 1:
        async with aclosing(cast("Any", service.run(calls[0]))) as events:
            async for event in events:
                values = answer.take(((0, event),))
                if values and asked.stream:
                    await exchange.stream(values)
    else:
        async with aclosing(cast("Any", run_together(service, calls))) as batches:
            async for batch in batches:
                values = answer.take(batch)
                if values and asked.stream:
                    await exchange.stream(values)
    elapsed_s = time.monotonic() - arrival_s
    if asked.stream:
        exchange.end_stream(answer.end(elapsed_s))
    else:
        exchange.answer_json(answer.response(elapsed_s))


def _calls(exchange: Exchange, asked: Asked, arrival_s: float) -> list[Call]:
    return [
        Call(
            id=exchange.request_id if len(asked.requests) == 1 else f"{exchange.request_id}-{i}",
            route=asked.model,
            request=request,
            principal=exchange.principal,
            priority=asked.priority,
            arrival_s=arrival_s,
            deadline_s=None if asked.timeout_s is None else arrival_s + asked.timeout_s,
        )
        for i, request in enumerate(asked.requests)
    ]


async def run_together(service: Service, calls: Sequence[Call]) -> AsyncIterator[list[tuple[int, Event]]]:
    """The events of several calls as they come: (index of the call, event), everything since the last wake-up.

    When one call fails the others are cancelled and its error is raised, after what came before it.
    """
    waiting: list[tuple[int, Event]] = []
    errors: list[BaseException] = []
    news, room = asyncio.Event(), asyncio.Event()
    num_open = len(calls)

    async def pump(call_idx: int, call: Call) -> None:
        nonlocal num_open
        try:
            async with aclosing(cast("Any", service.run(call))) as events:
                async for event in events:
                    waiting.append((call_idx, event))
                    news.set()
                    while len(waiting) >= MAX_UNSENT_EVENTS:
                        room.clear()
                        await room.wait()
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


def _identity(exchange: Exchange, card: ModelCard, prefix: str) -> Identity:
    return Identity(
        id=f"{prefix}-{exchange.request_id.removeprefix('req-')}",
        created=int(time.time()),
        model=card.name,
        system_fingerprint=f"fp_{card.digest[:16]}",
    )
