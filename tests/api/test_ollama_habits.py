"""What Ollama's users and clients send out of habit: bodies without a type, fields at their defaults, older names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api.running import ENCODER, HELLO, WINDOW, Running, running
from tests.api.test_ollama_client import client_of
from tripos.testing import ScriptedModel
from tripos.types import Delta, Finish, Generate, ModelCard, Sampling

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT: dict[str, Any] = {"model": "tiny", "messages": HELLO, "stream": False, "options": {"num_predict": 4, "seed": 1}}
GENERATE: dict[str, Any] = {"model": "tiny", "prompt": "x", "stream": False, "options": {"num_predict": 4, "seed": 1}}
# What the Go client's structs hold when nobody set them; those with omitempty are not sent.
GO_GENERATE: dict[str, Any] = {
    "suffix": "", "system": "", "template": "", "options": None, "raw": False, "_debug_render_only": False
}  # fmt: skip
# Every option at Ollama's own default.
OFF: dict[str, Any] = {
    "numa": False, "num_ctx": 4096, "num_batch": 512, "num_gpu": -1, "main_gpu": 0, "low_vram": False, "f16_kv": True,
    "use_mmap": True, "use_mlock": False, "num_thread": 0, "num_keep": 4, "tfs_z": 1.0, "typical_p": 1.0,
    "repeat_last_n": 64, "presence_penalty": 0.0, "frequency_penalty": 0.0, "mirostat": 0, "mirostat_tau": 5.0,
    "mirostat_eta": 0.1, "penalize_newline": True, "seed": -1, "stop": [], "num_predict": -1,
}  # fmt: skip


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain", "application/json"])
@pytest.mark.parametrize(("path", "body"), [("/api/chat", CHAT), ("/api/generate", GENERATE)])
async def test_a_body_needs_no_type(server: Running, path: str, body: Any, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = await server.http.post(path, content=json.dumps(body), headers=headers)
    assert response.status_code == 200, response.text
    assert response.json() == {**(await server.post(path, body)).json(), **timings(response.json())}


def timings(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name.endswith("_duration") or name == "created_at"}


@pytest.mark.parametrize(
    "page",
    [
        {"origin": "http://example.org"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:3000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
async def test_a_web_page_must_ask_first(server: Running, page: dict[str, str]) -> None:
    """A browser sends a form, a text or an untyped body to any address by itself, but not JSON that says so."""
    for kind in ({}, {"content-type": "text/plain"}, {"content-type": "application/x-www-form-urlencoded"}):
        response = await server.http.post("/api/chat", content=json.dumps(CHAT), headers={**page, **kind})
        assert response.status_code == 415
    typed = await server.http.post("/api/chat", json=CHAT, headers=page)
    assert typed.status_code == 200
    assert "access-control-allow-origin" not in typed.headers


async def test_a_type_that_names_another_encoding_counts(server: Running) -> None:
    headers = {"content-type": "application/json; charset=utf-16"}
    assert (await server.http.post("/api/chat", content=json.dumps(CHAT), headers=headers)).status_code == 415


async def test_other_dialects_and_admin_ask_for_the_type_still(server: Running) -> None:
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/embeddings", "/admin/models/load"):
        assert (await server.http.post(path, content=b"{}")).status_code == 415


async def test_the_go_clients_empty_fields_say_nothing(server: Running) -> None:
    plain = (await server.post("/api/generate", GENERATE)).json()
    response = await server.post("/api/generate", {**GO_GENERATE, **GENERATE})
    assert response.json()["response"] == plain["response"]
    assert "x-tripos-ignored" not in response.headers
    for path, body in (
        ("/api/show", {"model": "tiny", "system": "", "template": "", "options": None, "name": ""}),
        ("/api/embed", {"model": ENCODER, "input": "card", "options": None, "dimensions": 0}),
        ("/api/embeddings", {"model": ENCODER, "prompt": "card", "options": None}),
    ):
        response = await server.post(path, body)
        assert (response.status_code, "x-tripos-ignored" in response.headers) == (200, False), response.text


async def test_options_at_their_defaults_say_nothing() -> None:
    card = ModelCard(name="scripted", task="generate", digest="0" * 64, max_model_len=8192)
    model = ScriptedModel(card=card)
    async with running(model) as server:
        for options in ({}, OFF):
            body = {"model": "scripted", "prompt": "x", "options": options, "stream": False}
            response = await server.post("/api/generate", body)
            assert (response.status_code, "x-tripos-ignored" in response.headers) == (200, False), response.text
    silent, spoken = (call.request for call in model.calls)
    assert spoken == silent


@pytest.mark.parametrize(
    ("option", "outcome"),
    [
        ({"mirostat": 2}, "options.mirostat is not supported: use temperature, top_k, top_p and min_p"),
        ({"tfs_z": 0.5}, "options.tfs_z is not supported"),
        ({"typical_p": 0.5}, "options.typical_p is not supported"),
    ],
)
async def test_options_that_would_change_the_answer_are_refused(
    server: Running, option: dict[str, Any], outcome: str
) -> None:
    response = await server.post("/api/chat", {**CHAT, "options": option})
    assert response.status_code == 400
    assert outcome in response.json()["error"]


@pytest.mark.parametrize(("reach", "penalty"), [(0, 1.0), (-1, 1.5), (64, 1.5), (256, 1.5)])
async def test_penalties_that_reach_over_nothing_are_none(reach: int, penalty: float) -> None:
    model = ScriptedModel()
    options = {"repeat_last_n": reach, "repeat_penalty": 1.5, "presence_penalty": 0.5}
    async with running(model) as server:
        await server.post("/api/generate", {"model": "scripted", "prompt": "x", "options": options})
    request = model.calls[0].request
    assert isinstance(request, Generate)
    expected = Sampling(repetition_penalty=penalty, presence_penalty=0.0 if reach == 0 else 0.5)
    assert request.sampling == expected


async def test_a_window_beyond_the_models_is_the_models(server: Running) -> None:
    for num_ctx, named in ((WINDOW, None), (WINDOW + 1, "options.num_ctx"), (131_072, "options.num_ctx")):
        response = await server.post("/api/chat", {**CHAT, "options": {"num_predict": 1, "num_ctx": num_ctx}})
        assert (response.status_code, response.headers.get("x-tripos-ignored")) == (200, named)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/chat", CHAT),
        ("/api/generate", GENERATE),
        ("/api/show", {}),
        ("/v1/chat/completions", {"messages": HELLO}),
    ],
)
async def test_a_model_has_its_tag_and_its_older_field(server: Running, path: str, body: dict[str, Any]) -> None:
    response = await server.post(path, {**body, "model": "tiny:latest"})
    assert response.status_code == 200
    if path.startswith("/api"):
        unnamed = {key: value for key, value in body.items() if key != "model"}
        assert (await server.post(path, {**unnamed, "name": "tiny"})).status_code == 200
        assert (await server.post(path, {**unnamed, "name": "tiny", "model": "tiny"})).status_code == 200
        other = await server.post(path, {**unnamed, "name": "other", "model": "tiny"})
        assert (other.status_code, other.json()["code"]) == (400, "invalid_value")
    absent = await server.post(path, {**body, "model": "tiny:7b"})
    assert absent.status_code == 404


async def test_typed_clients_read_the_lists_of_models() -> None:
    card = ModelCard(
        name="scripted", task="generate", digest="0" * 64, max_model_len=2048, architecture="llama", weights="int8",
        file_format="gguf", num_parameters=1_500_000_000, num_bytes=1_600_000_000, created=1_700_000_000,
    )  # fmt: skip
    async with running(ScriptedModel(card=card)) as server, client_of(server) as client:
        listed: Any = (await client.list()).models[0]
        loaded: Any = (await client.ps()).models[0]
        for model in (listed, loaded):
            assert (model.size, model.digest, model.details.format) == (1_600_000_000, "0" * 64, "gguf")
            assert (model.details.parameter_size, model.details.quantization_level) == ("1.5B", "INT8")
            assert (model.details.family, model.details.families, model.details.parent_model) == (
                "llama",
                ["llama"],
                "",
            )
        assert listed.modified_at.timestamp() == 1_700_000_000
        assert loaded.expires_at.year == 9999
        for path in ("/api/tags", "/api/ps"):
            (raw,) = (await server.http.get(path)).json()["models"]
            assert {"name", "model", "size", "digest", "details"} <= raw.keys()


async def test_metrics_of_a_name_with_a_tag_are_the_models() -> None:
    model = ScriptedModel([Delta(text="x", finish_reason="stop"), Finish(reason="stop")])
    async with running(model) as server:
        await server.post("/api/generate", {"model": "scripted:latest", "prompt": "x"})
        text = (await server.http.get("/metrics")).text
    assert "scripted:latest" not in text
    assert 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="scripted"} 1.0' in text
