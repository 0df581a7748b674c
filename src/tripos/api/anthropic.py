"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from tripos import answers
from tripos.api import tokens
from tripos.api.generate import find_card, send_answer
from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.wire.anthropic import messages


async def create_message(exchange: Exchange, service: Service) -> None:
    request = messages.decode(await exchange.read_body())
    card = find_card(exchange, service, request.model)
    request = answers.adapt(service, request, card)
    answer = messages.MessageAnswer("msg_" + exchange.request_id.removeprefix("req-"), card.name)
    await send_answer(exchange, service, request, answer)


async def count_tokens(exchange: Exchange, service: Service) -> None:
    num_tokens = await tokens.count(exchange, service, messages.decode_count(await exchange.read_body()))
    exchange.answer_json(messages.encode_count(num_tokens))
