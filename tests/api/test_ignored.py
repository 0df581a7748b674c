"""What a client sends beside what is honoured: taken in silence, named in a header, or refused with our name for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from tests.api.posts import POSTS, Post, body_of
from tests.api.running import HELLO, Running, TinyModel, error_code, running_service, tiny_encoder
from tripos.pipeline.decide import decide
from tripos.service import Service
from tripos.wire import foreign
from tripos.wire.fields import Field

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = "x-tripos-ignored"
CHAT = {"model": "tiny", "messages": HELLO, "max_tokens": 1}
OLLAMA = {"model": "tiny", "messages": HELLO, "stream": False}
TWO = "client_metadata, text.verbosity"
OTHER = {"type": "function", "function": {"name": "g"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    """With a window for the descriptions of tools."""
    return TinyModel(window=4096)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def strict() -> AsyncIterator[Running]:
    """Two routes to one model, and one to an encoder: `careful` is strict."""
    service = Service()
    model = TinyModel()
    service.add(model)
    service.add(model, [decide()], "careful", is_strict=True)
    service.add(tiny_encoder(), name="careful-encoder", is_strict=True)
    async with running_service(service) as server:
        yield server


@pytest.mark.parametrize("post", POSTS, ids=lambda post: post.path)
async def test_an_unknown_field_is_named_on_every_path(server: Running, post: Post) -> None:
    plain = await server.post(post.path, body_of(post))
    assert plain.status_code == 200
    assert NAMES not in plain.headers
    response = await server.post(post.path, body_of(post, colour="red", **{"a b": 1, "off": False, "nothing": None}))
    assert response.status_code == 200
    assert response.headers[NAMES] == "colour, a%20b"


@pytest.mark.parametrize("post", [post for post in POSTS if "stream" in post.table], ids=lambda post: post.path)
async def test_a_stream_names_them_in_its_head(server: Running, post: Post) -> None:
    response = await server.post(post.path, body_of(post, colour="red", stream=True))
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.headers[NAMES] == "colour"


@pytest.mark.parametrize("post", POSTS, ids=lambda post: post.path)
async def test_a_strict_route_refuses_them_on_every_path(strict: Running, post: Post) -> None:
    name = "careful" if post.model == "tiny" else "careful-encoder"
    response = await strict.post(post.path, body_of(post, name, colour="red"))
    assert (response.status_code, error_code(response)) == (400, "unknown_field")
    assert (await strict.post(post.path, body_of(post, name))).status_code == 200


async def test_a_strict_route_names_what_it_knows_and_does_not_heed(strict: Running) -> None:
    response = await strict.post("/v1/chat/completions", {**CHAT, "model": "careful", "verbosity": "low"})
    assert (response.status_code, response.headers[NAMES]) == (200, "verbosity")
    lenient = await strict.post("/v1/chat/completions", {**CHAT, "colour": "red"})
    assert (lenient.status_code, lenient.headers[NAMES]) == (200, "colour")


async def test_many_and_strange_names_make_one_short_line(server: Running) -> None:
    many = {f"colour_{i}": i + 1 for i in range(5000)}
    response = await server.post("/v1/chat/completions", {**CHAT, "x\r\nx-own: 1": 1, "é, ü": 1, **many})
    value = response.headers[NAMES]
    assert value.startswith("x%0D%0Ax-own:%201, %C3%A9%2C%20%C3%BC, colour_0, colour_1, ")
    assert len(value) <= 1024
    assert int(value.rpartition(", +")[2]) == 5002 - value.count(",")
    assert "x-own" not in response.headers


async def test_metrics_count_by_group_and_never_by_name(server: Running) -> None:
    def count(text: str, group: str) -> float:
        line = f'tripos:ignored_fields_total{{group="{group}",model_name="tiny"}} '
        return next((float(each.removeprefix(line)) for each in text.splitlines() if each.startswith(line)), 0.0)

    before = (await server.http.get("/metrics")).text
    body = {**CHAT, "very_own_name": 1, "another_name": 2, "verbosity": "low"}
    await server.post("/v1/chat/completions", body)
    after = (await server.http.get("/metrics")).text
    assert count(after, "unknown") - count(before, "unknown") == 2
    assert count(after, "advisory") - count(before, "advisory") == 1
    assert "very_own_name" not in after


@pytest.mark.parametrize(
    ("path", "fields", "named"),
    [
        ("/v1/chat/completions", {"verbosity": "medium", "prompt_cache_key": "x", "seed": -1, "max_tokens": -1}, ""),
        ("/v1/chat/completions", {"verbosity": "low", "user": "u", "store": True}, "verbosity, user, store"),
        ("/v1/chat/completions", {"stream_options": {}, "top_logprobs": 0, "logprobs": False, "functions": []}, ""),
        ("/v1/chat/completions", {"tools": [{**TOOL, "cache_control": {"type": "ephemeral"}}]}, ""),
        ("/v1/chat/completions", {"tools": [{**TOOL, "x": 1}, {**OTHER, "x": 1}]}, "tools[].x"),
        ("/v1/chat/completions", {"response_format": {"type": "text", "x": 1}}, "response_format.x"),
        ("/v1/chat/completions", {"repeat_penalty": 1.0, "dry_multiplier": 0, "n_predict": -1, "do_sample": True}, ""),
        ("/v1/chat/completions", {"skip_special_tokens": True, "use_beam_search": False, "guided_json": None}, ""),
        ("/v1/chat/completions", {"cache_prompt": False, "timings_per_token": True}, "cache_prompt, timings_per_token"),
        ("/v1/responses", {"text": {"verbosity": "low"}, "client_metadata": {"x": 1}}, TWO),
        ("/v1/responses", {"truncation": "auto", "instructions": "", "service_tier": "default"}, "truncation"),
        ("/v1/chat/completions", {"service_tier": "priority"}, "service_tier"),
        ("/v1/completions", {"service_tier": "flex"}, ""),
        ("/v1/messages", {"system": "", "stop_sequences": [], "tools": []}, ""),
        ("/v1/messages", {"system": [], "service_tier": "batch"}, "service_tier"),
        ("/v1/responses", {"include": ["reasoning.encrypted_content"]}, "include.reasoning.encrypted_content"),
        ("/v1/messages", {"cache_control": {"type": "ephemeral"}, "service_tier": "auto", "speed": "standard"}, ""),
        ("/v1/messages", {"metadata": {"user_id": "u", "more": 1}, "betas": ["x"]}, "betas, metadata"),
        ("/api/chat", {"truncate": True, "shift": False, "keep_alive": "5m", "tools": []}, ""),
        ("/api/chat", {"options": {"num_ctx": 1_000_000, "num_gpu": 3}}, "options.num_gpu, options.num_ctx"),
        ("/api/generate", {"_debug_render_only": False, "suffix": "", "template": "", "system": "", "context": []}, ""),
        ("/v1/embeddings", {"input_type": "query", "user": "u"}, "input_type, user"),
        ("/rerank", {"max_chunks_per_doc": None, "rank_fields": [], "overlap": 3}, "overlap"),
    ],
)  # fmt: skip
async def test_each_value_falls_in_its_group(server: Running, path: str, fields: dict[str, Any], named: str) -> None:
    post = next(post for post in POSTS if post.path == path)
    response = await server.post(path, body_of(post, **fields))
    assert response.status_code == 200, response.text
    assert response.headers.get(NAMES, "") == named


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v1/chat/completions", foreign.CHAT), ("/v1/completions", foreign.COMPLETIONS),
     ("/v1/responses", foreign.RESPONSES), ("/v1/messages", foreign.MESSAGES),
     ("/v1/embeddings", foreign.EMBEDDINGS), ("/rerank", foreign.RERANK), ("/tokenize", foreign.TOKENIZE)],
)  # fmt: skip
async def test_names_of_other_servers_are_silent_named_or_answered_with_ours(
    server: Running, path: str, fields: tuple[Field, ...]
) -> None:
    post = next(post for post in POSTS if post.path == path)
    for field in fields:
        for value in field.nothing:
            response = await server.post(path, body_of(post, **{field.name: value}))
            assert (response.status_code, response.headers.get(NAMES)) == (200, None), (field.name, value)
        response = await server.post(path, body_of(post, **{field.name: 77}))
        if field.use == "ignored":
            assert response.headers[NAMES] == field.name
        else:
            assert (response.status_code, error_code(response)) == (400, "invalid_value")
            assert field.doc in response.text
            assert field.name in response.text


async def test_no_hint_is_guessed(server: Running) -> None:
    response = await server.post("/v1/chat/completions", {**CHAT, "guided_json": {"type": "object"}})
    assert response.json()["error"]["message"] == (
        "guided_json is not supported: use structured_outputs or response_format"
    )


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"messages": [
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "x"}}], "id": "m"},
            {"role": "assistant", "content": "y", "provider_specific_fields": {"a": 1}, "thinking_blocks": [{}],
             "reasoning_details": [{}], "id": "r", "refusal": None, "tool_calls": []},
            {"role": "user", "content": "z", "cache_control": {"type": "ephemeral"}},
        ]}),
        ("/v1/responses", {"input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x", "more": 1}], "extra": 1},
            {"type": "message", "role": "assistant", "id": "m", "status": "completed", "phase": 3, "own": {},
             "content": [{"type": "output_text", "text": "y", "annotations": [], "logprobs": [], "more": 1}]},
            {"role": "user", "content": "z"},
        ]}),
        ("/v1/messages", {"messages": [
            {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "x"}, "q": 1}]},
            {"role": "assistant", "id": "m", "content": [{"type": "text", "text": "y", "citations": None, "own": 1}]},
            {"role": "user", "content": "z", "uuid": "u"},
        ]}),
        ("/api/chat", {"messages": [
            {"role": "user", "content": "x", "images": [], "id": 1}, {"role": "assistant", "content": "y", "own": 1},
            {"role": "user", "content": "z"},
        ]}),
    ],
)  # fmt: skip
async def test_further_keys_of_messages_are_echoes(server: Running, path: str, fields: dict[str, Any]) -> None:
    post = next(post for post in POSTS if post.path == path)
    response = await server.post(path, body_of(post, **fields))
    assert response.status_code == 200, response.text
    assert NAMES not in response.headers


async def test_a_part_with_a_second_content_is_refused_still(server: Running) -> None:
    part = {"type": "text", "text": "x", "image_url": {"url": "data:,"}}
    response = await server.post("/v1/chat/completions", {**CHAT, "messages": [{"role": "user", "content": [part]}]})
    assert (response.status_code, error_code(response)) == (400, "invalid_value")


async def test_arguments_that_the_template_does_not_read_are_named(server: Running) -> None:
    model: Any = server.service.model("tiny")
    chat = {"model": "picky", "messages": HELLO, "chat_template_kwargs": {"enable_thinking": False, "documents2": 1}}
    questions = next(post.body for post in POSTS if post.path == "/v1/decisions")
    bodies = {
        "/v1/chat/completions": {**chat, "max_tokens": 1},
        "/tokenize": chat,
        "/v1/decisions": {**questions, "model": "picky", "chat_template_kwargs": chat["chat_template_kwargs"]},
    }
    card, model.card = model.card, replace(model.card, template_args=("enable_thinking",))
    server.service.add(model, [decide()], "picky")
    try:
        for path, body in bodies.items():
            response = await server.post(path, body)
            assert (response.status_code, response.headers[NAMES]) == (200, "chat_template_kwargs.documents2")
    finally:
        server.service.remove("picky")
        model.card = card
