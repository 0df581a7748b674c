"""Section 3.6: chat messages and tools (M). M11, what a model says in tools' language, is in tests/unit/dialects."""

from __future__ import annotations

from typing import Any

from tests.api.corpus.row import MIB, chat, message, row
from tests.api.running import HELLO

TYPE, VALUE, MANY, MISSING = "400 invalid_type", "400 invalid_value", "400 too_many_items", "400 missing_field"
SCHEMA, UNSUPPORTED, RANGE = "400 invalid_schema", "400 unsupported_schema", "400 out_of_range"
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASSISTANT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOOL = {"role": "tool", "content": "1", "tool_call_id": "c1"}


def called(arguments: str) -> Any:
    call = {**CALL, "function": {"name": "f", "arguments": arguments}}
    return chat(messages=[*HELLO, {**ASSISTANT, "tool_calls": [call]}, TOOL])


def tool(**fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, **fields}}


def offers(*tools: Any, **fields: Any) -> Any:
    return chat(tools=list(tools), **fields)


ROWS: list[Any] = [
    row("M01", "no messages", chat(messages=...), MISSING, param="messages"),
    row("M01", "empty messages", chat(messages=[]), MISSING, param="messages"),
    row("M01", "messages null", chat(messages=None), MISSING, param="messages"),
    row("M01", "40,000 messages", chat(messages=[{}] * 40_000), MANY, param="messages"),
    *(row("M02", f"role {str(role)[:9]}", message(role=role), VALUE) for role in (..., "root", "r" * MIB, None, ["user"])),
    *(row("M03", f"content {content!r}", message(content=content), TYPE) for content in (None, [], [["x"]], 5)),
    row("M04", "unknown kind of part", message(content=[{"type": "video", "text": "x"}]), VALUE),
    row("M04", "a part of two kinds", message(content=[{"type": "text", "text": "x", "image_url": {}}]), VALUE),
    row("M05", "tool message without id", chat(messages=[*HELLO, ASSISTANT, {"role": "tool", "content": "1"}]), VALUE),
    row("M05", "tool message with unknown id", chat(messages=[*HELLO, ASSISTANT, {**TOOL, "tool_call_id": "c2"}]), VALUE),
    row("M05", "tool message twice", chat(messages=[*HELLO, ASSISTANT, TOOL, TOOL]), VALUE),
    *(row("M06 S", f"arguments {what}", called(text), "200") for what, text in (("no JSON", "not { json"), ("nested", "[" * 50 + "]" * 50))),
    *(row("M06", f"arguments {what}", called(text), "400 context_length_exceeded", deviates="what passes through counts as text") for what, text in (("of 1 MB", '{"a":"' + "x" * MIB + '"}'), ("nested deep", "[" * 1000 + "]" * 1000))),
    row("M07", "129 tools", offers(*[tool(name=f"f{i}") for i in range(129)]), MANY, feature="tools"),
    row("M07", "two tools of one name", offers(tool(), tool()), VALUE, feature="tools"),
    *(row("M07", f"tool named {name[:12]!r}", offers(tool(name=name)), VALUE, feature="tools") for name in ("", "a" * 65, "a b", "a\nb", "é")),
    row("M07", "tool named __import__", offers(tool(name="__import__")), VALUE, feature="tools"),
    *(row("M08", f"parameters {schema!r}", offers(tool(parameters=schema)), SCHEMA, feature="tools") for schema in ([], "x", 5)),
    row("M08", "parameters of an unknown type", offers(tool(parameters={"type": "x"}), tool_choice="required"), SCHEMA, feature="enforced tool schemas"),
    row("M09", "an absent tool chosen", offers(tool(), tool_choice={"type": "function", "function": {"name": "g"}}), VALUE, feature="tools"),
    row("M09", "a tool required of none", chat(tool_choice="required"), VALUE, feature="tools"),
    row("M12 S", "template syntax", message(content="{{ 7*7 }} {% for x in y %}"), "200"),
    row("M13", "a template in the request", chat(chat_template="{{ 1 }}"), "400 invalid_value", deviates="a known name, which is refused"),
    *(row("M13", f"template args {args!r}", chat(chat_template_kwargs=args), "400 invalid_template_args") for args in ({"tokenize": True}, {"a b": 1}, {"x": {"y": 1}}, {"__class__": 1}, {"messages": "x"})),
    row("M15", "no type of format", chat(response_format={}), MISSING, param="response_format.type"),
    row("M15", "json_schema without a schema", chat(response_format={"type": "json_schema"}), MISSING, feature="grammar"),
    row("M15", "json_schema with no schema inside", chat(response_format={"type": "json_schema", "json_schema": {"name": "x"}}), MISSING, feature="grammar"),
    row("M15 S", "text", chat(response_format={"type": "text"}), "200"),
    *(row("M16", f"name {name!r}", message(name=name), VALUE) for name in ("a\nb", "\x00", "\x1b[31m", "")),
    row("M17", "2,049 messages", chat(messages=[{"role": "user", "content": "x"}] * 2049), MANY),
]  # fmt: skip

# Long, and served: by a model with room for them.
ROOMY_ROWS: list[Any] = [
    row("M10 S", "a description of 57 KB with quotes", offers(tool(description='"\\{{ x }} {% if %}' * 3000)), "200", feature="tools"),
    row("M17 S", "2,048 messages", chat(messages=[{"role": "user", "content": "x"}] * 2048), "200"),
]  # fmt: skip
