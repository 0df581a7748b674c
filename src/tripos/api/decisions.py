"""POST /v1/decisions and /v1/systemone: questions with a probability for each answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from tripos import answers
from tripos.api.generate import find_card, report_ignored
from tripos.api.http.exchange import Exchange
from tripos.errors import InvalidRequest, NotImplementedHere, RequestFailed, TriposError
from tripos.service import Service
from tripos.types import Decision, Usage
from tripos.wire import systemone
from tripos.wire.decision import DecisionRequest
from tripos.wire.generation import unread_args
from tripos.wire.openai import decisions as openai_decisions

Encode = Callable[[DecisionRequest, str, Sequence[Decision], Usage], dict[str, Any]]
Refuse = Callable[[str], TriposError]


async def decide(exchange: Exchange, service: Service) -> None:
    request = openai_decisions.decode(await exchange.read_body())
    await _answer(exchange, service, request, openai_decisions.encode, _refuse_model)


async def system_one(exchange: Exchange, service: Service) -> None:
    """Its protocol answers a wrong kind of model with 501."""
    request = systemone.decode(await exchange.read_body())
    await _answer(exchange, service, request, systemone.encode, NotImplementedHere)


def _refuse_model(message: str) -> TriposError:
    return InvalidRequest(message, param="model")


async def _answer(
    exchange: Exchange, service: Service, request: DecisionRequest, encode: Encode, refuse: Refuse
) -> None:
    card = find_card(exchange, service, request.model)
    if card.task != "generate":
        able = ", ".join(each.name for each in service.cards if each.task == "generate") or "none is served"
        raise refuse(f"decisions need a language model, and {card.name} is not one; language models: {able}")
    report_ignored(exchange, service, (*request.ignored, *unread_args(request.request.template_args, card)))
    calls = answers.make_calls(
        request,
        (request.request,),
        request_id=exchange.request_id,
        principal=exchange.principal,
        arrival_s=time.monotonic(),
    )
    ((result, usage),) = await answers.collect(service, calls, exchange.add_usage)
    if not result.decisions:
        raise RequestFailed("the route ended without decisions: this is a bug in Tripos")
    exchange.answer_json(encode(request, card.name, result.decisions, usage))
