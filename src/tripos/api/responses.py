"""/v1/responses: create, count, show and delete."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from tripos import answers
from tripos.api import tokens
from tripos.api.generate import ResponseEncoder, find_card, send_answer
from tripos.api.http.exchange import Exchange
from tripos.errors import NotFound
from tripos.service import Service
from tripos.types import Event, Message
from tripos.wire.json import encode
from tripos.wire.openai import responses
from tripos.wire.openai.input_items import check_whole, encode_input_items, input_items, read_page, response_of
from tripos.wire.openai.responses import ResponseAnswer, ResponseRequest


async def create_response(exchange: Exchange, service: Service) -> None:
    decoded = responses.decode(await exchange.read_body(), partial(_find_item, exchange))
    card = find_card(exchange, service, decoded.generation.model)
    earlier = _earlier_messages(exchange, decoded)
    request = answers.adapt(service, responses.to_generation(decoded, earlier), card)
    response_id = "resp_" + secrets.token_hex(16)  # not the request's own id, which a client may choose
    answer = ResponseAnswer(decoded, request.requests[0], response_id, int(time.time()), card.name)
    exchange.encode_failure = answer.failure
    encoder: ResponseEncoder = answer
    if decoded.is_stored:
        encoder = _StoringEncoder(exchange, answer, response_id, (*earlier, *decoded.messages))
    await send_answer(exchange, service, request, encoder)


async def count_tokens(exchange: Exchange, service: Service) -> None:
    decoded = responses.decode_count(await exchange.read_body(), partial(_find_item, exchange))
    request = responses.to_generation(decoded, _earlier_messages(exchange, decoded))
    num_tokens = await tokens.count(exchange, service, request)
    exchange.answer_json(responses.encode_count(num_tokens))


async def show_response(exchange: Exchange, service: Service) -> None:
    check_whole(exchange.query())
    exchange.answer(200, exchange.stored.get(exchange.principal, exchange.path_params["name"]).body)


async def list_input_items(exchange: Exchange, service: Service) -> None:
    page = read_page(exchange.query())
    response_id = exchange.path_params["name"]
    messages = exchange.stored.get(exchange.principal, response_id).messages[:-1]  # the last is the answer
    exchange.answer_json(encode_input_items(response_id, messages, page))


async def delete_response(exchange: Exchange, service: Service) -> None:
    exchange.stored.delete(exchange.principal, exchange.path_params["name"])
    exchange.answer_json(responses.encode_deleted(exchange.path_params["name"]))


def _earlier_messages(exchange: Exchange, decoded: ResponseRequest) -> tuple[Message, ...]:
    """The conversation that the request continues. Raises NotFound."""
    if decoded.previous_response_id is None:
        return ()
    return exchange.stored.get(exchange.principal, decoded.previous_response_id, "previous_response_id").messages


def _find_item(exchange: Exchange, item_id: str, param: str) -> dict[str, Any]:
    """An input or output item of a stored response. Raises NotFound."""
    response_id = response_of(item_id)
    stored = exchange.stored.get(exchange.principal, response_id, param)
    items = [*msgspec.json.decode(stored.body)["output"], *input_items(response_id, stored.messages[:-1])]
    found: dict[str, Any] | None = next((item for item in items if item["id"] == item_id), None)
    if found is None:
        raise NotFound(f"{param} is not an item of its response: send the item itself", param=param)
    return found


class _StoringEncoder:
    """Encodes a response, and stores it before its client learns that it is complete."""

    def __init__(
        self, exchange: Exchange, answer: ResponseAnswer, response_id: str, messages: tuple[Message, ...]
    ) -> None:
        self._exchange, self._answer, self._id, self._messages = exchange, answer, response_id, messages

    def take(self, events: Sequence[tuple[int, Event]]) -> list[Any]:
        return self._answer.take(events)

    def end(self, elapsed_s: float) -> list[Any]:
        events = self._answer.end(elapsed_s)
        self._store(self._answer.response(elapsed_s))
        return events

    def response(self, elapsed_s: float) -> Any:
        body = self._answer.response(elapsed_s)
        self._store(body)
        return body

    def _store(self, body: Any) -> None:
        messages = (*self._messages, self._answer.output.message)
        self._exchange.stored.put(self._exchange.principal, self._id, encode(body), messages)
