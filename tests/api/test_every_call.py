"""Every call of the official clients that is served, sync and async, whole and as a stream: one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from tests.api.running import HELLO, Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEED = {"seed": 3}
QUESTION: dict[str, Any] = {"type": "predicate", "instructions": "?"}


@dataclass(frozen=True)
class Served:
    """A method by its path in the client. `whole` makes an answer comparable, `pieces` the events of a stream."""

    method: str
    arguments: dict[str, Any]
    whole: Callable[[Any], Any]
    pieces: Callable[[list[Any]], Any] | None = None
    streams: dict[str, Any] = field(default_factory=lambda: {"stream": True})

    def __str__(self) -> str:
        return self.method


def chat_text(chunks: Iterable[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def choice_text(chunks: Iterable[Any]) -> str:
    return "".join(chunk.choices[0].text for chunk in chunks if chunk.choices)


def deltas(kind: str, read: Callable[[Any], str]) -> Callable[[list[Any]], str]:
    return lambda events: "".join(read(event) for event in events if event.type == kind)


OPENAI = [
    Served(
        "chat.completions.create",
        {"model": "tiny", "messages": HELLO, "max_tokens": 8, **SEED},
        lambda answer: answer.choices[0].message.content,
        chat_text,
    ),
    Served(
        "completions.create",
        {"model": "tiny", "prompt": "Hey", "max_tokens": 8, **SEED},
        lambda answer: answer.choices[0].text,
        choice_text,
    ),
    Served(
        "responses.create",
        {"model": "tiny", "input": "Hey", "max_output_tokens": 8, "extra_body": SEED},
        lambda answer: answer.output_text,
        deltas("response.output_text.delta", lambda event: event.delta),
    ),
    Served("responses.input_tokens.count", {"model": "tiny", "input": "Hey"}, attrgetter("input_tokens")),
    Served("models.retrieve", {"model": "tiny"}, lambda model: model.model_dump()),
    Served("decisions.create", {"model": "tiny", "input": "x", "questions": [QUESTION]}, attrgetter("answers")),
]
ANTHROPIC = [
    Served(
        "messages.create",
        {"model": "tiny", "messages": HELLO, "max_tokens": 8, "extra_body": SEED},
        lambda message: message.content[0].text,
        deltas("content_block_delta", lambda event: event.delta.text),
    ),
    Served("messages.count_tokens", {"model": "tiny", "messages": HELLO}, attrgetter("input_tokens")),
    Served("models.retrieve", {"model_id": "tiny"}, lambda model: model.model_dump()),
]
OLLAMA = [
    Served(
        "chat",
        {"model": "tiny", "messages": HELLO, "options": {"num_predict": 8, **SEED}},
        lambda answer: answer.message.content,
        lambda lines: "".join(line.message.content for line in lines),
    ),
    Served(
        "generate",
        {"model": "tiny", "prompt": "Hey", "options": {"num_predict": 8, **SEED}},
        lambda answer: answer.response,
        lambda lines: "".join(line.response for line in lines),
    ),
    Served("show", {"model": "tiny"}, lambda card: card.model_dump()),
    Served("list", {}, lambda models: models.model_dump()),
    Served("ps", {}, lambda models: models.model_dump()),
]


async def answers_of(served: Served, asynchronous: Any, synchronous: Any) -> list[Any]:
    """What the call gives in all the ways that there are."""
    ask = attrgetter(served.method)
    arguments, streamed = served.arguments, {**served.arguments, **served.streams}
    found = [served.whole(await ask(asynchronous)(**arguments))]
    found.append(served.whole(await asyncio.to_thread(lambda: ask(synchronous)(**arguments))))
    if served.pieces is not None:
        stream = await ask(asynchronous)(**streamed)
        found.append(served.pieces([event async for event in stream]))
        found.append(served.pieces(await asyncio.to_thread(lambda: list(ask(synchronous)(**streamed)))))
    return found


@pytest.mark.parametrize("served", OPENAI, ids=str)
async def test_openai(server: Running, served: Served) -> None:
    with openai.OpenAI(
        base_url=server.url + "/v1", api_key="none", max_retries=0, http_client=httpx.Client(trust_env=False)
    ) as client:
        found = await answers_of(served, server.openai, client)
    assert found == [found[0]] * (4 if served.pieces else 2)
    assert found[0]


@pytest.mark.parametrize("served", ANTHROPIC, ids=str)
async def test_anthropic(server: Running, served: Served) -> None:
    options: dict[str, Any] = {"base_url": server.url, "api_key": "none", "max_retries": 0}
    async with anthropic.AsyncAnthropic(**options) as asynchronous:
        with anthropic.Anthropic(**options) as synchronous:
            found = await answers_of(served, asynchronous, synchronous)
    assert found == [found[0]] * (4 if served.pieces else 2)
    assert found[0]


@pytest.mark.parametrize("served", OLLAMA, ids=str)
async def test_ollama(server: Running, served: Served) -> None:
    asynchronous, synchronous = ollama.AsyncClient(host=server.url), ollama.Client(host=server.url)
    try:
        found = await answers_of(served, asynchronous, synchronous)
    finally:
        await asynchronous._client.aclose()
        synchronous._client.close()
    assert found == [found[0]] * (4 if served.pieces else 2)
    assert found[0]


async def test_lists_of_models_page_in_both_dialects(server: Running) -> None:
    assert [model.id async for model in server.openai.models.list()] == ["tiny", "tiny-encoder"]
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        assert await asyncio.to_thread(lambda: [model.id for model in client.models.list()]) == ["tiny", "tiny-encoder"]


async def test_helpers_that_accumulate_a_stream(server: Running) -> None:
    """The clients' own: their last word is the whole answer."""
    text = (await server.openai.chat.completions.create(**OPENAI[0].arguments)).choices[0].message.content or ""
    chat = {**OPENAI[0].arguments, "stop": text[4:6]}  # some helpers take no answer that was cut off
    whole = await server.openai.chat.completions.create(**chat)
    async with server.openai.chat.completions.stream(**chat) as events:
        assert (await events.get_final_completion()).choices[0].message.content == whole.choices[0].message.content
    text = (await server.openai.responses.create(**OPENAI[2].arguments)).output_text
    asked = {**OPENAI[2].arguments, "extra_body": {**SEED, "stop": text[4:6]}}
    response = await server.openai.responses.create(**asked)
    async with server.openai.responses.stream(**asked) as typed:
        assert (await typed.get_final_response()).output_text == response.output_text
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        message = await client.messages.create(**ANTHROPIC[0].arguments)
        async with client.messages.stream(**ANTHROPIC[0].arguments) as stream:
            assert (await stream.get_final_message()).content[0].text == message.content[0].text  # type: ignore[union-attr]


async def test_a_stream_that_is_let_go_ends_its_call(server: Running) -> None:
    arguments = {**OPENAI[0].arguments, "max_tokens": 200, "stream": True}
    async with aclosing(await server.openai.chat.completions.create(**arguments)) as stream:
        await anext(aiter(stream))
    await server.service.wait_idle()
    assert server.service.num_in_flight == 0
