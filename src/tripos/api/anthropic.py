"""POST /v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from tripos.api import tokens
from tripos.api.calls import find_card
from tripos.api.dialect import Dialect, typed_events
from tripos.api.generate import deliver
from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.wire.anthropic import messages
from tripos.wire.errors import encode_anthropic_error
from tripos.wire.generation import for_model

ANTHROPIC = Dialect(encode_anthropic_error, typed_events, id_header=b"request-id")


async def create_message(exchange: Exchange, service: Service) -> None:
    asked = messages.decode(await exchange.read_body())
    card = find_card(exchange, service, asked.model)
    asked = for_model(asked, card)
    answer = messages.MessageAnswer("msg_" + exchange.request_id.removeprefix("req-"), card.name)
    await deliver(exchange, service, asked, answer)


async def count_tokens(exchange: Exchange, service: Service) -> None:
    num_tokens = await tokens.count(exchange, service, messages.decode_count(await exchange.read_body()))
    exchange.answer_json(messages.encode_count(num_tokens))
