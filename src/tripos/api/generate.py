"""POST /v1/chat/completions and /v1/completions."""

from __future__ import annotations

import time

from tripos.api.answering import adapt, find_card, send_answer
from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.types import ModelCard
from tripos.wire.openai import chat, completions
from tripos.wire.openai.generation import Identity


async def complete_chat(exchange: Exchange, service: Service) -> None:
    request = chat.decode(await exchange.read_body())
    card = find_card(exchange, service, request.model)
    request = adapt(exchange, service, request, card)
    await send_answer(exchange, service, request, chat.ChatAnswer(request, _identity(exchange, card, "chatcmpl")))


async def complete(exchange: Exchange, service: Service) -> None:
    request = completions.decode(await exchange.read_body())
    card = find_card(exchange, service, request.model)
    request = adapt(exchange, service, request, card)
    tokenizer = getattr(service.model(request.model), "tokenizer", None)
    texts = tokenizer.decode if tokenizer is not None else lambda ids: ""
    answer = completions.CompletionAnswer(request, _identity(exchange, card, "cmpl"), texts)
    await send_answer(exchange, service, request, answer)


def _identity(exchange: Exchange, card: ModelCard, prefix: str) -> Identity:
    return Identity(
        id=f"{prefix}-{exchange.request_id.removeprefix('req-')}",
        created=int(time.time()),
        model=card.name,
        system_fingerprint=f"fp_{card.digest[:16]}",
    )
