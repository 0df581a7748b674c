"""The official client gets what it asks for: sync, async and streaming, every supported field."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from tests.api.running import EOS, HELLO, Running, TinyModel, running, saying
from tripos.testing import ScriptedModel
from tripos.types import Delta, Finish, Generate, ModelCard, Sampling, TokenLogprob, Usage

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_chat_answers_with_usage_and_metrics(server: Running) -> None:
    done = await server.openai.chat.completions.create(model="tiny", messages=HELLO, max_tokens=8, seed=1)
    assert done.object == "chat.completion"
    assert done.choices[0].message.role == "assistant"
    assert len(done.choices[0].message.content or "") == 8
    assert done.choices[0].finish_reason == "length"
    assert done.usage is not None
    assert done.usage.completion_tokens == 8
    assert done.usage.total_tokens == done.usage.prompt_tokens + 8
    assert done.usage.prompt_tokens_details is not None
    assert done.usage.prompt_tokens_details.cached_tokens == 0
    assert done.system_fingerprint == "fp_" + "ab" * 8
    metrics: dict[str, float] = done.metrics  # type: ignore[attr-defined]
    assert {"time_to_first_token_ms", "queue_time_ms", "generation_time_ms", "mean_itl_ms", "tokens_per_second"} <= (
        metrics.keys()
    )
    assert metrics["tokens_per_second"] > 0
    assert metrics["decode_time_ms"] > 0
    assert metrics["prefill_time_ms"] > 0


@pytest.mark.parametrize("options", [{}, {"include_usage": True}], ids=str)
@pytest.mark.parametrize("n", [1, 2])
async def test_every_chunk_holds_the_usage_so_far(server: Running, n: int, options: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "seed": 3, "n": n}
    options = {**options, "continuous_usage_stats": True}
    stream = await server.openai.chat.completions.create(**asked, stream=True, stream_options=options)
    usages: list[Any] = [chunk.usage async for chunk in stream]
    assert all(usage.prompt_tokens == 24 for usage in usages)
    totals = [usage.completion_tokens for usage in usages]
    assert totals == sorted(totals)
    assert totals[-1] == 12 * n
    assert all(usage.total_tokens == 24 + usage.completion_tokens for usage in usages)


@pytest.mark.parametrize("n", [1, 3])
async def test_chat_streams_what_it_answers_whole(server: Running, n: int) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "seed": 3, "n": n}
    whole = await server.openai.chat.completions.create(**asked)
    stream = await server.openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12 * n
    assert chunks[-1].metrics["tokens_per_second"] > 0  # type: ignore[attr-defined]
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks[:-1] if c.choices[0].index == choice.index]
        assert mine[0].delta.role == "assistant"
        assert "".join(each.delta.content or "" for each in mine) == choice.message.content
        assert [each.finish_reason for each in mine if each.finish_reason] == [choice.finish_reason]
    assert len({choice.message.content for choice in whole.choices}) == n


async def test_sync_client_answers_and_streams(server: Running) -> None:
    def ask() -> tuple[str, str]:
        http = httpx.Client(trust_env=False)
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", http_client=http) as client:
            asked: Any = {"model": "tiny", "prompt": "Hi", "max_tokens": 5, "seed": 1}
            whole = client.completions.create(**asked).choices[0].text
            return whole, "".join(chunk.choices[0].text for chunk in client.completions.create(**asked, stream=True))

    whole, streamed = await asyncio.to_thread(ask)
    assert len(whole) == 5
    assert streamed == whole


async def test_chat_reports_logprobs(server: Running) -> None:
    done = await server.openai.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=4, logprobs=True, top_logprobs=2, seed=1
    )
    assert done.choices[0].logprobs is not None
    tokens = done.choices[0].logprobs.content or []
    assert "".join(token.token for token in tokens) == done.choices[0].message.content
    assert all(len(token.top_logprobs) == 2 and token.logprob <= 0 for token in tokens)
    assert [bytes(token.bytes or []).decode() for token in tokens] == [token.token for token in tokens]


async def test_completions_answer_a_list_of_prompts_in_order(server: Running) -> None:
    prompts = ["one", "two", "three"]
    done = await server.openai.completions.create(model="tiny", prompt=prompts, n=2, max_tokens=4, seed=5)
    alone = [
        await server.openai.completions.create(model="tiny", prompt=prompt, n=2, max_tokens=4, seed=5)
        for prompt in prompts
    ]
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3, 4, 5]
    assert [c.text for c in done.choices] == [c.text for each in alone for c in each.choices]
    assert done.usage is not None
    assert done.usage.prompt_tokens == 3 + 3 + 5
    assert done.usage.completion_tokens == 24


async def test_token_ids_are_the_text_that_they_spell(server: Running) -> None:
    ids = list(b"canary")
    for prompt in (ids, [ids]):
        done = await server.openai.completions.create(model="tiny", prompt=prompt, max_tokens=8, seed=7)
        assert done.choices[0].text == await server.canary()


@pytest.mark.parametrize("prompt", ["Hey you", list(b"Hey you")])
@pytest.mark.parametrize("stream", [False, True])
async def test_echo_of_the_prompt_alone_scores_it(server: Running, prompt: Any, stream: bool) -> None:
    asked: Any = {"model": "tiny", "prompt": prompt, "echo": True, "max_tokens": 0, "logprobs": 1}
    if stream:
        chunks = [chunk async for chunk in await server.openai.completions.create(**asked, stream=True)]
        choice = chunks[0].choices[0]
    else:
        choice = (await server.openai.completions.create(**asked)).choices[0]
    assert choice.text == "Hey you"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == list("Hey you")
    assert choice.logprobs.text_offset == list(range(7))
    scores = choice.logprobs.token_logprobs or []
    assert scores[0] is None
    assert all(score is not None and score <= 0 for score in scores[1:])


async def test_echo_continues_offsets_into_the_output(server: Running) -> None:
    asked: Any = {"model": "tiny", "prompt": "ab", "echo": True, "max_tokens": 3, "logprobs": 0, "seed": 1}
    whole = (await server.openai.completions.create(**asked)).choices[0]
    assert whole.text.startswith("ab")
    assert whole.logprobs is not None
    assert whole.logprobs.tokens == list(whole.text)
    assert whole.logprobs.text_offset == [0, 1, 2, 3, 4]
    streamed = [chunk.choices[0] async for chunk in await server.openai.completions.create(**asked, stream=True)]
    assert [o for c in streamed if c.logprobs for o in c.logprobs.text_offset or []] == [0, 1, 2, 3, 4]


@pytest.fixture(scope="module")
def said() -> str:
    """Characters of one, two and four tokens; each token is a byte."""
    return "a😀é b"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def speaker(said: str) -> AsyncIterator[Running]:
    async with running(TinyModel("speaker", draw=saying(said))) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True])
async def test_text_offsets_count_the_characters_of_the_text(speaker: Running, said: str, stream: bool) -> None:
    asked: Any = {"model": "speaker", "prompt": "é>", "echo": True, "logprobs": 1, "max_tokens": 20}
    if stream:
        chunks = [chunk.choices[0] async for chunk in await speaker.openai.completions.create(**asked, stream=True)]
    else:
        chunks = (await speaker.openai.completions.create(**asked)).choices
    text = "".join(chunk.text for chunk in chunks)
    lists = [chunk.logprobs for chunk in chunks if chunk.logprobs is not None]
    offsets = [offset for each in lists for offset in each.text_offset or []]
    assert text == "é>" + said
    assert offsets == [0, 0, 1, 2, 3, 3, 3, 3, 4, 4, 5, 6, len(text)]
    assert len(offsets) == sum(len(each.tokens or []) for each in lists)


async def test_the_token_that_ends_is_in_the_lists_and_has_no_text(speaker: Running, said: str) -> None:
    asked: Any = {"model": "speaker", "logprobs": 2, "echo": True, "max_tokens": 1}
    choice = (await speaker.openai.completions.create(**asked, prompt=">" + said)).choices[0]
    assert choice.text == ">" + said
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    num_tokens = len(said.encode()) + 2
    assert choice.logprobs.tokens is not None
    assert choice.logprobs.tokens[-1] == "</s>"
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[-1] is not None
    assert choice.logprobs.top_logprobs is not None
    assert "</s>" in choice.logprobs.top_logprobs[-1]
    assert choice.logprobs.text_offset is not None
    for each in (choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs):
        assert len(each) == len(choice.logprobs.text_offset) == num_tokens


async def test_a_normal_end_has_no_stop_reason(speaker: Running) -> None:
    messages: Any = [{"role": "user", "content": ">"}]
    for ids, reason in (([], None), ([EOS], EOS)):
        asked: Any = {"model": "speaker", "max_tokens": 20, "extra_body": {"stop_token_ids": ids}}
        text = (await speaker.openai.completions.create(**asked, prompt=">")).choices[0]
        chat = (await speaker.openai.chat.completions.create(**asked, messages=messages)).choices[0]
        assert (text.finish_reason, text.stop_reason) == ("stop", reason)  # type: ignore[attr-defined]
        assert (chat.finish_reason, chat.stop_reason) == ("stop", reason)  # type: ignore[attr-defined]


async def test_stop_string_ends_the_answer_and_is_named(server: Running) -> None:
    asked: Any = {"model": "tiny", "prompt": "x", "max_tokens": 20, "seed": 2}
    text = (await server.openai.completions.create(**asked)).choices[0].text
    stop = text[5:7]
    for stops in (stop, ["never", stop]):
        choice = (await server.openai.completions.create(**asked, stop=stops)).choices[0]
        assert choice.text == text[: text.index(stop)]
        assert choice.finish_reason == "stop"
        assert choice.stop_reason == stop  # type: ignore[attr-defined]
    kept = await server.openai.completions.create(**asked, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].text == text[: text.index(stop) + 2]


async def test_every_sampling_field_is_taken(server: Running) -> None:
    done = await server.openai.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_completion_tokens=4,
        temperature=-0.0,
        top_p=0.9,
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"97": -100},
        seed=2**63 - 1,
        user="someone",
        metadata={"a": "b"},
        service_tier="flex",
        store=False,
        extra_body={
            "top_k": 2**31 - 1, "min_p": 0.1, "repetition_penalty": 1.2, "min_tokens": 1, "stop_token_ids": [256],
            "ignore_eos": True, "best_of": 1, "priority": 1, "cache_salt": "s", "timeout": 5.5,
            "chat_template_kwargs": {"enable_thinking": False}, "response_format": {"type": "text"},
        },
    )  # fmt: skip
    assert done.usage is not None
    assert done.usage.completion_tokens == 4


async def test_a_repeated_prompt_is_found_in_the_cache(server: Running) -> None:
    asked: Any = {"model": "tiny", "prompt": "x" * 100, "max_tokens": 1}
    await server.openai.completions.create(**asked)
    again = await server.openai.completions.create(**asked)
    assert again.usage is not None
    assert again.usage.prompt_tokens_details is not None
    assert (again.usage.prompt_tokens_details.cached_tokens or 0) >= 64
    salted = await server.openai.completions.create(**asked, extra_body={"cache_salt": "mine"})
    assert salted.usage is not None
    assert salted.usage.prompt_tokens_details is not None
    assert salted.usage.prompt_tokens_details.cached_tokens == 0


async def test_models_are_listed_with_digest_and_window() -> None:
    async with running(TinyModel("org/tiny:v1"), ScriptedModel()) as server:
        assert [model.id async for model in server.openai.models.list()] == ["org/tiny:v1", "scripted"]
        model = (await server.http.get("/v1/models/org/tiny:v1")).json()
        assert model["digest"] == "ab" * 32
        assert model["max_model_len"] == 256
        assert model["owned_by"] == "tripos"
        response = await server.post("/v1/completions", {"model": "org/tiny:v1", "prompt": "x", "max_tokens": 1})
        assert response.headers["x-tripos-model-digest"] == "ab" * 32
        with pytest.raises(openai.NotFoundError):
            await server.openai.models.retrieve("absent")


async def test_tokens_come_and_go(server: Running) -> None:
    body = {"model": "tiny", "prompt": "Hé!", "return_token_strs": True}
    tokens = (await server.post("/tokenize", body)).json()
    assert tokens == {
        "tokens": [72, 195, 169, 33], "count": 4, "max_model_len": 256, "token_strs": ["H", "\ufffd", "\ufffd", "!"]
    }  # fmt: skip
    text = await server.post("/detokenize", {"model": "tiny", "tokens": tokens["tokens"]})
    assert text.json() == {"prompt": "Hé!"}
    chat = (await server.post("/tokenize", {"model": "tiny", "messages": HELLO})).json()
    assert bytes(chat["tokens"]) == b"user: Hello?\nassistant: "
    bare = (await server.post("/tokenize", {"model": "tiny", "messages": HELLO, "add_generation_prompt": False})).json()
    assert bytes(bare["tokens"]) == b"user: Hello?\n"


async def test_bytes_that_are_no_text_are_named_as_openai_does() -> None:
    half = TokenLogprob(1, "\ufffd", b"\xf0\x9f", float("-inf"))
    events = [
        Delta(text="\ufffd", token_ids=(1,), logprobs=(half,), finish_reason="stop"),
        Finish(reason="stop", usage=Usage(output_tokens=1)),
    ]
    async with running(ScriptedModel(events)) as server:
        done = await server.openai.completions.create(model="scripted", prompt="x", logprobs=1)
        assert done.choices[0].logprobs is not None
        assert done.choices[0].logprobs.tokens == ["bytes:\\xf0\\x9f"]
        assert done.choices[0].logprobs.token_logprobs == [-9999.0]


async def test_client_raises_the_error_of_a_late_failure() -> None:
    from tripos.errors import RequestFailed

    model = ScriptedModel([Delta(text="a", token_ids=(1,)), RequestFailed("it broke")])
    async with running(model) as server:
        stream = await server.openai.completions.create(model="scripted", prompt="x", stream=True)
        with pytest.raises(openai.APIError, match="it broke"):
            async for _ in stream:
                pass
        response = await server.post("/v1/completions", {"model": "scripted", "prompt": "x", "stream": True})
        assert "[DONE]" not in response.text
        assert response.text.rstrip().splitlines()[-1].startswith('data: {"error":{')
        whole = await server.post("/v1/completions", {"model": "scripted", "prompt": "x"})
        assert whole.status_code == 500
        assert whole.json()["error"]["code"] == "request_failed"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_what_a_client_leaves_out_is_as_the_model_recommends(path: str) -> None:
    recommended = Sampling(temperature=0.0, top_k=7, top_p=0.5, min_p=0.1, repetition_penalty=1.5)
    model = ScriptedModel(card=ModelCard(name="scripted", task="generate", digest="0" * 64, sampling=recommended))
    body: dict[str, Any] = {"model": "scripted", "prompt": "x"}
    if "chat" in path:
        body = {"model": "scripted", "messages": HELLO}
    async with running(model) as server:
        for given in ({}, {"temperature": 1.0, "top_k": -1, "top_p": 1, "min_p": 0, "repetition_penalty": None}):
            assert (await server.post(path, body | given)).status_code == 200
    silent, spoken = (call.request.sampling for call in model.calls if isinstance(call.request, Generate))
    assert silent == recommended
    assert spoken == Sampling(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.5)
