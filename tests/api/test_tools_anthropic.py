"""The official Anthropic client calls tools and gets thinking blocks: whole, streamed, sync."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import anthropic
import pytest

from tests.api.running import HELLO, Running, running
from tests.api.speaking import CALL, PARAMETERS, SECOND, request_of, speaking

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS: list[Any] = [
    {"name": "get_weather", "description": "Weather.", "input_schema": PARAMETERS},
    {"name": "now", "input_schema": {"type": "object", "properties": {}}},
]
ASKED: dict[str, Any] = {"model": "scripted", "messages": HELLO, "max_tokens": 2000, "tools": TOOLS}
INPUT = {"city": "Paris", "days": 2}
THINKING: dict[str, Any] = {"type": "enabled", "budget_tokens": 1024}


def client_of(server: Running) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0)


async def test_blocks_hold_thinking_text_and_calls() -> None:
    text = f"<think>\nHm.\n</think>\n\nI look.\n{CALL}\n{SECOND}"
    async with running(speaking(text)) as server, client_of(server) as client:
        done = await client.messages.create(**ASKED, thinking=THINKING)
    assert [block.type for block in done.content] == ["thinking", "text", "tool_use", "tool_use"]
    thinking, said, call, second = done.content
    assert thinking.type == "thinking"
    assert thinking.thinking == "Hm."
    assert said.type == "text"
    assert said.text == "I look."
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("get_weather", INPUT)
    assert second.type == "tool_use"
    assert (second.name, second.input) == ("now", {})
    assert done.stop_reason == "tool_use"


async def test_events_build_the_same_message() -> None:
    text = f"<think>Hm.</think>I look.\n{CALL}"
    async with running(speaking(text)) as server, client_of(server) as client:
        whole = await client.messages.create(**ASKED, thinking=THINKING)
        async with client.messages.stream(**ASKED, thinking=THINKING) as stream:
            kinds = [event.type async for event in stream]
            built = await stream.get_final_message()
    assert {"thinking", "text", "input_json"} <= set(kinds)
    for mine, theirs in zip(built.content, whole.content, strict=True):
        assert mine.model_dump(exclude={"id", "parsed_output"}) == theirs.model_dump(exclude={"id", "parsed_output"})
    assert built.stop_reason == "tool_use"


async def test_thinking_is_signed_for_clients_that_keep_no_other() -> None:
    async with running(speaking(f"<think>Hm.</think>Look: {CALL}")) as server, client_of(server) as client:
        whole = await client.messages.create(**ASKED, thinking=THINKING)
        async with client.messages.stream(**ASKED, thinking=THINKING) as stream:
            streamed = await stream.get_final_message()
    first, again = whole.content[0], streamed.content[0]
    assert first.type == "thinking"
    assert again.type == "thinking"
    assert first.signature
    assert first.signature == again.signature


async def test_nobody_gets_thinking_unasked() -> None:
    model = speaking("Hello.", reasoning_switch="enable_thinking")
    async with running(model) as server, client_of(server) as client:
        done = await client.messages.create(**ASKED)
        assert [block.type for block in done.content] == ["text"]
        request = request_of(model)
        assert request.reasoning_marks is not None
        assert request.reasoning_marks.max_tokens == 0
        assert request.template_args == {"enable_thinking": False}
        await client.messages.create(**ASKED, thinking=THINKING)
        request = request_of(model)
        assert request.reasoning_marks is not None
        assert request.reasoning_marks.max_tokens == 1024
        assert request.template_args == {"enable_thinking": True}


async def test_sync_client_goes_on_with_the_result() -> None:
    model = speaking(f"<think>Hm.</think>Look: {CALL}")

    def talk(url: str) -> None:
        with anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client:
            first = client.messages.create(**ASKED, thinking=THINKING)
            call = first.content[-1]
            result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "sunny"}]}  # type: ignore[union-attr]
            told: list[Any] = [
                *HELLO,
                {"role": "assistant", "content": first.content},
                {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
            ]
            client.messages.create(**{**ASKED, "messages": told})

    async with running(model) as server:
        await asyncio.to_thread(talk, server.url)
    _, assistant, tool, user = request_of(model).prompt
    assert (assistant.content, assistant.reasoning) == ("Look:", "Hm.")  # type: ignore[union-attr]
    assert assistant.tool_calls[0].name == "get_weather"  # type: ignore[union-attr]
    assert (tool.role, tool.content) == ("tool", "sunny")  # type: ignore[union-attr]
    assert (user.role, user.content) == ("user", "Well?")  # type: ignore[union-attr]


CHOICES: list[tuple[dict[str, Any], bool, bool, bool]] = [
    ({"type": "auto"}, True, True, True),
    ({"type": "any"}, False, True, True),
    ({"type": "any", "disable_parallel_tool_use": True}, False, True, False),
    ({"type": "tool", "name": "now"}, False, False, False),
]


@pytest.mark.parametrize(("choice", "is_free", "has_all", "is_parallel"), CHOICES)
async def test_the_choice_decides_what_can_be_called(
    choice: Any, is_free: bool, has_all: bool, is_parallel: bool
) -> None:
    model = speaking("Hello.")
    async with running(model) as server, client_of(server) as client:
        await client.messages.create(**ASKED, tool_choice=choice)
        constraint = request_of(model).constraint
        assert constraint is not None
        assert ("TEXT" in constraint.source) == is_free
        assert ("get_weather" in constraint.source) == has_all
        assert ("call){" in constraint.source) == is_parallel
        await client.messages.create(**ASKED, tool_choice={"type": "none"})
        assert request_of(model).constraint is None


async def test_tools_count_as_tokens() -> None:
    from tests.api.running import TinyModel

    async with running(TinyModel()) as server, client_of(server) as client:
        few = await client.messages.count_tokens(model="tiny", messages=HELLO)
        many = await client.messages.count_tokens(model="tiny", messages=HELLO, tools=TOOLS)
    assert many.input_tokens > few.input_tokens + 100


KNOWN = [
    ("bash_20250124", "bash", {"command", "restart"}, ""),
    ("text_editor_20250124", "str_replace_editor", {"command", "path", "new_str"}, "undo_edit"),
    ("text_editor_20250429", "str_replace_based_edit_tool", {"command", "path", "new_str"}, "insert"),
    ("text_editor_20250728", "str_replace_based_edit_tool", {"command", "path", "insert_text"}, "insert"),
    ("memory_20250818", "memory", {"command", "old_path", "insert_text"}, "rename"),
]


@pytest.mark.parametrize(("kind", "name", "fields", "command"), KNOWN)
async def test_tools_known_by_a_type_alone_are_offered_with_their_input(
    kind: str, name: str, fields: set[str], command: str
) -> None:
    given = {"command": command or "ls"} | ({"path": "a.txt"} if "path" in fields else {})
    call = f"<tool_call>\n{json.dumps({'name': name, 'arguments': given})}\n</tool_call>"
    model = speaking(call)
    tool: Any = {"type": kind, "name": name, "cache_control": {"type": "ephemeral"}}
    async with running(model) as server, client_of(server) as client:
        done = await client.messages.create(**{**ASKED, "tools": [tool]})
    (used,) = done.content
    assert used.type == "tool_use"
    assert (used.name, used.input) == (name, given)
    (shown,) = request_of(model).template_tools
    parameters = shown["function"]["parameters"]
    assert fields <= parameters["properties"].keys()
    assert set(parameters["required"]) <= parameters["properties"].keys()
    assert command in parameters["properties"]["command"].get("enum", [""])


@pytest.mark.parametrize("kind", ["web_search_20250305", "code_execution_20250825", "computer_20250124", "bash_x"])
async def test_tools_that_the_server_would_run_are_refused_by_name(kind: str) -> None:
    tool: Any = {"type": kind, "name": "x"}
    async with running(speaking("Hello.")) as server, client_of(server) as client:
        with pytest.raises(anthropic.BadRequestError, match=kind):
            await client.messages.create(**{**ASKED, "tools": [tool]})


async def test_a_tool_that_only_a_server_runs_is_left_out_beside_others_and_named() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    model = speaking("Hello.")
    async with running(model) as server:
        response = await server.post("/v1/messages", {**ASKED, "tools": [search, *ASKED["tools"]]})
        assert response.status_code == 200
        assert response.headers["x-tripos-ignored"] == "tools[].web_search_20250305.web_search"
        assert "web_search" not in [tool["function"]["name"] for tool in request_of(model).template_tools]
        alone = await server.post("/v1/messages", {**ASKED, "tools": [search]})
    assert alone.status_code == 400
    assert alone.json()["error"]["param"] == "tools[0].type"
