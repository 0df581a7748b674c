"""Ollama's /api: chat, generate, and what is served."""

from __future__ import annotations

import time
from collections.abc import Callable

from tripos.api.calls import find_card
from tripos.api.dialect import Dialect, lines
from tripos.api.generate import deliver
from tripos.api.http.exchange import Exchange
from tripos.api.ignored import report
from tripos.service import Service
from tripos.version import __version__
from tripos.wire.errors import encode_ollama_error
from tripos.wire.generation import GenerationRequest, for_model
from tripos.wire.ollama import generation, models

OLLAMA = Dialect(encode_ollama_error, lines, b"application/x-ndjson", needs_type=False)


async def chat(exchange: Exchange, service: Service) -> None:
    await _answer(exchange, service, generation.decode_chat, generation.ChatLines)


async def generate(exchange: Exchange, service: Service) -> None:
    await _answer(exchange, service, generation.decode_generate, generation.GenerateLines)


async def tags(exchange: Exchange, service: Service) -> None:
    exchange.answer_json(models.encode_tags(service.cards))


async def ps(exchange: Exchange, service: Service) -> None:
    exchange.answer_json(models.encode_ps(service.cards))


async def show(exchange: Exchange, service: Service) -> None:
    name, ignored = models.decode_show(await exchange.read_body())
    card = find_card(exchange, service, name)
    report(exchange, service, ignored)
    exchange.answer_json(models.encode_show(card))


async def version(exchange: Exchange, service: Service) -> None:
    exchange.answer_json({"version": __version__})


async def _answer(
    exchange: Exchange,
    service: Service,
    decode: Callable[[bytes], GenerationRequest],
    make: Callable[[GenerationRequest, str, str], generation.LineAnswer],
) -> None:
    asked = decode(await exchange.read_body())
    card = find_card(exchange, service, asked.model)
    asked = for_model(asked, card)
    answer = make(asked, card.name, models.iso(time.time()))
    await deliver(exchange, service, asked, answer)
