"""Embeddings, reranking and scores in every dialect: calls through the service, one body to the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tripos import answers
from tripos.api.generate import find_card, report_ignored
from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.types import ModelCard
from tripos.wire import rerank as rerank_wire
from tripos.wire.json import encode
from tripos.wire.ollama import embeddings as ollama
from tripos.wire.oneshot import OneShotAnswer, OneShotRequest
from tripos.wire.openai import embeddings as openai

INLINE_NUMBERS = 16_384  # of a response; with more, its JSON is made in a thread


async def embed(exchange: Exchange, service: Service) -> None:
    request, is_base64 = openai.decode(await exchange.read_body())
    await _answer(exchange, service, request, lambda a, card, _: openai.encode(a[0], card.name, is_base64))


async def embed_as_ollama(exchange: Exchange, service: Service) -> None:
    request = ollama.decode_embed(await exchange.read_body())
    await _answer(exchange, service, request, lambda a, card, s: ollama.encode_embed(a[0], card.name, s))


async def embed_one_as_ollama(exchange: Exchange, service: Service) -> None:
    request = ollama.decode_embeddings(await exchange.read_body())
    await _answer(exchange, service, request, lambda a, card, _: ollama.encode_embeddings(a[0]))


async def rerank(exchange: Exchange, service: Service) -> None:
    request = rerank_wire.decode_rerank(await exchange.read_body())
    id = f"rerank-{exchange.request_id.removeprefix('req-')}"
    await _answer(
        exchange, service, request.body, lambda a, card, _: rerank_wire.encode_rerank(request, a[0], id, card.name)
    )


async def score(exchange: Exchange, service: Service) -> None:
    request = rerank_wire.decode_score(await exchange.read_body())
    id, created = f"score-{exchange.request_id.removeprefix('req-')}", int(time.time())
    await _answer(exchange, service, request, lambda a, card, _: rerank_wire.encode_score(a, id, created, card.name))


async def _answer(
    exchange: Exchange,
    service: Service,
    request: OneShotRequest,
    encode_body: Callable[[list[OneShotAnswer], ModelCard, float], dict[str, Any]],
) -> None:
    """Runs the calls of a request, all together, and sends what `encode_body` makes of (results, card, seconds)."""
    card = find_card(exchange, service, request.model)
    report_ignored(exchange, service, request.ignored)
    arrival_s = time.monotonic()
    calls = answers.make_calls(
        request, request.requests, request_id=exchange.request_id, principal=exchange.principal, arrival_s=arrival_s
    )
    collected = await answers.collect(service, calls, exchange.add_usage)
    results = [OneShotAnswer(result=each.result, usage=each.usage) for each in collected]

    def body() -> bytes:
        return encode(encode_body(results, card, time.monotonic() - arrival_s))

    num_numbers = sum(len(vector) // 4 for each in results for vector in each.result.vectors)
    exchange.answer(200, body() if num_numbers <= INLINE_NUMBERS else await asyncio.to_thread(body))
