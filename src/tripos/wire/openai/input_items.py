"""GET /v1/responses/{id}/input_items: what a stored response answered, as a list of items; and its query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tripos.errors import InvalidRequest, shown
from tripos.types import Message

MAX_LIMIT, DEFAULT_LIMIT = 100, 20
_IGNORED = ("include", "include[]", "include_obfuscation", "starting_after")


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Which items are wanted."""

    limit: int = DEFAULT_LIMIT
    is_descending: bool = True
    after: str | None = None  # id of an item


def read_page(query: Mapping[str, str]) -> Page:
    """Raises InvalidRequest: unknown_field, invalid_value, out_of_range."""
    _check_names(query, ("limit", "order", "after"))
    limit = query.get("limit", str(DEFAULT_LIMIT))
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= MAX_LIMIT):
        raise InvalidRequest(f"limit must be 1 to {MAX_LIMIT}", code="out_of_range", param="limit")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order is {shown(order)}, not one of asc, desc", code="invalid_value", param="order")
    return Page(limit=int(limit), is_descending=order == "desc", after=query.get("after"))


def check_whole(query: Mapping[str, str]) -> None:
    """A stored response comes whole. Raises InvalidRequest."""
    _check_names(query, ("stream",))
    if query.get("stream", "false") != "false":
        message = "stream: a stored response comes whole, leave it out"
        raise InvalidRequest(message, code="invalid_value", param="stream")


def _check_names(query: Mapping[str, str], known: Sequence[str]) -> None:
    for name in query:
        if name not in known and name not in _IGNORED:
            message = f"{shown(name)} is not a known parameter: use {', '.join(known)}"
            raise InvalidRequest(message, code="unknown_field", param=name[:64])


def encode_input_items(response_id: str, messages: Sequence[Message], page: Page) -> dict[str, Any]:
    """A page of `messages`. Raises InvalidRequest when `after` is no item of them."""
    items = input_items(response_id, messages)
    if page.is_descending:
        items.reverse()
    ids = [item["id"] for item in items]
    if page.after is not None and page.after not in ids:
        raise InvalidRequest("after is no item of this response", code="invalid_value", param="after")
    first = 0 if page.after is None else ids.index(page.after) + 1
    shown_items = items[first : first + page.limit]
    return {
        "object": "list",
        "data": shown_items,
        "first_id": shown_items[0]["id"] if shown_items else None,
        "last_id": shown_items[-1]["id"] if shown_items else None,
        "has_more": first + page.limit < len(items),
    }


def input_items(response_id: str, messages: Sequence[Message]) -> list[dict[str, Any]]:
    suffix = response_id.removeprefix("resp_")
    return [item for i, message in enumerate(messages) for item in _items(message, f"{suffix}_in{i}")]


def response_of(item_id: str) -> str:
    """The id of the response that an item belongs to, by the form of our ids."""
    return "resp_" + item_id.partition("_")[2].partition("_")[0]


def _items(message: Message, suffix: str) -> list[dict[str, Any]]:
    """A message, the calls in it, or the output of one, in the order called."""
    done = {"status": "completed"}
    if message.role == "tool":
        output = {"type": "function_call_output", "call_id": message.tool_call_id, "output": message.content or ""}
        return [{"id": f"fco_{suffix}", **output, **done}]
    items: list[dict[str, Any]] = []
    if message.content is not None:
        part: dict[str, Any] = {"type": "input_text", "text": message.content}
        if message.role == "assistant":
            part = {"type": "output_text", "text": message.content, "annotations": [], "logprobs": []}
        items.append({"id": f"msg_{suffix}", "type": "message", "role": message.role, "content": [part], **done})
    for i, call in enumerate(message.tool_calls):
        called = {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments}
        items.append({"id": f"fc_{suffix}_{i}", **called, **done})
    return items
