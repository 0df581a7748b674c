"""The input of /v1/responses: messages, reasoning, function calls and their outputs → the turns of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from tripos.errors import InvalidRequest, shown
from tripos.types import Message, ToolCall
from tripos.wire.fields import Field, kind_of, read, table
from tripos.wire.generation import MAX_MESSAGES, join_parts
from tripos.wire.openai.functions import flat_name

_MESSAGE = table(
    Field("type", "string", "", choices=("message",)),
    Field("role", "string", "", choices=("user", "assistant", "system", "developer"), required=True),
    Field("content", "any", "", required=True),
    Field("id", "string", "Of an earlier answer.", max_bytes=256, use="ignored"),
    Field("status", "string", "Of an earlier answer.", max_bytes=64, use="ignored"),
    Field("phase", "string", "Of an earlier answer.", max_bytes=64, use="ignored"),
)
_CALL = table(
    Field("type", "string", "", choices=("function_call",), required=True),
    Field("call_id", "string", "", max_bytes=256, required=True),
    Field("name", "string", "", max_bytes=256, required=True),
    Field("arguments", "string", "", required=True),
    Field("id", "string", "", max_bytes=256, use="ignored"),
    Field("status", "string", "", max_bytes=64, use="ignored"),
    Field("namespace", "string", "", max_bytes=256),
    Field("caller", "any", "", use="ignored"),
    Field("parsed_arguments", "any", "Of the client's own helpers.", use="ignored"),
)
_CALL_OUTPUT = table(
    Field("type", "string", "", choices=("function_call_output",), required=True),
    Field("name", "string", "", max_bytes=256, use="ignored"),
    Field("namespace", "string", "", max_bytes=256, use="ignored"),
    Field("call_id", "string", "", max_bytes=256, required=True),
    Field("output", "any", "", required=True),
    Field("id", "string", "", max_bytes=256, use="ignored"),
    Field("status", "string", "", max_bytes=64, use="ignored"),
    Field("caller", "any", "", use="ignored"),
)
_REASONING_ITEM = table(
    Field("type", "string", "", choices=("reasoning",), required=True),
    Field("content", "array", ""),
    Field("summary", "array", "", use="ignored"),
    Field("id", "string", "", max_bytes=256, use="ignored"),
    Field("status", "string", "", max_bytes=64, use="ignored"),
    Field("encrypted_content", "string", "", use="ignored"),
)
_REFERENCE = table(
    Field("type", "string", "", choices=("item_reference",)), Field("id", "string", "", max_bytes=256, required=True)
)
_REASONING_PART = table(
    Field("type", "string", "", choices=("reasoning_text",), required=True), Field("text", "string", "", required=True)
)
_PART = table(
    Field("type", "string", "", choices=("input_text", "output_text"), required=True),
    Field("text", "string", "", required=True),
    Field("annotations", "array", "Of an earlier answer.", use="ignored"),
    Field("logprobs", "array", "Of an earlier answer.", use="ignored"),
    Field("prompt_cache_breakpoint", "object", "Prefixes are always reused.", use="ignored"),
)

FindItem = Callable[[str, str], dict[str, Any]]  # (id of an item, path for errors) → the item as it was sent


def read_input(value: Any, find_item: FindItem) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message(role="user", content=value),)
    if not isinstance(value, list):
        message = f"input must be text or an array, not {kind_of(value)}"
        raise InvalidRequest(message, code="invalid_type", param="input")
    if not value:
        raise InvalidRequest("input is empty", code="missing_field", param="input")
    if len(value) > MAX_MESSAGES:
        message = f"input has {len(value)} items, at most {MAX_MESSAGES} may be given"
        raise InvalidRequest(message, code="too_many_items", param="input")
    return tuple(_read_item(_followed(each, f"input[{i}]", find_item), f"input[{i}]") for i, each in enumerate(value))


def _followed(value: Any, path: str, find_item: FindItem) -> Any:
    """An item, where a client sent no more than its id."""
    if not isinstance(value, dict) or (value.get("type") or "item_reference") != "item_reference" or "role" in value:
        return value
    return find_item(read(value, _REFERENCE, path)["id"], f"{path}.id")


def _read_item(value: Any, path: str) -> Message:
    kinds = ("message", "function_call", "function_call_output", "reasoning")
    _check_kind(value, kinds, path, "reads messages, reasoning, function calls, their outputs and references to these")
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function_call":
        found = read(value, _CALL, path)
        name = flat_name(found.get("namespace", ""), found["name"])
        call = ToolCall(id=found["call_id"], name=name, arguments=found["arguments"])
        return Message(role="assistant", tool_calls=(call,))
    if kind == "function_call_output":
        found = read(value, _CALL_OUTPUT, path)
        return _message("tool", found["output"], f"{path}.output", tool_call_id=found["call_id"])
    if kind == "reasoning":
        return Message(role="assistant", reasoning=_read_reasoning(value, path))
    found = read(value, _MESSAGE, path)
    role = "system" if found["role"] == "developer" else found["role"]
    return _message(role, found["content"], f"{path}.content")


def _message(role: str, content: Any, path: str, tool_call_id: str | None = None) -> Message:
    parts = () if isinstance(content, str) else _read_parts(content, path)
    return Message(role=role, content=join_parts(parts) if parts else content, parts=parts, tool_call_id=tool_call_id)


def _read_reasoning(value: Any, path: str) -> str:
    parts = read(value, _REASONING_ITEM, path).get("content", [])
    return join_parts([read(part, _REASONING_PART, f"{path}.content[{i}]")["text"] for i, part in enumerate(parts)])


def join_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Items of one turn of the assistant (reasoning, text, calls) as the one message that templates know.

    Raises InvalidRequest for an output that answers no call.
    """
    joined: list[Message] = []
    open_ids: set[str] = set()
    for message in messages:
        before = joined[-1] if joined else None
        if message.role == "tool":
            if message.tool_call_id not in open_ids:
                text = f"input holds an output for call {shown(message.tool_call_id or '')}, which nobody made"
                raise InvalidRequest(text, code="invalid_value", param="input")
            open_ids.discard(message.tool_call_id)
        open_ids |= {call.id for call in message.tool_calls}
        is_more = message.role == "assistant" and (message.tool_calls or message.content is not None)
        if before is not None and before.role == "assistant" and is_more and not _is_whole(before, message):
            joined[-1] = replace(
                before,
                content=before.content if message.content is None else message.content,
                parts=before.parts if message.content is None else message.parts,
                tool_calls=(*before.tool_calls, *message.tool_calls),
            )
        else:
            joined.append(message)
    return tuple(each for each in joined if each.content is not None or each.tool_calls)


def _is_whole(before: Message, message: Message) -> bool:
    """Whether a message of the assistant cannot go on with another."""
    return message.content is not None and (before.content is not None or bool(before.tool_calls))


def _read_parts(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        message = f"{path} must be text or a list of parts that is not empty, not {kind_of(value)}"
        raise InvalidRequest(message, code="invalid_type", param=path)
    texts = []
    for i, part in enumerate(value):
        _check_kind(part, ("input_text", "output_text"), f"{path}[{i}]", "reads text only")
        texts.append(read(part, _PART, f"{path}[{i}]")["text"])
    return tuple(texts)


def _check_kind(value: Any, known: tuple[str, ...], path: str, reads: str) -> None:
    """A clear word about items and parts of kinds that are not served."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind not in known:
        message = f"{path}.type is {shown(kind)}: this server {reads}"
        raise InvalidRequest(message, code="invalid_value", param=f"{path}.type")
