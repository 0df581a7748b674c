"""/v1/chat/completions and /v1/completions; and what all endpoints that run a model share: the model's card, the report
of ignored fields, and sending an answer.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from functools import lru_cache
from typing import Any, Protocol

from tripos import answers
from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.types import Event, Finish, ModelCard
from tripos.wire.generation import GenerationRequest
from tripos.wire.ignored import Ignored, header_value
from tripos.wire.openai import chat, completions
from tripos.wire.openai.generation import Identity


async def complete_chat(exchange: Exchange, service: Service) -> None:
    request = chat.decode(await exchange.read_body())
    card = find_card(exchange, service, request.model)
    request = answers.adapt(service, request, card)
    await send_answer(exchange, service, request, chat.ChatAnswer(request, _identity(exchange, card, "chatcmpl")))


async def complete(exchange: Exchange, service: Service) -> None:
    request = completions.decode(await exchange.read_body())
    card = find_card(exchange, service, request.model)
    request = answers.adapt(service, request, card)
    await send_answer(
        exchange, service, request, completions.CompletionAnswer(request, _identity(exchange, card, "cmpl"))
    )


def _identity(exchange: Exchange, card: ModelCard, prefix: str) -> Identity:
    return Identity(
        id=f"{prefix}-{exchange.request_id.removeprefix('req-')}",
        created=int(time.time()),
        model=card.name,
        system_fingerprint=f"fp_{card.digest[:16]}",
    )


class ResponseEncoder(Protocol):
    """Encodes the events of one request (wire/)."""

    def take(self, events: Sequence[tuple[int, Event]]) -> list[Any]:
        """Remembers (index of the call, event) pairs; returns what a stream sends now."""

    def end(self, elapsed_s: float) -> list[Any]:
        """What a stream sends last. `elapsed_s`: wall time since arrival."""

    def response(self, elapsed_s: float) -> Any:
        """The body of a response that is not streamed."""


def find_card(exchange: Exchange, service: Service, name: str) -> ModelCard:
    """The card of a served model, whose digest goes with the response. Raises NotFound."""
    card = service.card(name)
    exchange.model = card.name
    exchange.add_header(_digest_line(card.digest))
    return card


@lru_cache(256)
def _digest_line(digest: str) -> bytes:
    return b"x-tripos-model-digest: %b\r\n" % digest.encode()


def report_ignored(exchange: Exchange, service: Service, ignored: Sequence[Ignored]) -> None:
    """Counts the ignored fields and names them in a header. Raises InvalidRequest (unknown_field) on a strict route."""
    if ignored:
        answers.count_ignored(service, exchange.model, ignored)
        name_ignored(exchange, ignored)


def name_ignored(exchange: Exchange, ignored: Sequence[Ignored]) -> None:
    """Names ignored fields in a header of the response."""
    exchange.add_header(b"x-tripos-ignored: %b\r\n" % header_value(ignored).encode("ascii"))


async def send_answer(
    exchange: Exchange, service: Service, request: GenerationRequest, encoder: ResponseEncoder
) -> None:
    """Runs the calls of a request and sends their events as a stream, or their response; names the ignored fields."""
    if request.ignored:
        name_ignored(exchange, request.ignored)
    arrival_s = time.monotonic()
    is_stream = request.stream
    calls = answers.make_calls(
        request,
        request.requests,
        request_id=exchange.request_id,
        principal=exchange.principal,
        arrival_s=arrival_s,
    )
    async with aclosing(answers.run(service, calls)) as batches:
        async for batch in batches:
            for _, event in batch:
                if type(event) is Finish:
                    exchange.add_usage(event.usage)
            values = encoder.take(batch)
            if values and is_stream and exchange.stream(values):
                await exchange.drain()
    elapsed_s = time.monotonic() - arrival_s
    if is_stream:
        exchange.stream(encoder.end(elapsed_s), is_last=True)
    else:
        exchange.answer_json(encoder.response(elapsed_s))
