"""What a chat request may tell the model's template, and how a client learns what the template does not read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tripos.errors import InvalidRequest
from tripos.types import ModelCard
from tripos.wire.generation import for_model
from tripos.wire.openai import chat

HELLO = [{"role": "user", "content": "Hello"}]


def asked(**fields: Any) -> Any:
    return chat.decode(json.dumps({"model": "m", "messages": HELLO, **fields}).encode())


def card(**fields: Any) -> ModelCard:
    return ModelCard(name="m", task="generate", digest="d", **fields)


@pytest.mark.parametrize(
    ("known", "reported"),
    [(("enable_thinking",), ["chat_template_kwargs.other"]), ((), ["enable_thinking", "other"]), (None, [])],
)
def test_an_argument_that_the_template_does_not_read_is_reported(
    known: tuple[str, ...] | None, reported: list[str]
) -> None:
    request = asked(chat_template_kwargs={"enable_thinking": False, "other": 1}, add_generation_prompt=False)
    found = for_model(request, card(template_args=known))
    assert [each.name.removeprefix("chat_template_kwargs.") for each in found.ignored] == [
        name.removeprefix("chat_template_kwargs.") for name in reported
    ]
    assert not request.ignored


def test_a_message_is_continued_instead_of_a_new_turn() -> None:
    args = asked(continue_final_message=True).requests[0].template_args
    assert args == {"continue_final_message": True, "add_generation_prompt": False}
    assert asked(continue_final_message=False).requests[0].template_args == {}
    for fields in (
        {"continue_final_message": True, "add_generation_prompt": True},
        {"chat_template_kwargs": {"continue_final_message": True}},
    ):
        with pytest.raises(InvalidRequest):
            asked(**fields)
