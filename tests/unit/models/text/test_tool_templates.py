"""Calls and their results through templates as the families write them: what each insists on is what it gets."""

from __future__ import annotations

from typing import Any

import pytest

from tripos.errors import InvalidRequest
from tripos.models.text.chat import ChatTemplate
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
        LOOP.replace(
            "%s",
            "{% if message['content'] is none %}calls {{ message.tool_calls[0].function | tojson }}"
            "{% else %}says{% endif %}",
        ),
        'calls {"name": "f", "arguments": {"a": 1}}',
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


HEAD = "{% for message in messages %}<{{ message.role }}>"
FOOT = "|{% endfor %}"
CALLS = (
    "{% for call in message.tool_calls %}{{ call.function.name }} {{ call.function.arguments | tojson }}{% endfor %}"
)
# How families show the assistant's turn, whose content is null beside calls.
IF_CALLS = "{% if message.tool_calls %}" + CALLS + "{% endif %}"
FAMILIES = {
    "content in every turn, then calls": "{{ message.content }}" + IF_CALLS,
    "content joined to text": "{{ '[' ~ message['content'] ~ ']' }}" + IF_CALLS,
    "content that is trimmed": "{{ message['content'] | trim }}" + IF_CALLS,
    "content through a macro": (
        "{% macro show(text) %}{% if text is string %}{{ text }}{% elif text is iterable and text is not mapping %}"
        "{% for part in text %}{{ part.text }}{% endfor %}{% else %}{{ text }}{% endif %}{% endmacro %}"
        "{{ show(message.content) }}" + IF_CALLS
    ),
    "content set first": "{% set said = message.content %}{{ said }}" + IF_CALLS,
    "content with a method": "{{ message.content.strip() }}" + IF_CALLS,
    "content added to text": "{{ '' + message.content }}" + IF_CALLS,
    "calls only where content is none": (
        "{% if message['content'] is none %}" + CALLS + "{% else %}{{ message['content'] }}{% endif %}"
    ),
    "calls only where there is no content": (
        "{% if message.content is not defined %}" + CALLS + "{% else %}{{ message.content }}{% endif %}"
    ),
}


@pytest.mark.parametrize("source", FAMILIES.values(), ids=FAMILIES)
def test_calls_without_content_show_the_calls_and_no_none(source: str) -> None:
    text = ChatTemplate(HEAD + source + FOOT, (), "<s>", "</s>").render(TALK, TOOLS).text
    assert "None" not in text
    assert text.replace("[", "").replace("]", "") == '<user>hi|<assistant>f {"a": 1}|<tool>sunny|'


def test_arguments_are_shown_as_json_where_the_template_prints_them() -> None:
    source = LOOP.replace("%s", "{{ message.tool_calls[0].function.arguments }}")
    assert 'hi|{"a": 1}sunny|' in ChatTemplate(source, (), "<s>", "</s>").render(TALK, TOOLS).text


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_earlier_reasoning_is_there_by_every_name(name: str) -> None:
    source = LOOP.replace("%s", "{{ message." + name + " }}")
    assert "hi|Hm.sunny|" in ChatTemplate(source, (), "<s>", "</s>").render(TALK, TOOLS).text


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ tools[0] | tojson }}", '{"type": "function", "function": {"name": "f", "parameters": {}}}'),
        ("{{ tools[0].function.name + ': ' + tools[0].function.description }}", "f: "),
        ("{{ tools[0].function.name }} {{ tools[0].function.description }}", "f "),
    ],
)
def test_a_tool_without_a_description_has_none_unless_the_template_must_have_one(source: str, expected: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    talk = [Message(role="user", content="hi")]
    assert ChatTemplate("{% if tools %}" + source + "{% endif %}").render(talk, tools).text == expected


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
