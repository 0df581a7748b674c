"""Text that comes in parts is a line each for templates that take one text; the parts are kept for those that take a
list."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tripos.models.text.chat import ChatTemplate
from tripos.types import Message
from tripos.wire.openai import chat, responses

LISTS = "{% for part in messages[-1].content %}[{{ part.text }}]{% endfor %}"
TEXT = "{{ messages[-1].content }}"


def from_chat(*texts: str, role: str = "user") -> tuple[Message, ...]:
    content = [{"type": "text", "text": text} for text in texts]
    body: dict[str, Any] = {"model": "m", "messages": [{"role": role, "content": content}]}
    return chat.decode(json.dumps(body).encode()).requests[0].prompt  # type: ignore[return-value]


def from_responses(*texts: str, role: str = "user") -> tuple[Message, ...]:
    content = [{"type": "input_text", "text": text} for text in texts]
    body = {"model": "m", "input": [{"type": "message", "role": role, "content": content}]}
    return responses.decode(json.dumps(body).encode(), _nothing_stored).messages


def _nothing_stored(name: str) -> Any:
    raise AssertionError(f"nobody refers to {name}")


@pytest.mark.parametrize("read", [from_chat, from_responses])
@pytest.mark.parametrize("role", ["user", "system", "assistant"])
def test_parts_are_lines_of_one_text_or_a_list(read: Any, role: str) -> None:
    (message,) = read("a", "b", role=role)
    assert (message.content, message.parts) == ("a\nb", ("a", "b"))
    assert ChatTemplate(TEXT).render((message,)).text == "a\nb"
    assert ChatTemplate(LISTS).render((message,)).text == "[a][b]"


@pytest.mark.parametrize("read", [from_chat, from_responses])
def test_one_part_is_as_its_text(read: Any) -> None:
    (message,) = read("a")
    assert message.content == "a"
    assert ChatTemplate(TEXT).render((message,)).text == "a"
    assert ChatTemplate(LISTS).render((Message(role="user", content="a"),)).text == "[a]"
