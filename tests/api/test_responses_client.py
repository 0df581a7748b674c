"""OpenAI's Responses through the official client: whole, typed events, stored conversations."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai
import pytest

from tests.api.running import Running, TinyModel, error_code, running
from tripos.api.auth import Keys
from tripos.errors import RequestFailed
from tripos.testing import ScriptedModel
from tripos.types import Delta, Finish, Generate, Message, ModelCard, Sampling, Usage

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASKED: dict[str, Any] = {"model": "tiny", "input": "Hello?", "max_output_tokens": 8, "extra_body": {"seed": 3}}
SCRIPTED: dict[str, Any] = {"model": "scripted", "input": "Hello?"}


async def test_response_answers_with_usage(server: Running) -> None:
    done = await server.openai.responses.create(**ASKED, metadata={"a": "b"}, instructions="Be brief.")
    assert done.object == "response"
    assert done.id.startswith("resp_")
    assert len(done.output_text) == 8
    assert done.status == "incomplete"
    assert done.incomplete_details is not None
    assert done.incomplete_details.reason == "max_output_tokens"
    assert (done.metadata, done.instructions) == ({"a": "b"}, "Be brief.")
    assert done.usage is not None
    assert done.usage.input_tokens == len("system: Be brief.\nuser: Hello?\nassistant: ")
    assert done.usage.output_tokens == 8
    assert done.usage.total_tokens == done.usage.input_tokens + 8


async def test_events_build_what_is_answered_whole(server: Running) -> None:
    whole = await server.openai.responses.create(**ASKED)
    events = [event async for event in await server.openai.responses.create(**ASKED, stream=True)]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == whole.output_text
    pieces = [event.type for event in events if event.type == "response.output_text.delta"]
    assert [event.type for event in events] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
        *pieces,
        "response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == whole.output_text
    assert last.response.usage is not None
    assert last.response.usage.output_tokens == 8


async def test_the_clients_own_accumulator_follows_the_stream() -> None:
    async with running(ScriptedModel()) as server, server.openai.responses.stream(**SCRIPTED) as stream:
        final = await stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text == "Hello there."


async def test_sync_client_answers_and_streams(server: Running) -> None:
    def ask() -> tuple[str, str]:
        http = httpx.Client(trust_env=False)
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", http_client=http) as client:
            whole = client.responses.create(**ASKED)
            events = client.responses.create(**ASKED, stream=True)
            return whole.output_text, "".join(e.delta for e in events if e.type == "response.output_text.delta")

    whole, streamed = await asyncio.to_thread(ask)
    assert whole == streamed
    assert len(whole) == 8


@pytest.mark.parametrize("stream", [False, True])
async def test_a_stored_response_goes_on(stream: bool) -> None:
    model = ScriptedModel()
    async with running(model) as server:
        create = server.openai.responses.create
        if stream:
            events = [event async for event in await create(**SCRIPTED, instructions="Once.", stream=True)]
            first = events[-1].response  # type: ignore[union-attr]
        else:
            first = await create(**SCRIPTED, instructions="Once.")
        assert (await server.openai.responses.retrieve(first.id)).output_text == "Hello there."
        second = await create(model="scripted", input="And?", previous_response_id=first.id, instructions="Now.")
        assert second.previous_response_id == first.id
        third = await create(
            model="scripted", input=[{"role": "user", "content": "So?"}], previous_response_id=second.id
        )
        assert third.id != second.id
    request = model.calls[-1].request
    assert isinstance(request, Generate)
    assert request.prompt == (
        Message(role="user", content="Hello?"),
        Message(role="assistant", content="Hello there."),
        Message(role="user", content="And?"),
        Message(role="assistant", content="Hello there."),
        Message(role="user", content="So?"),
    )
    middle = model.calls[1].request
    assert isinstance(middle, Generate)
    assert middle.prompt[0] == Message(role="system", content="Now.")


async def test_the_output_may_be_sent_back_as_input() -> None:
    model = ScriptedModel()
    async with running(model) as server:
        first = await server.openai.responses.create(**SCRIPTED)
        items: Any = [{"role": "user", "content": [{"type": "input_text", "text": "Hello?"}]}]
        items += [item.model_dump() for item in first.output] + [{"role": "developer", "content": "Go on."}]
        await server.openai.responses.create(model="scripted", input=items)
    request = model.calls[-1].request
    assert isinstance(request, Generate)
    assert [each.role for each in request.prompt if isinstance(each, Message)] == ["user", "assistant", "system"]


async def test_what_is_not_to_be_stored_is_not(server: Running) -> None:
    done = await server.openai.responses.create(**ASKED, store=False)
    with pytest.raises(openai.NotFoundError):
        await server.openai.responses.retrieve(done.id)
    with pytest.raises(openai.NotFoundError):
        await server.openai.responses.create(**ASKED, previous_response_id=done.id)


async def test_a_deleted_response_is_gone(server: Running) -> None:
    done = await server.openai.responses.create(**ASKED)
    assert (await server.http.delete(f"/v1/responses/{done.id}")).json() == {
        "id": done.id, "object": "response", "deleted": True
    }  # fmt: skip
    with pytest.raises(openai.NotFoundError):
        await server.openai.responses.delete(done.id)


async def test_a_response_of_another_key_is_as_unknown_as_a_random_one() -> None:
    ours, theirs = ({"authorization": "Bearer " + letter * 32} for letter in "ab")
    async with running(TinyModel(), keys=Keys(["a" * 32, "b" * 32])) as server:
        body = {"model": "tiny", "input": "x", "max_output_tokens": 1}
        id = (await server.http.post("/v1/responses", json=body, headers=ours)).json()["id"]
        for method in ("GET", "DELETE"):
            foreign = await server.http.request(method, f"/v1/responses/{id}", headers=theirs)
            random = await server.http.request(method, "/v1/responses/resp_" + "0" * 32, headers=theirs)
            assert foreign.status_code == random.status_code == 404
            assert foreign.content == random.content
        follow = await server.http.post("/v1/responses", json={**body, "previous_response_id": id}, headers=theirs)
        assert follow.status_code == 404
        assert (await server.http.get(f"/v1/responses/{id}", headers=ours)).status_code == 200


async def test_input_tokens_are_those_of_the_answer(server: Running) -> None:
    first = await server.openai.responses.create(**ASKED)
    asked: dict[str, Any] = {"model": "tiny", "input": "And?", "previous_response_id": first.id, "instructions": "Hm."}
    count = await server.openai.responses.input_tokens.count(**asked)
    done = await server.openai.responses.create(**asked, max_output_tokens=1)
    assert done.usage is not None
    assert count.input_tokens == done.usage.input_tokens


async def test_every_sampling_field_reaches_the_call() -> None:
    recommended = Sampling(temperature=0.0, top_k=5)
    card = ModelCard(name="scripted", task="generate", digest="0" * 64, max_model_len=2048, sampling=recommended)
    model = ScriptedModel(card=card)
    async with running(model) as server:
        spoken = await server.openai.responses.create(
            **SCRIPTED, temperature=0.5, top_p=0.25, max_output_tokens=7, top_logprobs=2, user="u",
            truncation="disabled", include=["message.output_text.logprobs"],
            extra_body={"stop": ["x"], "seed": 9, "min_p": 0.1},
        )  # fmt: skip
        silent = await server.openai.responses.create(**SCRIPTED)
    assert (spoken.temperature, silent.temperature) == (0.5, 0.0)
    first, second = (call.request for call in model.calls if isinstance(call.request, Generate))
    assert first.max_tokens == 7
    assert first.sampling == Sampling(
        temperature=0.5, top_p=0.25, top_k=5, min_p=0.1, stop=("x",), seed=9, logprobs=2
    )  # fmt: skip
    assert second.sampling == recommended


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_come_with_their_tokens(server: Running, stream: bool) -> None:
    asked: dict[str, Any] = {**ASKED, "top_logprobs": 2, "include": ["message.output_text.logprobs"]}
    if stream:
        events = [event async for event in await server.openai.responses.create(**asked, stream=True)]
        tokens: list[Any] = [t for e in events if e.type == "response.output_text.delta" for t in e.logprobs]
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    else:
        done = await server.openai.responses.create(**asked)
        part = done.output[0].content[0]  # type: ignore[union-attr]
        tokens, text = part.logprobs, done.output_text  # type: ignore[union-attr]
    assert "".join(token.token for token in tokens) == text
    assert all(len(token.top_logprobs) == 2 for token in tokens)


async def test_a_late_failure_ends_in_a_failed_response() -> None:
    model = ScriptedModel([Delta(text="a", token_ids=(1,)), RequestFailed("it broke")])
    async with running(model) as server:
        events = [event async for event in await server.openai.responses.create(**SCRIPTED, stream=True)]
        assert [event.type for event in events[-2:]] == ["error", "response.failed"]
        failed = events[-1].response  # type: ignore[union-attr]
        assert failed.status == "failed"
        assert failed.error is not None
        assert failed.error.message == "it broke"
        with pytest.raises(openai.NotFoundError):
            await server.openai.responses.retrieve(failed.id)
        with pytest.raises(openai.InternalServerError):
            await server.openai.responses.create(**SCRIPTED)


async def test_an_empty_answer_is_still_a_whole_stream() -> None:
    model = ScriptedModel([Delta(finish_reason="stop"), Finish(reason="stop", usage=Usage(prompt_tokens=1))])
    async with running(model) as server, server.openai.responses.stream(**SCRIPTED) as stream:
        assert (await stream.get_final_response()).output_text == ""


async def test_the_items_of_a_stored_response_are_listed(server: Running) -> None:
    create, items = server.openai.responses.create, server.openai.responses.input_items
    first = await create(model="tiny", input="one", instructions="not an item", max_output_tokens=1)
    second = await create(
        model="tiny",
        input=[{"role": "user", "content": "two"}, {"role": "developer", "content": "three"}],
        previous_response_id=first.id,
        max_output_tokens=1,
    )
    found = [item async for item in items.list(second.id, order="asc")]
    said = [(item.role, item.content[0].text) for item in found]  # type: ignore[union-attr]
    assert said == [("user", "one"), ("assistant", first.output_text), ("user", "two"), ("system", "three")]
    assert [item.id async for item in items.list(second.id, limit=1)] == [item.id for item in reversed(found)]
    page = await items.list(second.id, order="asc", after=str(found[1].id), limit=1)
    assert ([item.id for item in page.data], page.has_more) == ([found[2].id], True)
    with pytest.raises(openai.NotFoundError):
        await items.list("resp_absent")


@pytest.mark.parametrize(
    ("path", "code", "param"),
    [
        ("/input_items?limit=0", "out_of_range", "limit"),
        ("/input_items?limit=101", "out_of_range", "limit"),
        ("/input_items?limit=%C2%B2", "out_of_range", "limit"),
        ("/input_items?order=up", "invalid_value", "order"),
        ("/input_items?after=absent", "invalid_value", "after"),
        ("/input_items?color=red", "unknown_field", "color"),
        ("?stream=true", "invalid_value", "stream"),
        ("?color=red", "unknown_field", "color"),
    ],
)
async def test_bad_questions_about_a_stored_response(server: Running, path: str, code: str, param: str) -> None:
    stored = await server.openai.responses.create(model="tiny", input="one", max_output_tokens=1)
    response = await server.http.get(f"/v1/responses/{stored.id}{path}")
    assert response.status_code == 400
    assert (error_code(response), response.json()["error"]["param"]) == (code, param)
    assert (await server.http.get(f"/v1/responses/{stored.id}?include[]=x&stream=false")).status_code == 200


async def test_what_runs_cannot_be_cancelled_by_id_and_says_how_it_can(server: Running) -> None:
    with pytest.raises(openai.APIStatusError, match="closes the connection") as refusal:
        await server.openai.responses.cancel("resp_x")
    assert refusal.value.status_code == 501
