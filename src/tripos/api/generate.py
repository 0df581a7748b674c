"""POST /v1/chat/completions and /v1/completions: calls through the service, events to the client."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, Protocol, cast

from tripos.api.calls import find_card, make_calls, run_together
from tripos.api.http.exchange import Exchange
from tripos.api.ignored import report
from tripos.dialects import lowering
from tripos.service import Service
from tripos.types import Event, Finish, ModelCard
from tripos.wire.generation import GenerationRequest, for_model
from tripos.wire.ignored import Ignored
from tripos.wire.openai import chat, completions
from tripos.wire.openai.generation import Identity


async def complete_chat(exchange: Exchange, service: Service) -> None:
    asked = chat.decode(await exchange.read_body())
    card = find_card(exchange, service, asked.model)
    asked = for_model(asked, card)
    await deliver(exchange, service, asked, chat.ChatAnswer(asked, _identity(exchange, card, "chatcmpl")))


async def complete(exchange: Exchange, service: Service) -> None:
    asked = completions.decode(await exchange.read_body())
    card = find_card(exchange, service, asked.model)
    asked = for_model(asked, card)
    await deliver(exchange, service, asked, completions.CompletionAnswer(asked, _identity(exchange, card, "cmpl")))


class Answer(Protocol):
    """Makes bodies of the events of one request."""

    def take(self, events: Sequence[tuple[int, Event]]) -> list[Any]:
        """Remember (index of the call, event) pairs; returns what a stream sends now."""

    def end(self, elapsed_s: float) -> list[Any]:
        """What a stream sends last. `elapsed_s`: wall time since arrival."""

    def response(self, elapsed_s: float) -> Any:
        """The whole body."""


async def deliver(exchange: Exchange, service: Service, asked: GenerationRequest, answer: Answer) -> None:
    """Run the calls of a request, as its model wants them, and send what comes, in pieces or at once."""
    unenforced = [Ignored(path, "schema") for request in asked.requests for path in lowering.unenforced(request)]
    report(exchange, service, (*asked.ignored, *unenforced))
    arrival_s = time.monotonic()
    calls = make_calls(exchange, asked, asked.requests, arrival_s)
    if len(calls) == 1:
        events = service.run(calls[0])
        try:
            async for event in events:
                if type(event) is Finish:
                    exchange.add_usage(event.usage)
                values = answer.take(((0, event),))
                if values and asked.stream:
                    exchange.stream(values)
                    if exchange.is_full:
                        await exchange.drain()
        finally:
            await events.aclose()
    else:
        async with aclosing(cast("Any", run_together(service, calls))) as batches:
            async for batch in batches:
                for _, event in batch:
                    if type(event) is Finish:
                        exchange.add_usage(event.usage)
                values = answer.take(batch)
                if values and asked.stream:
                    exchange.stream(values)
                    if exchange.is_full:
                        await exchange.drain()
    elapsed_s = time.monotonic() - arrival_s
    if asked.stream:
        exchange.end_stream(answer.end(elapsed_s))
    else:
        exchange.answer_json(answer.response(elapsed_s))


def _identity(exchange: Exchange, card: ModelCard, prefix: str) -> Identity:
    return Identity(
        id=f"{prefix}-{exchange.request_id.removeprefix('req-')}",
        created=int(time.time()),
        model=card.name,
        system_fingerprint=f"fp_{card.digest[:16]}",
    )
