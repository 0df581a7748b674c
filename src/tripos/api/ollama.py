"""Ollama's /api: chat, generate, and what is served."""

from __future__ import annotations

import time
from collections.abc import Callable

from tripos import answers
from tripos.api.generate import find_card, report_ignored, send_answer
from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.version import __version__
from tripos.wire.generation import GenerationRequest
from tripos.wire.ollama import generation, models


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
    report_ignored(exchange, service, ignored)
    exchange.answer_json(models.encode_show(card))


async def version(exchange: Exchange, service: Service) -> None:
    exchange.answer_json({"version": __version__})


async def _answer(
    exchange: Exchange,
    service: Service,
    decode: Callable[[bytes], GenerationRequest],
    make: Callable[[GenerationRequest, str, str], generation.LineAnswer],
) -> None:
    request = decode(await exchange.read_body())
    card = find_card(exchange, service, request.model)
    request = answers.adapt(service, request, card)
    await send_answer(exchange, service, request, make(request, card.name, models.iso(time.time())))
