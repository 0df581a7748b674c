"""For models whose template knows no tools, or in a way unknown here: the tools are described in a system message, and
the whole answer is {"name": …, "arguments": …}.

A list of such objects is read; it is not asked for, because models that were shown no calls find no end of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from msgspec.structs import replace

from tripos.types import Message, ToolCall
from tripos.wire.tools.dialect import ARGUMENTS, NAME, Dialect, Form, Frame
from tripos.wire.tools.offer import Tool
from tripos.wire.tools.parser import CALL_KEYS, Reading, Source


def _read(source: Source) -> Reading[bool]:
    text = yield from source.value(CALL_KEYS)
    return source.add_objects(text)


GENERIC = Dialect(
    name="json",
    form=Form(
        call=('{"name": "', NAME, '", "arguments": ', ARGUMENTS, "}"),
        frames=(Frame(""),),
    ),
    is_used_by=lambda template: True,
    read=_read,
    first="{[",
)


def spell_out(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """The conversation for a template without tools: what there is to call in the system's message, calls as the text
    that the assistant wrote, their results as the user's messages."""
    names: dict[str, str] = {}
    told = []
    for message in messages:
        names |= {call.id: call.name for call in message.tool_calls}
        told.append(_without_tools(message, names))
    if not tools:
        return tuple(told)
    first = "\n\n".join([*(each.content or "" for each in told[:1] if each.role == "system"), _describe(tools)])
    return (Message(role="system", content=first), *told[told[0].role == "system" :])


def _describe(tools: Sequence[Tool]) -> str:
    lines = [
        "You may call these functions:",
        *(
            json.dumps(
                {"name": tool.name, "description": tool.description, "parameters": tool.parameters}, ensure_ascii=False
            )
            for tool in tools
        ),
        'To call one, answer with {"name": its name, "arguments": {its arguments}} and nothing else. '
        "Otherwise answer in plain text.",
    ]
    return "\n".join(lines)


def _without_tools(message: Message, names: dict[str, str]) -> Message:
    if message.role == "tool":
        name = names.get(message.tool_call_id or "", message.name or "the function")
        return Message(role="user", content=f"Result of {name}: {message.content or ''}")
    if message.tool_calls:
        calls = [_spell(call) for call in message.tool_calls]
        text = calls[0] if len(calls) == 1 else f"[{', '.join(calls)}]"
        content = f"{message.content}\n{text}" if message.content else text
        return replace(message, content=content, tool_calls=())
    return message


def _spell(call: ToolCall) -> str:
    return f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments or "{}"}}}'
