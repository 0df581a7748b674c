"""The library's answers with text, reasoning and tool calls apart: as the server's, and as streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.recorded import models, served
from tripos import LLM
from tripos.errors import InvalidRequest
from tripos.library.llm import Streamed
from tripos.types import Delta, Finish, ReasoningOptions, Tool

MESSAGES: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.write_scripted(tmp_path_factory.mktemp("scripted"), "thinking-caller")


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder) as llm:
        yield llm
        llm._model.engine.pool.check_integrity()


def joined(events: list[Streamed]) -> tuple[str, str, list[tuple[str, str]], str | None]:
    deltas = [event for event in events if isinstance(event, Delta)]
    calls = [(call.name, call.arguments) for delta in deltas for call in delta.tool_calls]
    text, reasoning = ("".join(getattr(delta, name) for delta in deltas) for name in ("text", "reasoning"))
    return text, reasoning, calls, deltas[-1].finish_reason


@pytest.mark.parametrize("choice", ["auto", "required", "get_weather", "none"])
def test_reasoning_text_and_calls_are_those_of_the_servers_answer(folder: Path, llm: LLM, choice: str) -> None:
    config = folder.parent / "tripos.toml"
    config.write_text(f'[server]\nport = 0\n[models.m]\nsource = "{folder}"\n')
    named = {"type": "function", "function": {"name": choice}} if choice == "get_weather" else choice
    body = {
        "model": "m",
        "messages": MESSAGES,
        "tools": TOOLS,
        "tool_choice": named,
        "temperature": 0,
        "max_tokens": 150,
    }
    with served.serving(config) as port:
        answer = httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body, timeout=60).json()["choices"][0]
    (completion,) = llm.chat(MESSAGES, tools=TOOLS, tool_choice=choice, temperature=0, max_tokens=150)
    message = answer["message"]
    assert completion.text == (message["content"] or "")
    assert completion.reasoning == message["reasoning_content"]
    expected = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls") or ()]
    assert [(call.name, call.arguments) for call in completion.tool_calls] == expected
    assert completion.finish_reason == answer["finish_reason"]
    assert bool(expected) == (choice != "none")


def test_a_stream_says_what_the_whole_answer_says(llm: LLM) -> None:
    tools = [Tool(name="get_weather", parameters=PARAMETERS), Tool(name="now")]
    (whole,) = llm.chat(MESSAGES, tools=tools, temperature=0, max_tokens=150)
    events = list(llm.stream(MESSAGES, tools=tools, temperature=0, max_tokens=150))
    text, reasoning, calls, reason = joined(events)
    assert (
        (text, reasoning, reason)
        == (whole.text, whole.reasoning, whole.finish_reason)
        == (text, "I look.", "tool_calls")
    )
    assert calls == [(call.name, call.arguments) for call in whole.tool_calls] == [("get_weather", models.ARGUMENTS)]
    assert isinstance(events[-1], Finish)
    assert events[-1].usage.output_tokens == len(whole.token_ids)
    assert len(events) > 10


def test_hidden_and_bounded_reasoning(llm: LLM) -> None:
    hidden = llm.chat(MESSAGES, temperature=0, max_tokens=150, reasoning=ReasoningOptions(is_hidden=True))[0]
    off = llm.chat(MESSAGES, temperature=0, max_tokens=150, reasoning=ReasoningOptions(effort="none"))[0]
    assert hidden.reasoning == off.reasoning == ""
    assert hidden.usage.reasoning_tokens > 0


async def test_tasks_and_threads_stream_at_once(llm: LLM) -> None:
    expected = joined(list(llm.stream(MESSAGES, tools=TOOLS, temperature=0, max_tokens=150)))
    found: list[Any] = []

    def read() -> None:
        found.append(joined(list(llm.stream(MESSAGES, tools=TOOLS, temperature=0, max_tokens=150))))

    async def read_async() -> None:
        stream = llm.stream_async(MESSAGES, tools=TOOLS, temperature=0, max_tokens=150)
        found.append(joined([event async for event in stream]))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    await asyncio.gather(*(read_async() for _ in range(8)))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert found == [expected] * 16


async def settled(llm: LLM) -> None:
    """Until the engine holds nothing."""
    for _ in range(200):
        stats = llm._model.engine.stats()
        if not stats.num_running and not stats.num_waiting:
            break
        await asyncio.sleep(0.02)
    llm._model.engine.pool.check_integrity()
    assert (llm._model.engine.stats().num_running, llm._model.engine.stats().num_waiting) == (0, 0)


async def test_a_stream_that_is_closed_early_frees_its_place(llm: LLM) -> None:
    stream = llm.stream(MESSAGES, temperature=0, max_tokens=150)
    next(stream)
    stream.close()
    await settled(llm)
    async_stream = llm.stream_async(MESSAGES, temperature=0, max_tokens=150)
    await anext(async_stream)
    await async_stream.aclose()
    await settled(llm)


def test_wrong_tools_are_refused_before_any_work(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match="conversations"):
        llm.generate("text", tools=TOOLS)
    with pytest.raises(InvalidRequest, match="tool_choice"):
        llm.chat(MESSAGES, tools=TOOLS, tool_choice="nobody")
    with pytest.raises(TypeError, match="n is no argument"):
        next(llm.stream(MESSAGES, n=2))
