"""Embeddings, reranking and scores in every dialect: calls through the service, one body to the client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any, cast

from tripos.api.calls import find_card, make_calls, run_together
from tripos.api.http.exchange import Exchange
from tripos.api.ignored import report
from tripos.service import Service
from tripos.types import Finish, ModelCard, Result, Usage
from tripos.wire import rerank as rerank_wire
from tripos.wire.json import encode
from tripos.wire.ollama import embeddings as ollama
from tripos.wire.oneshot import OneShotAnswer, OneShotRequest
from tripos.wire.openai import embeddings as openai

INLINE_NUMBERS = 16_384  # of an answer; more are turned into JSON off the event loop


async def embed(exchange: Exchange, service: Service) -> None:
    asked, is_base64 = openai.decode(await exchange.read_body())
    await _answer(exchange, service, asked, lambda a, card, _: openai.encode(a[0], card.name, is_base64))


async def embed_as_ollama(exchange: Exchange, service: Service) -> None:
    asked = ollama.decode_embed(await exchange.read_body())
    await _answer(exchange, service, asked, lambda a, card, s: ollama.encode_embed(a[0], card.name, s))


async def embed_one_as_ollama(exchange: Exchange, service: Service) -> None:
    asked = ollama.decode_embeddings(await exchange.read_body())
    await _answer(exchange, service, asked, lambda a, card, _: ollama.encode_embeddings(a[0]))


async def rerank(exchange: Exchange, service: Service) -> None:
    asked = rerank_wire.decode_rerank(await exchange.read_body())
    id = f"rerank-{exchange.request_id.removeprefix('req-')}"
    await _answer(
        exchange, service, asked.body, lambda a, card, _: rerank_wire.encode_rerank(asked, a[0], id, card.name)
    )


async def score(exchange: Exchange, service: Service) -> None:
    asked = rerank_wire.decode_score(await exchange.read_body())
    id, created = f"score-{exchange.request_id.removeprefix('req-')}", int(time.time())
    await _answer(exchange, service, asked, lambda a, card, _: rerank_wire.encode_score(a, id, created, card.name))


async def _answer(
    exchange: Exchange,
    service: Service,
    asked: OneShotRequest,
    encode_body: Callable[[list[OneShotAnswer], ModelCard, float], dict[str, Any]],
) -> None:
    """Run the calls of a request, all together, and send what `encode_body` makes of (answers, card, seconds)."""
    card = find_card(exchange, service, asked.model)
    report(exchange, service, asked.ignored)
    arrival_s = time.monotonic()
    answers = await _run(exchange, service, asked, arrival_s)

    def body() -> bytes:
        return encode(encode_body(answers, card, time.monotonic() - arrival_s))

    num_numbers = sum(len(vector) // 4 for answer in answers for vector in answer.result.vectors)
    exchange.answer(200, body() if num_numbers <= INLINE_NUMBERS else await asyncio.to_thread(body))


async def _run(exchange: Exchange, service: Service, asked: OneShotRequest, arrival_s: float) -> list[OneShotAnswer]:
    calls = make_calls(exchange, asked, asked.requests, arrival_s)
    results: list[Result] = [Result()] * len(calls)
    usages = [Usage()] * len(calls)
    async with aclosing(cast("Any", run_together(service, calls))) as batches:
        async for batch in batches:
            for i, event in batch:
                if isinstance(event, Result):
                    results[i] = event
                elif isinstance(event, Finish):
                    usages[i] = event.usage
                    exchange.add_usage(event.usage)
    return [OneShotAnswer(result=result, usage=usage) for result, usage in zip(results, usages, strict=True)]
