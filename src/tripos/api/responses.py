"""/v1/responses: create, count, show and delete."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from tripos.api import tokens
from tripos.api.calls import find_card
from tripos.api.dialect import Dialect, typed_events
from tripos.api.generate import deliver
from tripos.api.http.exchange import Exchange
from tripos.errors import NotFound
from tripos.service import Service
from tripos.types import Event, Message
from tripos.wire.errors import encode_openai_error
from tripos.wire.generation import for_model
from tripos.wire.json import encode
from tripos.wire.openai import responses
from tripos.wire.openai.input_items import check_whole, encode_input_items, input_items, read_page, response_of
from tripos.wire.openai.responses import ResponseAnswer, ResponseRequest

RESPONSES = Dialect(encode_openai_error, typed_events)


async def create_response(exchange: Exchange, service: Service) -> None:
    wanted = responses.decode(await exchange.read_body(), partial(_find_item, exchange))
    card = find_card(exchange, service, wanted.generation.model)
    before = _said_before(exchange, wanted)
    asked = for_model(responses.to_generation(wanted, before), card)
    response_id = "resp_" + secrets.token_hex(16)  # not the request's own id, which a client may choose
    answer = ResponseAnswer(wanted, asked.requests[0], response_id, int(time.time()), card.name)
    exchange.encode_failure = answer.failure
    kept = _Kept(exchange, answer, response_id, (*before, *wanted.messages)) if wanted.is_stored else answer
    await deliver(exchange, service, asked, kept)


async def count_tokens(exchange: Exchange, service: Service) -> None:
    wanted = responses.decode_count(await exchange.read_body(), partial(_find_item, exchange))
    asked = responses.to_generation(wanted, _said_before(exchange, wanted))
    num_tokens = await tokens.count(exchange, service, asked)
    exchange.answer_json(responses.encode_count(num_tokens))


async def show_response(exchange: Exchange, service: Service) -> None:
    check_whole(exchange.query())
    exchange.answer(200, exchange.stored.get(exchange.principal, exchange.path_name).body)


async def list_input_items(exchange: Exchange, service: Service) -> None:
    page = read_page(exchange.query())
    said = exchange.stored.get(exchange.principal, exchange.path_name).messages[:-1]  # the last is the answer
    exchange.answer_json(encode_input_items(exchange.path_name, said, page))


async def delete_response(exchange: Exchange, service: Service) -> None:
    exchange.stored.delete(exchange.principal, exchange.path_name)
    exchange.answer_json(responses.encode_deleted(exchange.path_name))


def _said_before(exchange: Exchange, wanted: ResponseRequest) -> tuple[Message, ...]:
    """Raises NotFound."""
    if wanted.previous_response_id is None:
        return ()
    return exchange.stored.get(exchange.principal, wanted.previous_response_id, "previous_response_id").messages


def _find_item(exchange: Exchange, item_id: str, param: str) -> dict[str, Any]:
    """An item that a stored response answered or that it answered with. Raises NotFound."""
    response_id = response_of(item_id)
    stored = exchange.stored.get(exchange.principal, response_id, param)
    items = [*msgspec.json.decode(stored.body)["output"], *input_items(response_id, stored.messages[:-1])]
    found: dict[str, Any] | None = next((item for item in items if item["id"] == item_id), None)
    if found is None:
        raise NotFound(f"{param} is no item of its response: send the item itself", param=param)
    return found


class _Kept:
    """An answer that is stored before its client learns that it is whole."""

    def __init__(
        self, exchange: Exchange, answer: ResponseAnswer, response_id: str, messages: tuple[Message, ...]
    ) -> None:
        self._exchange, self._answer, self._id, self._messages = exchange, answer, response_id, messages

    def take(self, events: Sequence[tuple[int, Event]]) -> list[Any]:
        return self._answer.take(events)

    def end(self, elapsed_s: float) -> list[Any]:
        events = self._answer.end(elapsed_s)
        self._keep(self._answer.response(elapsed_s))
        return events

    def response(self, elapsed_s: float) -> Any:
        body = self._answer.response(elapsed_s)
        self._keep(body)
        return body

    def _keep(self, body: Any) -> None:
        messages = (*self._messages, self._answer.output.message)
        self._exchange.stored.put(self._exchange.principal, self._id, encode(body), messages)
