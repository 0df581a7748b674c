"""Adapters over HTTP: chosen by model name, loaded and unloaded while requests run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.api.residing import running_repository
from tests.api.running import Running, TinyModel, error_code
from tests.unit.engine.test_adapters import read_scripted
from tripos.api.auth import Keys

ADMIN, USER = "admin-key-0123456789", "user-key-0123456789"


def adapting(name: str = "tiny", step_s: float = 0.0) -> TinyModel:
    return TinyModel(name, step_s, read_adapter=lambda path: read_scripted(Path(path).name))


@asynccontextmanager
async def serving(*models: TinyModel, keys: Keys | None = None) -> AsyncIterator[Running]:
    models = models or (adapting(),)
    async with running_repository(*models, keys=keys) as server:
        yield server
    for model in models:
        model.engine.pool.check_integrity()
        assert model.num_held == 0


async def load(server: Running, name: str, path: str, **more: Any) -> httpx.Response:
    return await server.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path, **more})


async def unload(server: Running, name: str) -> httpx.Response:
    return await server.post("/v1/unload_lora_adapter", {"lora_name": name})


async def complete(server: Running, model: str, max_tokens: int = 12) -> str:
    answer = await server.openai.completions.create(model=model, prompt="one prompt", max_tokens=max_tokens, seed=3)
    return answer.choices[0].text


async def test_a_client_picks_an_adapter_as_a_model() -> None:
    async with serving() as server:
        base = await complete(server, "tiny")
        response = await load(server, "sql", "1")
        assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'sql' added successfully.")
        assert (await load(server, "poem", "2")).status_code == 200
        texts = await asyncio.gather(*(complete(server, name) for name in ("tiny", "sql", "poem")))
        assert texts[0] == base
        assert len(set(texts)) == 3
        cards = {model.id: model.model_dump() for model in (await server.openai.models.list()).data}
        assert list(cards) == ["tiny", "sql", "poem"]
        assert (cards["tiny"]["parent"], cards["tiny"]["root"]) == (None, "tiny")
        assert (cards["sql"]["parent"], cards["sql"]["root"]) == ("tiny", "tiny")
        assert cards["sql"]["digest"] == "digest of 1"
        response = await unload(server, "sql")
        assert (response.status_code, response.text) == (200, "Success: LoRA adapter 'sql' removed successfully.")
        with pytest.raises(openai.NotFoundError, match="no model is named"):
            await complete(server, "sql")
        assert await complete(server, "poem") == texts[2]


async def test_a_reload_in_place_is_seen_by_new_requests() -> None:
    async with serving() as server:
        await load(server, "a", "1")
        old = await complete(server, "a")
        assert (await load(server, "a", "2", load_inplace=True)).status_code == 200
        assert await complete(server, "a") != old
        assert (await server.openai.models.retrieve("a")).model_dump()["digest"] == "digest of 2"
        assert (await load(server, "a", "1", load_inplace=True)).status_code == 200
        assert await complete(server, "a") == old


async def test_an_unload_waits_for_streams_and_refuses_newcomers() -> None:
    async with serving(adapting(step_s=0.01)) as server:
        await load(server, "a", "1")
        want = await complete(server, "a", 30)
        stream = await server.openai.completions.create(
            model="a", prompt="one prompt", max_tokens=30, seed=3, stream=True
        )
        pieces = [(await anext(stream)).choices[0].text]
        unloading = asyncio.ensure_future(unload(server, "a"))
        await asyncio.sleep(0.05)
        assert not unloading.done()
        with pytest.raises(openai.NotFoundError):
            await complete(server, "a")
        pieces += [chunk.choices[0].text async for chunk in stream]
        assert "".join(pieces) == want
        assert (await unloading).status_code == 200


BAD: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("load", {"lora_path": "1"}, 400, "missing_field", "lora_name"),
    ("load", {"lora_name": "x"}, 400, "missing_field", "lora_path"),
    ("load", {"lora_name": "x", "lora_path": 1}, 400, "invalid_type", "lora_path"),
    ("load", {"lora_name": "x", "lora_path": "1", "rank": 4}, 400, "unknown_field", "rank"),
    ("load", {"lora_name": "", "lora_path": "1"}, 400, "invalid_value", "1 to 128 characters"),
    ("load", {"lora_name": "a,b", "lora_path": "1"}, 400, "invalid_value", "1 to 128 characters"),
    ("load", {"lora_name": "x" * 300, "lora_path": "1"}, 400, "out_of_range", "at most 256"),
    ("load", {"lora_name": "x", "lora_path": "1" * 5000}, 400, "out_of_range", "at most 4096"),
    ("load", {"lora_name": "x", "lora_path": "bad"}, 400, "model_refused", "r is 0"),
    ("load", {"lora_name": "tiny", "lora_path": "1"}, 400, "already_loaded", "choose another name"),
    ("load", {"lora_name": "tiny", "lora_path": "1", "load_inplace": True}, 400, "already_loaded", "another name"),
    ("load", {"lora_name": "here", "lora_path": "1"}, 400, "already_loaded", "set load_inplace"),
    ("load", {"lora_name": "x", "lora_path": "1", "base_model_name": "nobody"}, 404, "model_not_found", "nobody"),
    (
        "load",
        {"lora_name": "x", "lora_path": "1", "base_model_name": "here"},
        400,
        "invalid_value",
        "takes no adapters",
    ),
    ("unload", {}, 400, "missing_field", "lora_name"),
    ("unload", {"lora_name": "nobody"}, 404, "not_found", "no adapter is named"),
    ("unload", {"lora_name": "tiny"}, 404, "not_found", "no adapter is named"),
]


async def test_bad_requests_are_refused_and_nothing_is_lost() -> None:
    async with serving() as server:
        await load(server, "here", "1")
        want = [await server.canary(), await complete(server, "here")]
        for kind, body, status, code, message in BAD:
            response = await server.post(f"/v1/{kind}_lora_adapter", body)
            assert (response.status_code, error_code(response)) == (status, code), response.text
            assert message in response.text
            assert [await server.canary(), await complete(server, "here")] == want
        for name in ("b", "c"):
            assert (await load(server, name, "2")).status_code == 200
        full = await load(server, "d", "3")
        assert (full.status_code, error_code(full)) == (400, "too_many_items")
        assert [card.name for card in server.service.cards] == ["tiny", "here", "b", "c"]


async def test_a_model_must_be_named_where_several_take_adapters() -> None:
    async with serving(adapting("one"), adapting("two")) as server:
        response = await load(server, "a", "1")
        assert (response.status_code, error_code(response)) == (400, "invalid_value")
        assert "say which model the adapter is for; these take some: one, two" in response.text
        assert (await load(server, "a", "1", base_model_name="two")).status_code == 200
        assert server.service.card("a").parent == "two"


async def test_a_model_without_adapters_says_so() -> None:
    async with serving(TinyModel()) as server:
        response = await load(server, "a", "1")
        assert response.status_code == 400
        assert "tiny takes no adapters: start the server with --max-adapters" in response.text


async def test_the_admin_scope_is_asked_for() -> None:
    keys = Keys({ADMIN: frozenset({"generate", "admin"}), USER: frozenset({"generate"})})
    body = {"lora_name": "a", "lora_path": "1"}
    async with serving(keys=keys) as server:
        for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
            assert (await server.post(path, body)).status_code == 401
            denied = await server.post(path, body, authorization=f"Bearer {USER}")
            assert (denied.status_code, error_code(denied)) == (403, "permission_denied")
        assert (await server.post("/v1/load_lora_adapter", body, authorization=f"Bearer {ADMIN}")).status_code == 200


async def test_metrics_name_the_adapters_at_work() -> None:
    async with serving(adapting(step_s=0.01)) as server:
        await load(server, "a", "1")
        running_call = asyncio.ensure_future(complete(server, "a", 60))
        await asyncio.sleep(0.1)
        text = (await server.http.get("/metrics")).text
        line = next(each for each in text.splitlines() if each.startswith("vllm:lora_requests_info{"))
        assert 'max_lora="3"' in line
        assert 'running_lora_adapters="a"' in line
        assert 'waiting_lora_adapters=""' in line
        assert 'model_name="tiny"' in line
        await running_call
        text = (await server.http.get("/metrics")).text
        assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="a"} 1.0' in text


async def test_a_client_that_leaves_does_not_stop_half_way() -> None:
    async with serving(adapting(step_s=0.02)) as server:
        await load(server, "a", "1")
        busy = asyncio.ensure_future(complete(server, "a", 40))
        await asyncio.sleep(0.1)
        with pytest.raises(httpx.TimeoutException):
            await server.http.post("/v1/unload_lora_adapter", json={"lora_name": "a"}, timeout=0.1)
        await busy
        for _ in range(100):
            if not server.service.model("tiny").adapters._draining:  # type: ignore[attr-defined]
                break
            await asyncio.sleep(0.02)
        assert (await load(server, "a", "2")).status_code == 200


async def test_requests_go_on_while_adapters_come_and_go() -> None:
    """Bounded: every request for a served name gets 200 and the words of an adapter that the name meant, or 404."""
    chance = random.Random(3)
    async with serving() as server:
        words = {}
        for number in range(4):
            await load(server, "x", str(number), load_inplace=True)
            words[number] = await complete(server, "x")
        await unload(server, "x")
        may_mean: dict[str, set[int]] = {name: set() for name in "abc"}
        history: dict[str, list[int]] = {name: [] for name in "abc"}  # it may change twice while a request runs
        is_served: dict[str, bool] = dict.fromkeys("abc", False)
        counts = {200: 0, 404: 0}

        async def ask() -> None:
            for _ in range(40):
                name = chance.choice("abc")
                before, meant, since = is_served[name], set(may_mean[name]), len(history[name])
                body = {"model": name, "prompt": "one prompt", "max_tokens": 12, "seed": 3}
                response = await server.post("/v1/completions", body)
                counts[response.status_code] += 1
                if response.status_code == 200:
                    text = response.json()["choices"][0]["text"]
                    assert text in {words[number] for number in meant | may_mean[name] | {*history[name][since:]}}
                else:
                    assert not (before and is_served[name] and meant == may_mean[name]), (
                        "a served adapter was not found"
                    )

        async def change() -> None:
            for _ in range(60):
                name, number = chance.choice("abc"), chance.randrange(4)
                if is_served[name] and chance.random() < 0.5:
                    is_served[name] = False
                    may_mean[name] |= {-1}
                    assert (await unload(server, name)).status_code == 200
                    may_mean[name] -= {-1}
                else:
                    may_mean[name].add(number)
                    history[name].append(number)
                    response = await load(server, name, str(number), load_inplace=True)
                    assert response.status_code in (200, 503), response.text
                    if response.status_code == 200:
                        is_served[name], may_mean[name] = True, {number}

        words[-1] = ""
        await asyncio.gather(change(), *(ask() for _ in range(8)))
        assert counts[200] > 100
