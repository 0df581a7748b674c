"""POST /v1/decisions and /v1/systemone: questions with a probability for each answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, cast

from tripos.api.calls import find_card, make_calls
from tripos.api.http.exchange import Exchange
from tripos.api.ignored import report
from tripos.errors import InvalidRequest, NotImplementedHere, RequestFailed, TriposError
from tripos.service import Service
from tripos.types import Decision, Finish, Result, Usage
from tripos.wire import systemone
from tripos.wire.decision import DecisionRequest
from tripos.wire.generation import unread_args
from tripos.wire.openai import decisions as openai_decisions

Encode = Callable[[DecisionRequest, str, Sequence[Decision], Usage], dict[str, Any]]
Refuse = Callable[[str], TriposError]


async def decide(exchange: Exchange, service: Service) -> None:
    wanted = openai_decisions.decode(await exchange.read_body())
    await _answer(exchange, service, wanted, openai_decisions.encode, _refuse_model)


async def system_one(exchange: Exchange, service: Service) -> None:
    """Its protocol answers a wrong kind of model with 501."""
    wanted = systemone.decode(await exchange.read_body())
    await _answer(exchange, service, wanted, systemone.encode, NotImplementedHere)


def _refuse_model(message: str) -> TriposError:
    return InvalidRequest(message, param="model")


async def _answer(
    exchange: Exchange, service: Service, wanted: DecisionRequest, encode: Encode, refuse: Refuse
) -> None:
    card = find_card(exchange, service, wanted.model)
    if card.task != "generate":
        able = ", ".join(each.name for each in service.cards if each.task == "generate") or "no served model"
        raise refuse(f"decisions are read from a language model, and {card.name} is none: use {able}")
    report(exchange, service, (*wanted.ignored, *unread_args(wanted.request.template_args, card)))
    decisions, usage = await _run(exchange, service, wanted)
    exchange.answer_json(encode(wanted, card.name, decisions, usage))


async def _run(exchange: Exchange, service: Service, wanted: DecisionRequest) -> tuple[Sequence[Decision], Usage]:
    (call,) = make_calls(exchange, wanted, (wanted.request,), time.monotonic())
    result: Result | None = None
    async with aclosing(cast("Any", service.run(call))) as events:
        async for event in events:
            if isinstance(event, Result):
                result = event
            elif isinstance(event, Finish) and result is not None:
                exchange.add_usage(event.usage)
                return result.decisions, event.usage
    raise RequestFailed("the route ended without decisions: this is a bug in Tripos")
