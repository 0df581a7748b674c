"""Messages, tools and thinking in Ollama's words. Its calls have no ids and arguments that are objects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tripos.errors import InvalidRequest, shown
from tripos.types import Effort, Message, ReasoningOptions, Tool, ToolCall
from tripos.wire.fields import Field, Found, kind_of, read, table
from tripos.wire.ignored import Ignored
from tripos.wire.json import encode
from tripos.wire.tools import Tools, make_tools, read_tool

_MESSAGE = table(
    Field("role", "string", "", choices=("system", "user", "assistant", "tool"), required=True),
    Field("content", "string", ""),
    Field("images", "array", "", max_items=0),
    Field("tool_calls", "array", "", max_items=128),
    Field("thinking", "string", "Of an earlier answer, for templates that show it again."),
    Field("tool_name", "string", "", max_bytes=256),
    Field("tool_call_id", "string", "", max_bytes=256),
)
_CALL = table(
    Field("function", "object", "", required=True),
    Field("id", "string", "", max_bytes=256),
    Field("type", "string", "", choices=("function",)),
)
_CALLED = table(
    Field("name", "string", "", max_bytes=256, required=True),
    Field("arguments", "object", "", required=True),
    Field("index", "integer", "", use="ignored"),
    Field("description", "string", "", use="ignored"),
)
_TOOL = table(Field("type", "string", "", choices=("function",)), Field("function", "object", "", required=True))
_FUNCTION = table(
    Field("name", "any", ""),
    Field("description", "string", "", max_bytes=64 * 1024),
    Field("parameters", "any", ""),
    Field("strict", "boolean", "All of the schema is enforced, or refused; otherwise what can be enforced is."),
)
_EFFORTS: dict[str, Effort] = {"low": "low", "medium": "medium", "high": "high", "max": "max"}


def read_tools(found: Found) -> Tools:
    """Raises InvalidRequest naming the field."""
    tools = [_read_tool(value, f"tools[{i}]", found.ignored) for i, value in enumerate(found.get("tools", ()))]
    return make_tools(tools, "auto", None, True, ("tools", "tools"))


def _read_tool(value: Any, path: str, ignored: list[Ignored]) -> Tool:
    tool = read(value, _TOOL, path, ignored)
    given, found = tool["function"], tool.inner("function", _FUNCTION)
    path = found.path
    parameters = given.get("parameters")
    if isinstance(parameters, dict):  # its official client sends every key it knows
        parameters = _without_nulls(parameters)
    return read_tool(
        found.get("name"),
        found.get("description"),
        parameters,
        f"{path}.name",
        f"{path}.parameters",
        is_strict=found.get("strict", False),
    )


def _without_nulls(schema: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in schema.items()
        if value is not None
    }


def read_reasoning(value: Any) -> ReasoningOptions:
    """Raises InvalidRequest (invalid_value)."""
    if value is None:
        return ReasoningOptions()
    if isinstance(value, bool):
        return ReasoningOptions(is_on=value, required_by="think" if value else "")
    if isinstance(value, str) and value in _EFFORTS:
        return ReasoningOptions(is_on=True, effort=_EFFORTS[value], required_by="think")
    given = shown(value) if isinstance(value, str) else kind_of(value)
    message = f"think is {given}: use true, false or one of {', '.join(_EFFORTS)}"
    raise InvalidRequest(message, code="invalid_value", param="think")


def read_messages(values: Sequence[Any]) -> tuple[Message, ...]:
    """Calls get ids by their place; a result answers the open call of its name, or the oldest.

    Raises InvalidRequest.
    """
    messages: list[Message] = []
    open_calls: list[ToolCall] = []
    for i, value in enumerate(values):
        path = f"messages[{i}]"
        found = read(value, _MESSAGE, path)
        role, given = found["role"], found.get("tool_calls", ())
        calls = tuple(_read_call(each, f"{path}.tool_calls[{j}]", f"{i:04}{j:05}") for j, each in enumerate(given))
        if calls and role != "assistant":
            where = f"{path}.tool_calls"
            raise InvalidRequest(f"{where}: only an assistant calls tools", code="invalid_value", param=where)
        open_calls += calls
        answered = _answered(found, path, open_calls) if role == "tool" else None
        messages.append(
            Message(
                role=role,
                content=found.get("content", None if calls else ""),
                tool_calls=calls,
                tool_call_id=answered,
                reasoning=found.get("thinking"),
            )
        )
    return tuple(messages)


def _read_call(value: Any, path: str, id: str) -> ToolCall:
    found = read(value, _CALL, path)
    function = read(found["function"], _CALLED, f"{path}.function")
    return ToolCall(id=found.get("id", id), name=function["name"], arguments=encode(function["arguments"]).decode())


def _answered(found: dict[str, Any], path: str, open_calls: list[ToolCall]) -> str:
    """The id of the call that a tool's message answers, which is open no longer."""
    id, name = found.get("tool_call_id"), found.get("tool_name")
    for call in open_calls:
        if (id is None or call.id == id) and (name is None or call.name == name):
            open_calls.remove(call)
            return call.id
    message = f"{path} answers no open call of an earlier assistant message"
    raise InvalidRequest(message, code="invalid_value", param=path)


def encode_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    return [{"id": call.id, "function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in calls]
