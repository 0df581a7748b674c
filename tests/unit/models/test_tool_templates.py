"""Calls and their results through templates as the families write them: what each insists on is what it gets."""

from __future__ import annotations

from typing import Any

import pytest

from tripos.errors import InvalidRequest
from tripos.models.chat import ChatTemplate
from tripos.types import Message, ToolCall

ARGUMENTS = '{"a": 1}'
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
]
TALK = [
    Message(role="user", content="hi"),
    Message(role="assistant", tool_calls=(ToolCall(id="abcdefghi", name="f", arguments=ARGUMENTS),), reasoning="Hm."),
    Message(role="tool", content="sunny", tool_call_id="abcdefghi"),
]
LOOP = (
    "{% for message in messages %}{% if message.role == 'assistant' %}%s"
    "{% else %}{{ message.content }}|{% endif %}{% endfor %}"
)

CASES = {
    "arguments as an object": (
        "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
        + LOOP.replace("%s", "{% for call in message.tool_calls %}{{ call.function.arguments | tojson }}{% endfor %}"),
        '{"a": 1}',
    ),
    "arguments as text, joined to text": (
        LOOP.replace(
            "%s", "{{ message['tool_calls'][0]['function']['name'] + ':' + message.tool_calls[0].function.arguments }}"
        ),
        'f:{"a": 1}',
    ),
    "content that is text even where there is none": (
        LOOP.replace(
            "%s", "{% if '</think>' in message.content %}no{% endif %}{{ message.tool_calls[0].function.arguments.a }}"
        ),
        "1",
    ),
    "no content where there is none": (
        LOOP.replace("%s", "{% if message['content'] is none %}calls{% else %}says{% endif %}"),
        "calls",
    ),
    "both as text": (
        LOOP.replace("%s", "{{ message.content + message.tool_calls[0].function.arguments }}"),
        '{"a": 1}',
    ),
    "ids of nine characters": (
        LOOP.replace(
            "%s",
            "{% for call in message.tool_calls %}{% if call.id | length != 9 %}{{ raise_exception('nine') }}{% endif %}"
            "{{ call.function | tojson }}{% endfor %}",
        ),
        '{"name": "f", "arguments": {"a": 1}}',
    ),
    "reasoning shown again": (
        LOOP.replace(
            "%s", "{% if message.reasoning_content is defined %}<think>{{ message.reasoning_content }}{% endif %}"
        ),
        "<think>Hm.",
    ),
}


@pytest.mark.parametrize(("source", "expected"), CASES.values(), ids=CASES)
def test_a_template_gets_calls_as_it_wants_them(source: str, expected: str) -> None:
    text = ChatTemplate(source, ("<think>",), "<s>", "</s>").render(TALK, TOOLS).text
    assert f"hi|{expected}sunny|" in text


def test_what_a_template_cannot_show_at_all_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="fails on these messages"):
        ChatTemplate(LOOP.replace("%s", "{{ 1 + 'a' }}"), (), "", "").render(TALK, TOOLS)


def test_arguments_that_are_no_json_are_shown_as_they_are() -> None:
    call = ToolCall(id="1", name="f", arguments="not { json")
    source = LOOP.replace("%s", "{{ message.tool_calls[0].function.arguments }}")
    talk = [Message(role="user", content="x"), Message(role="assistant", tool_calls=(call,))]
    assert ChatTemplate(source, (), "", "").render(talk, TOOLS).text == "x|not { json"
