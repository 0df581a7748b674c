"""The official Ollama client calls tools and gets thinking: whole, streamed, sync."""

from __future__ import annotations

import asyncio
from typing import Any

import ollama
import pytest

from tests.api.running import HELLO, Running, running
from tests.api.speaking import CALL, PARAMETERS, SECOND, request_of, speaking

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]
ASKED: dict[str, Any] = {"model": "scripted", "messages": HELLO, "tools": TOOLS}
INPUT = {"city": "Paris", "days": 2}


def client_of(server: Running) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=server.url, trust_env=False)


async def test_a_message_holds_thinking_text_and_calls() -> None:
    text = f"<think>\nHm.\n</think>\n\nI look.\n{CALL}\n{SECOND}"
    async with running(speaking(text)) as server, client_of(server) as client:
        done = await client.chat(**ASKED)
        parts = [part async for part in await client.chat(**ASKED, think=True, stream=True)]
    assert (done.message.thinking, done.message.content) == ("Hm.", "I look.")
    calls = [(call.function.name, call.function.arguments) for call in done.message.tool_calls or ()]
    assert calls == [("get_weather", INPUT), ("now", {})]
    assert "".join(part.message.thinking or "" for part in parts) == "Hm."
    assert "".join(part.message.content or "" for part in parts) == "I look."
    streamed = [call.function.name for part in parts for call in part.message.tool_calls or ()]
    assert streamed == ["get_weather", "now"]
    assert parts[-1].done_reason == "stop"


async def test_a_python_function_is_a_tool() -> None:
    def get_weather(city: str, days: int = 1) -> str:
        """The weather.

        Args:
            city: Where.
            days: How long.
        """
        return f"{city} {days}"

    model = speaking(CALL)
    async with running(model) as server, client_of(server) as client:
        done = await client.chat(model="scripted", messages=HELLO, tools=[get_weather])
    (call,) = done.message.tool_calls or ()
    assert get_weather(**call.function.arguments) == "Paris 2"
    (tool,) = request_of(model).template_tools
    assert tool["function"]["parameters"]["properties"]["city"]["type"] == "string"


async def test_sync_client_goes_on_with_the_result() -> None:
    model = speaking(f"{CALL}\n{SECOND}")

    def talk(url: str) -> None:
        client = ollama.Client(host=url, trust_env=False)
        first = client.chat(**ASKED)
        told: list[Any] = [
            *HELLO,
            first.message,
            {"role": "tool", "content": "noon", "tool_name": "now"},
            {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
        ]
        client.chat(**{**ASKED, "messages": told})
        client._client.close()

    async with running(model) as server:
        await asyncio.to_thread(talk, server.url)
    _, assistant, noon, sunny = request_of(model).prompt
    weather, now = assistant.tool_calls  # type: ignore[union-attr]
    assert (noon.content, noon.tool_call_id) == ("noon", now.id)  # type: ignore[union-attr]
    assert (sunny.content, sunny.tool_call_id) == ("sunny", weather.id)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("think", "max_tokens", "args"),
    [
        (None, None, {}),
        (True, None, {"enable_thinking": True}),
        (False, 0, {"enable_thinking": False}),
        ("low", 1024, {"enable_thinking": True}),
        ("high", None, {"enable_thinking": True}),
    ],
)
async def test_think_says_how_much(think: Any, max_tokens: int | None, args: dict[str, Any]) -> None:
    model = speaking("<think>Hm.</think>Hello.", reasoning_switch="enable_thinking")
    async with running(model) as server, client_of(server) as client:
        done = await client.generate(model="scripted", prompt="x", think=think)
    assert (done.thinking, done.response) == ("Hm.", "Hello.")
    request = request_of(model)
    assert request.reasoning_marks is not None
    assert request.reasoning_marks.max_tokens == max_tokens
    assert request.template_args == args


async def test_a_model_that_cannot_think_says_so() -> None:
    async with running(speaking("x", reasoning_dialect="")) as server, client_of(server) as client:
        with pytest.raises(ollama.ResponseError, match="does not reason"):
            await client.chat(model="scripted", messages=HELLO, think=True)
        shown = await client.show("scripted")
    assert shown.capabilities == ["completion", "tools"]
