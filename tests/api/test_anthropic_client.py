"""The official Anthropic client gets what it asks for: sync, async and streaming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest
import pytest_asyncio

from tests.api.running import ENCODER, HELLO, Running, TinyModel, running
from tests.api.speaking import request_of
from tripos.api.auth import Keys
from tripos.errors import RequestFailed
from tripos.testing import ScriptedModel
from tripos.types import Delta, Finish, Generate, Message, Usage

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXTRA = {"temperature": 0.5, "seed": 3}  # what newer clients no longer name goes as extra fields
PLAIN: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 8}
ASKED: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "extra_body": EXTRA}


def client_of(server: Running, key: str = "none") -> anthropic.AsyncAnthropic:
    http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    return anthropic.AsyncAnthropic(base_url=server.url, api_key=key, max_retries=0, http_client=http)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: Running) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with client_of(server) as client:
        yield client


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


async def test_message_answers_with_usage(client: anthropic.AsyncAnthropic) -> None:
    message = await client.messages.create(**ASKED)
    assert message.type == "message"
    assert message.role == "assistant"
    assert message.id.startswith("msg_")
    assert len(text_of(message)) == 8
    assert (message.stop_reason, message.stop_sequence) == ("max_tokens", None)
    prompt = len("user: Hello?\nassistant: ")
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == prompt
    assert message.usage.output_tokens == 8


async def test_stream_brings_what_the_whole_answer_holds(client: anthropic.AsyncAnthropic) -> None:
    whole = await client.messages.create(**ASKED)
    async with client.messages.stream(**ASKED) as stream:
        text = "".join([piece async for piece in stream.text_stream])
        final = await stream.get_final_message()
    assert text == text_of(final) == text_of(whole)
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == 8
    assert final.usage.input_tokens + (final.usage.cache_read_input_tokens or 0) == 24


async def test_events_come_in_the_order_of_the_protocol(server: Running) -> None:
    response = await server.post("/v1/messages", {"model": "tiny", "messages": HELLO, "max_tokens": 8, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    names = [line.removeprefix("event: ") for line in response.text.splitlines() if line.startswith("event: ")]
    pieces = [name for name in names if name == "content_block_delta"]
    assert names == [
        "message_start", "content_block_start", "ping", *pieces, "content_block_stop", "message_delta", "message_stop"
    ]  # fmt: skip
    assert pieces


async def test_sync_client_answers_and_streams(server: Running) -> None:
    def ask() -> tuple[str, str]:
        http = anthropic.DefaultHttpxClient(trust_env=False)
        with anthropic.Anthropic(base_url=server.url, api_key="none", http_client=http) as client:
            whole = client.messages.create(**ASKED)
            with client.messages.stream(**ASKED) as stream:
                return text_of(whole), "".join(stream.text_stream)

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == streamed
    assert len(whole) == 8


async def test_stop_sequence_ends_the_answer_and_is_named(client: anthropic.AsyncAnthropic) -> None:
    text = text_of(await client.messages.create(**ASKED))
    message = await client.messages.create(**ASKED, stop_sequences=["NEVER", text[3:5]])
    assert text_of(message) == text[: text.index(text[3:5])]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", text[3:5])


async def test_tokens_are_counted_as_they_will_be_billed(client: anthropic.AsyncAnthropic) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "system": "Be brief."}
    count = await client.messages.count_tokens(**asked)
    message = await client.messages.create(**asked, max_tokens=1)
    assert count.input_tokens == message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)


async def test_a_repeated_prompt_is_read_from_the_cache(client: anthropic.AsyncAnthropic) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "y" * 100}], "max_tokens": 1}
    first = await client.messages.create(**asked)
    again = await client.messages.create(**asked)
    assert first.usage.cache_read_input_tokens == 0
    assert (again.usage.cache_read_input_tokens or 0) >= 64
    assert again.usage.input_tokens + (again.usage.cache_read_input_tokens or 0) == first.usage.input_tokens


async def test_every_field_reaches_the_call() -> None:
    model = ScriptedModel()
    async with running(model) as server, client_of(server) as client:
        message = await client.messages.create(
            model="scripted",
            max_tokens=7,
            system=[
                {"type": "text", "text": "Be"},
                {"type": "text", "text": "brief.", "cache_control": {"type": "ephemeral"}},
            ],
            messages=[
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "user", "content": "c"},
                {"role": "assistant", "content": "d"},
                {"role": "user", "content": "e"},
            ],
            stop_sequences=["x"], metadata={"user_id": "u"}, service_tier="auto", thinking={"type": "disabled"},
            extra_body={"temperature": 0.5, "top_p": 0.25, "top_k": 3, "seed": 9},
        )  # fmt: skip
    assert message.stop_reason == "end_turn"
    request = model.calls[0].request
    assert isinstance(request, Generate)
    assert request.prompt == (
        Message(role="system", content="Be\n\nbrief."),
        Message(role="user", content="a\n\nb\n\nc"),
        Message(role="assistant", content="d"),
        Message(role="user", content="e"),
    )
    assert request.max_tokens == 7
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.stop, sampling.seed) == (
        0.5,
        0.25,
        3,
        ("x",),
        9,
    )


async def test_documents_are_read_as_text() -> None:
    model = ScriptedModel()
    plain: Any = {"type": "text", "media_type": "text/plain", "data": "The sky is green."}
    parts: Any = {"type": "content", "content": [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]}
    cached = {"cache_control": {"type": "ephemeral"}, "citations": {"enabled": False}}
    content: Any = [
        {"type": "document", "source": plain, "title": "Sky", "context": "A report.", **cached},
        {"type": "document", "source": parts},
        {"type": "text", "text": "What colour?"},
    ]
    async with running(model) as server, client_of(server) as client:
        asked: dict[str, Any] = {"model": "scripted", "max_tokens": 7}
        await client.messages.create(**asked, messages=[{"role": "user", "content": content}])
        pdf: Any = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": ""}}
        with pytest.raises(anthropic.BadRequestError, match="send a source of type text") as refused:
            await client.messages.create(**asked, messages=[{"role": "user", "content": [pdf]}])
    request = model.calls[0].request
    assert isinstance(request, Generate)
    said = "Sky\nA report.\nThe sky is green.\n\nOne.\n\nTwo.\n\nWhat colour?"
    assert request.prompt == (Message(role="user", content=said),)
    assert "messages[0].content[0].source.type" in str(refused.value)


async def test_models_are_listed_for_this_client_too(client: anthropic.AsyncAnthropic) -> None:
    models = [model async for model in client.models.list()]
    assert [(model.id, model.type, model.display_name) for model in models] == [
        (name, "model", name) for name in ("tiny", ENCODER)
    ]
    assert (await client.models.retrieve("tiny")).created_at.timestamp() == 1


async def test_errors_are_the_clients_own(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as absent:
        await client.messages.create(**{**ASKED, "model": "absent"})
    assert absent.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    assert absent.value.body["request_id"] == absent.value.response.headers["x-request-id"]  # type: ignore[index]
    assert absent.value.request_id == absent.value.response.headers["x-request-id"]
    with pytest.raises(anthropic.APIStatusError, match="one by one") as elsewhere:
        await client.messages.batches.list()
    assert (elsewhere.value.status_code, elsewhere.value.type) == (501, "api_error")
    with pytest.raises(anthropic.BadRequestError, match=r"tools\[0\].input_schema"):
        await client.messages.create(**ASKED, tools=[{"name": "f", "input_schema": {"type": "list"}}])


async def test_the_clients_key_opens_the_door() -> None:
    key = "k" * 32
    async with running(TinyModel(), keys=Keys([key])) as server:
        async with client_of(server, key) as client:
            assert (await client.messages.create(**ASKED)).stop_reason == "max_tokens"
        async with client_of(server, "x" * 32) as client:
            with pytest.raises(anthropic.AuthenticationError):
                await client.messages.create(**ASKED)


async def test_client_raises_the_error_of_a_late_failure() -> None:
    model = ScriptedModel([Delta(text="a", token_ids=(1,)), RequestFailed("it broke")])
    async with (
        running(model) as server,
        client_of(server) as client,
        client.messages.stream(**{**ASKED, "model": "scripted"}) as stream,
    ):
        with pytest.raises(anthropic.APIStatusError, match="it broke"):
            await stream.get_final_message()


async def test_an_empty_answer_is_still_a_whole_stream() -> None:
    model = ScriptedModel([Delta(finish_reason="stop"), Finish(reason="stop", usage=Usage(prompt_tokens=1))])
    async with running(model) as server, client_of(server) as client:
        async with client.messages.stream(**{**ASKED, "model": "scripted"}) as stream:
            final = await stream.get_final_message()
        assert text_of(final) == ""
        assert final.stop_reason == "end_turn"


KEEPS_ALL = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}


async def test_context_management_that_keeps_all_is_what_happens_anyway(server: Running) -> None:
    for value in (KEEPS_ALL, {"edits": []}, {}):
        response = await server.post("/v1/messages", {**PLAIN, "context_management": value})
        assert response.status_code == 200, response.text
        assert "x-tripos-ignored" not in response.headers
    count = {name: value for name, value in PLAIN.items() if name != "max_tokens"}
    assert (
        await server.post("/v1/messages/count_tokens", {**count, "context_management": KEEPS_ALL})
    ).status_code == 200


@pytest.mark.parametrize(
    "edit",
    [
        {"type": "clear_thinking_20251015", "keep": {"type": "thinking_turns", "value": 1}},
        {"type": "clear_tool_uses_20250919", "trigger": {"type": "input_tokens", "value": 9}},
    ],
)
async def test_context_management_that_would_drop_something_is_refused(server: Running, edit: Any) -> None:
    response = await server.post("/v1/messages", {**PLAIN, "context_management": {"edits": [edit]}})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "context_management.edits[0]"


async def test_a_system_message_may_stand_anywhere() -> None:
    model = ScriptedModel()
    late: Any = {"role": "system", "content": [{"type": "text", "text": "It is late."}]}
    async with running(model) as server:
        body = {**PLAIN, "model": "scripted", "system": "Be brief.", "messages": [*HELLO, late]}
        assert (await server.post("/v1/messages", body)).status_code == 200
        roles = [message.role for message in request_of(model).prompt]
        assert roles == ["system", "user", "system"]
        between = [*HELLO, late, {"role": "assistant", "content": "Yes."}, *HELLO]
        assert (await server.post("/v1/messages", {**body, "messages": between})).status_code == 200
    roles = [message.role for message in request_of(model).prompt]
    assert roles == ["system", "user", "system", "assistant", "user"]


async def test_a_thread_is_refused_so_that_the_client_sends_whole_conversations(
    client: anthropic.AsyncAnthropic,
) -> None:
    with pytest.raises(anthropic.BadRequestError) as refused:
        await client.messages.create(**{**ASKED, "extra_body": {"thread": {"type": "create"}}})
    assert refused.value.body["error"]["details"] == {"error_code": "thread_unsupported_request"}  # type: ignore[index]
