"""For models whose template knows no calls, or in a way unknown here: the whole answer is {"name": …, "arguments": …}.
Also the tools in words, for any template that does not show them.

A list of such objects is read, but no grammar asks for one: models that were shown no calls do not end it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from tripos.dialects.dialect import ARGUMENTS, NAME, Dialect, Form, Frame
from tripos.dialects.parser import FIRST_KEYS, Reading, Source
from tripos.types import Message, Tool, ToolCall


def _read(source: Source) -> Reading[bool]:
    text = yield from source.value(FIRST_KEYS)
    return source.begins_call(text) and source.add_objects(text)


GENERIC = Dialect(
    name="json",
    form=Form(
        call=('{"name": "', NAME, '", "arguments": ', ARGUMENTS, "}"),
        frames=(Frame(""),),
        lists=(Frame("[", closing="]", separator=","),),
        is_whole=True,
    ),
    is_used_by=lambda template: True,
    read=_read,
    first="{[",
)


def spell_out(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation for a template without calls: those are the text that the assistant wrote, and their results the
    user's messages."""
    if not any(message.tool_calls or message.role == "tool" for message in messages):
        return tuple(messages)
    names: dict[str, str] = {}
    spelled = []
    for message in messages:
        names |= {call.id: call.name for call in message.tool_calls}
        spelled.append(_without_tools(message, names))
    return tuple(spelled)


def describe_tool(tool: Tool, parameters: dict[str, Any]) -> dict[str, Any]:
    """A tool as a model is shown it; no description where the client gave none."""
    description = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **description, "parameters": parameters}


def describe_in_words(messages: Sequence[Message], tools: Sequence[Tool], dialect: Dialect) -> tuple[Message, ...]:
    """The conversation with a system message that describes the tools and how to call them."""
    if not tools:
        return tuple(messages)
    has_system = messages[0].role == "system"
    words = [messages[0].content or ""] if has_system else []
    system = "\n\n".join([*words, _describe(tools, dialect)])
    return (Message(role="system", content=system), *messages[has_system:])


def _describe(tools: Sequence[Tool], dialect: Dialect) -> str:
    frame, places = dialect.form.frames[0], {NAME: "function_name", ARGUMENTS: '{"argument": "value"}'}
    example = frame.opening + "".join(str(places.get(part, part)) for part in dialect.form.call) + frame.closing
    functions = [json.dumps(describe_tool(tool, tool.parameters), ensure_ascii=False) for tool in tools]
    how = f"To call one, write this and nothing else: {example}"
    return "\n".join(["You may call these functions:", *functions, how, "Otherwise answer in plain text."])


def _without_tools(message: Message, names: dict[str, str]) -> Message:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", message.name or "the function")
        return Message(role="user", content=f"Result of {name}: {message.content or ''}")
    if message.tool_calls:
        calls = [_spell(call) for call in message.tool_calls]
        text = calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"
        content = f"{message.content}\n{text}" if message.content else text
        return replace(message, content=content, parts=(), tool_calls=())
    return message


def _spell(call: ToolCall) -> str:
    return f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}'
