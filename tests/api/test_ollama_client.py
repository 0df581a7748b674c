"""The official Ollama client gets what it asks for: sync, async and streaming."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import ollama
import pytest
import pytest_asyncio

from tests.api.running import HELLO, WINDOW, Running, TinyModel, running
from tripos import __version__
from tripos.errors import RequestFailed
from tripos.testing import ScriptedModel
from tripos.types import Delta, Finish, Generate, Message, ModelCard, Sampling, Usage

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED: dict[str, Any] = {"model": "tiny", "messages": HELLO, "options": {"num_predict": 8, "seed": 3}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: Running) -> AsyncIterator[ollama.AsyncClient]:
    async with client_of(server) as client:
        yield client


def client_of(server: Running) -> ollama.AsyncClient:
    return ollama.AsyncClient(host=server.url, trust_env=False)


async def test_chat_answers_with_counts_and_nanoseconds(client: ollama.AsyncClient) -> None:
    done = await client.chat(**ASKED)
    assert done.model == "tiny"
    assert done.message.role == "assistant"
    assert len(done.message.content or "") == 8
    assert (done.done, done.done_reason) == (True, "length")
    assert (done.prompt_eval_count, done.eval_count) == (24, 8)
    durations = done.prompt_eval_duration, done.eval_duration
    assert all(each is not None and each > 0 for each in durations)
    assert sum(each or 0 for each in durations) <= (done.total_duration or 0) < 60e9


async def test_stream_brings_what_the_whole_answer_holds(client: ollama.AsyncClient) -> None:
    whole = await client.chat(**ASKED)
    parts = [part async for part in await client.chat(**ASKED, stream=True)]
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == 8
    assert parts[-1].done_reason == "length"


async def test_it_streams_lines_unless_told_otherwise(server: Running) -> None:
    response = await server.post("/api/chat", ASKED)
    assert response.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert len({line["created_at"] for line in lines}) == 1
    assert lines[-1]["done"] is True


async def test_sync_client_answers_and_streams(server: Running) -> None:
    def ask() -> tuple[str, str]:
        client = ollama.Client(host=server.url, trust_env=False)
        asked: dict[str, Any] = {"model": "tiny", "prompt": "Hi", "options": {"num_predict": 5, "seed": 1}}
        whole = client.generate(**asked)
        streamed = "".join(part.response or "" for part in client.generate(**asked, stream=True))
        client._client.close()
        return whole.response or "", streamed

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == streamed
    assert len(whole) == 5


async def test_raw_continues_the_prompt_itself(client: ollama.AsyncClient) -> None:
    options = {"num_predict": 1, "seed": 1}
    raw = await client.generate(model="tiny", prompt="Hello?", raw=True, options=options)
    templated = await client.generate(model="tiny", prompt="Hello?", options=options)
    assert raw.prompt_eval_count == len("Hello?")
    assert templated.prompt_eval_count == len("user: Hello?\nassistant: ")


async def test_every_option_reaches_the_call() -> None:
    recommended = Sampling(temperature=0.0, min_p=0.125)
    card = ModelCard(name="scripted", task="generate", digest="0" * 64, max_model_len=2048, sampling=recommended)
    model = ScriptedModel(card=card)
    options = {
        "num_predict": 7, "temperature": 0.5, "top_k": 3, "top_p": 0.25, "repeat_penalty": 1.5, "seed": 9,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "stop": ["x"], "num_ctx": 2048, "num_gpu": 0,
    }  # fmt: skip
    async with running(model) as server, client_of(server) as client:
        await client.generate(model="scripted", prompt="b", system="a", options=options, keep_alive="5m", logprobs=True)
        await client.generate(model="scripted", prompt="b")
    spoken, silent = (call.request for call in model.calls if isinstance(call.request, Generate))
    assert spoken.prompt == (Message(role="system", content="a"), Message(role="user", content="b"))
    assert spoken.max_tokens == 7
    assert spoken.sampling == Sampling(
        temperature=0.5, top_k=3, top_p=0.25, min_p=0.125, repetition_penalty=1.5, seed=9, presence_penalty=0.5,
        frequency_penalty=-0.5, stop=("x",), logprobs=0,
    )  # fmt: skip
    assert (silent.max_tokens, silent.sampling) == (None, recommended)


async def test_stop_string_ends_the_answer(client: ollama.AsyncClient) -> None:
    text = (await client.chat(**ASKED)).message.content or ""
    done = await client.chat(**{**ASKED, "options": {**ASKED["options"], "stop": [text[3:5]]}})
    assert done.message.content == text[: text.index(text[3:5])]
    assert done.done_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_come_with_their_tokens(client: ollama.AsyncClient, stream: bool) -> None:
    asked: dict[str, Any] = {**ASKED, "logprobs": True, "top_logprobs": 2}
    parts = [part async for part in await client.chat(**asked, stream=True)] if stream else [await client.chat(**asked)]
    tokens = [token for part in parts for token in part.logprobs or ()]
    assert "".join(token.token for token in tokens) == "".join(part.message.content or "" for part in parts)
    assert all(len(token.top_logprobs or ()) == 2 and token.logprob <= 0 for token in tokens)


async def test_nothing_to_answer_says_that_the_model_is_loaded(client: ollama.AsyncClient) -> None:
    for done in (await client.chat(model="tiny"), await client.generate(model="tiny", prompt="")):
        assert (done.done, done.done_reason) == (True, "load")
    lines = [part async for part in await client.chat(model="tiny", stream=True)]
    assert [line.done_reason for line in lines] == ["load"]


async def test_models_are_listed_and_shown() -> None:
    async with running(TinyModel("org/tiny:v1"), ScriptedModel()) as server, client_of(server) as client:
        tags = (await client.list()).models
        assert [model.model for model in tags] == ["org/tiny:v1", "scripted"]
        assert tags[0].digest == "ab" * 32
        loaded = (await client.ps()).models
        assert [model.context_length for model in loaded] == [WINDOW, 2048]
        shown = await client.show("scripted")
        assert shown.capabilities == ["completion"]
        assert (shown.modelinfo or {})["scripted.context_length"] == 2048
        assert (await server.http.get("/api/version")).json() == {"version": __version__}


async def test_errors_are_the_clients_own(client: ollama.AsyncClient) -> None:
    with pytest.raises(ollama.ResponseError, match="no model is named") as absent:
        await client.chat(**{**ASKED, "model": "absent"})
    assert absent.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="cannot embed") as refused:
        await client.embed("tiny", "x")
    assert refused.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="tripos serve"):
        await client.delete("tiny")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", f"/api/{name}") for name in ("pull", "push", "create", "copy")] + [("DELETE", "/api/delete")],
)
async def test_what_is_not_served_names_what_is(server: Running, method: str, path: str) -> None:
    response = await server.http.request(method, path, json={"model": "tiny"})
    assert response.status_code == 501
    assert "not_implemented" in response.text
    assert "instead" in response.text or "lists" in response.text


async def test_client_raises_the_error_of_a_late_failure() -> None:
    model = ScriptedModel([Delta(text="a", token_ids=(1,)), RequestFailed("it broke")])
    async with running(model) as server, client_of(server) as client:
        stream = await client.chat(model="scripted", messages=HELLO, stream=True)
        assert (await anext(stream)).message.content == "a"
        with pytest.raises(ollama.ResponseError, match="it broke"):
            await anext(stream)


async def test_an_empty_answer_is_still_a_whole_stream() -> None:
    model = ScriptedModel([Delta(finish_reason="stop"), Finish(reason="stop", usage=Usage(prompt_tokens=1))])
    async with running(model) as server, client_of(server) as client:
        parts = [part async for part in await client.generate(model="scripted", prompt="x", stream=True)]
        assert [(part.response, part.done_reason) for part in parts] == [("", "stop")]
