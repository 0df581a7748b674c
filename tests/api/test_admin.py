"""/admin: models are loaded and unloaded while the others answer, by those who may, within the memory there is."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from tests.api.residing import MAX_BYTES, MIB, TOTAL_BYTES, Residing, residing, tiny_options
from tests.api.running import Running, TinyModel, error_code, running
from tripos.api.auth import Keys, read_keys
from tripos.api.routes import ROUTES
from tripos.build.service import make_stages
from tripos.config import ModelOptions, NeedOptions, RouteOptions
from tripos.errors import ConfigError
from tripos.pipeline.chain import chain
from tripos.testing import ScriptedModel
from tripos.types import Call, Generate, Priority

GENERATE, ADMIN, BOTH = "g" * 32, "a" * 32, "b" * 32
KEYS = Keys({GENERATE: frozenset({"generate"}), ADMIN: frozenset({"admin"}), BOTH: frozenset({"generate", "admin"})})


async def complete(server: Running, model: str, **fields: Any) -> Any:
    return await server.post("/v1/completions", {"model": model, "prompt": "x", "max_tokens": 4, "seed": 1, **fields})


async def load(server: Running, name: str = "", source: str = "", **options: Any) -> Any:
    return await server.post("/admin/models/load", {"name": name, "source": source, "options": options})


async def unload(server: Running, name: str) -> Any:
    return await server.post("/admin/models/unload", {"name": name})


async def models(server: Running) -> dict[str, Any]:
    listed = (await server.http.get("/admin/models")).json()["models"]
    return {model["name"]: model for model in listed}


async def test_a_model_comes_and_goes() -> None:
    async with residing() as found:
        server = found.server
        loaded = await load(server, "second", "demo:second")
        assert loaded.status_code == 200
        assert loaded.json()["state"] == "ready"
        assert loaded.json()["memory_bytes"] == MAX_BYTES
        assert (await complete(server, "second")).json()["model"] == "second"
        assert [card["id"] for card in (await server.http.get("/v1/models")).json()["data"]] == ["tiny", "second"]
        assert 'model_name="second"' in (await server.http.get("/metrics")).text
        memory = (await server.http.get("/admin/models")).json()["memory"]
        assert memory["reserved_bytes"] + memory["free_bytes"] == memory["total_bytes"] == TOTAL_BYTES
        gone = await unload(server, "second")
        assert gone.json() == {"name": "second", "state": "unloaded", "num_cut_off": 0}
        assert error_code(await complete(server, "second")) == "model_not_found"
        assert '"second"' not in (await server.http.get("/metrics")).text
        assert list(await models(server)) == ["tiny"]
        assert found.store.num_open == 1
        await server.canary()


async def test_a_declared_model_is_loaded_by_name_and_stays_listed() -> None:
    later = ModelOptions(source="/not/below/any/root", name="later", preload=False)
    async with residing(*tiny_options("tiny"), later) as found:
        server = found.server
        assert (await models(server))["later"]["state"] == "unloaded"
        assert error_code(await complete(server, "later")) == "model_not_found"
        assert (await load(server, "later")).status_code == 200
        assert (await complete(server, "later")).status_code == 200
        assert (await unload(server, "later")).status_code == 200
        assert (await models(server))["later"]["state"] == "unloaded"
        again = await unload(server, "later")
        assert (again.status_code, error_code(again)) == (409, "conflict")


async def test_others_answer_while_a_model_loads() -> None:
    async with residing() as found:
        server = found.server
        loading = asyncio.create_task(load(server, "slow", "demo:gated"))
        while (await models(server)).get("slow", {}).get("state") != "loading":
            await asyncio.sleep(0.005)
        early = await complete(server, "slow")
        assert (early.status_code, error_code(early)) == (503, "model_loading")
        assert int(early.headers["retry-after"]) >= 1
        await server.canary()
        assert (await server.http.get("/readyz")).status_code == 200
        assert (await server.http.get("/health")).json()["models"] == {"tiny": "ready", "slow": "loading"}
        found.store.gate.set()
        assert (await loading).status_code == 200
        assert (await complete(server, "slow")).status_code == 200


async def test_a_load_goes_on_when_its_client_leaves() -> None:
    async with residing() as found:
        loading = asyncio.create_task(load(found.server, "slow", "demo:gated"))
        while found.repository.states().get("slow") != "loading":
            await asyncio.sleep(0.005)
        loading.cancel()
        await asyncio.gather(loading, return_exceptions=True)
        found.store.gate.set()
        async with asyncio.timeout(5):
            while found.repository.states()["slow"] != "ready":
                await asyncio.sleep(0.005)


async def test_a_model_that_cannot_be_loaded_makes_nothing_else_unready() -> None:
    async with residing() as found:
        server = found.server
        failed = await load(server, "bad", "demo:damaged")
        assert (failed.status_code, error_code(failed)) == (400, "model_refused")
        assert "tensor 3" in failed.json()["error"]["message"]
        bad = (await models(server))["bad"]
        assert (bad["state"], bad["memory_bytes"]) == ("failed", 0)
        assert "tensor 3" in bad["error"]
        assert found.store.opened[-1].is_closed
        assert (await server.http.get("/readyz")).status_code == 200
        assert error_code(await complete(server, "bad")) == "model_not_found"
        assert (await load(server, "bad", "demo:good")).status_code == 200
        assert (await complete(server, "bad")).status_code == 200


async def test_what_does_not_fit_is_refused_with_what_to_unload() -> None:
    async with residing(*tiny_options("a", "b", "c", "d")) as found:
        server = found.server
        assert (await load(server, "e", "demo:x", memory=MAX_BYTES // 2)).status_code == 200
        assert (await load(server, "f", "demo:x")).json()["memory_bytes"] == MAX_BYTES // 2  # all that is left
        refused = await load(server, "g", "demo:x", memory=MAX_BYTES)
        assert (refused.status_code, error_code(refused)) == (409, "conflict")
        message = refused.json()["error"]["message"]
        assert "g needs 200.0 MiB, 0.0 MiB of 1,000.0 MiB are free" in message
        assert "unload one of a (200.0 MiB)" in message
        assert found.store.opened[-1].is_closed
        assert (await unload(server, "a")).status_code == 200
        assert (await load(server, "g", "demo:x", memory=MAX_BYTES)).status_code == 200


async def test_memory_is_shared_out_at_the_start() -> None:
    fixed = ModelOptions(source="demo:fixed", name="fixed", memory=700 * MIB)
    async with residing(*tiny_options("a", "b"), fixed) as found:
        held = {name: model["memory_bytes"] for name, model in (await models(found.server)).items()}
        assert held == {"a": 150 * MIB, "b": 150 * MIB, "fixed": MAX_BYTES}  # held_bytes: never more than it can use


async def test_routes_lead_to_models_with_their_own_stages() -> None:
    strict = RouteOptions(name="strict", model="tiny", need=NeedOptions(class_="bulk", deadline_s=30))
    async with residing(routes=(strict,)) as found:
        server = found.server
        answer = await complete(server, "strict")
        assert answer.json()["model"] == "strict"
        assert answer.json()["choices"] == (await complete(server, "tiny")).json()["choices"]
        assert (await models(server))["tiny"]["routes"] == ["tiny", "strict"]
        assert 'model_name="strict"' in (await server.http.get("/metrics")).text
        refused = await load(server, "strict", "demo:x")
        assert (refused.status_code, error_code(refused)) == (409, "conflict")
        await unload(server, "tiny")
        assert error_code(await complete(server, "strict")) == "model_not_found"
        assert '"strict"' not in (await server.http.get("/metrics")).text


async def test_a_bulk_route_lowers_priority_and_holds_its_deadline() -> None:
    model = ScriptedModel()
    route = RouteOptions(name="r", model="scripted", need=NeedOptions(class_="bulk", deadline_s=30))
    run = chain(make_stages(route, model.card), model.run)
    arrival_s = time.monotonic()
    async for _ in run(Call(id="1", route="r", request=Generate(prompt="x"), arrival_s=arrival_s)):
        pass
    assert model.calls[0].priority == Priority.BATCH
    assert model.calls[0].deadline_s == arrival_s + 30


async def test_a_model_that_carries_an_adapter_stays() -> None:
    async with residing(adapts=True) as found:
        await found.repository.load_adapter("adapter", "demo:1")
        for path in ("/admin/models/unload", "/admin/models/reload"):
            refused = await found.server.post(path, {"name": "tiny"})
            assert (refused.status_code, error_code(refused)) == (409, "conflict")
            assert "adapter" in refused.json()["error"]["message"]
        await found.repository.unload_adapter("adapter")
        assert (await unload(found.server, "tiny")).status_code == 200


# -- who may ----------------------------------------------------------------------------------------------------------
ADMIN_ROUTES = [route for route in ROUTES if route.scope == "admin"]


def test_every_admin_path_has_the_admin_scope() -> None:
    adapters = {"/v1/load_lora_adapter", "/v1/unload_lora_adapter"}  # where vLLM has them
    of_admin = {route.path for route in ROUTES if route.path.startswith("/admin")}
    assert {route.path for route in ADMIN_ROUTES} == of_admin | adapters


@pytest.mark.parametrize("route", ADMIN_ROUTES, ids=lambda route: route.path)
async def test_each_scope_opens_its_own_routes(route: Any) -> None:
    async with residing(keys=KEYS) as found:
        for key, status in ((GENERATE, 403), ("x" * 32, 401), ("", 401)):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            response = await found.server.http.request(route.method, route.path, headers=headers)
            assert response.status_code == status
        for key in (ADMIN, BOTH):
            headers = {"authorization": f"Bearer {key}"}
            response = await found.server.http.request(route.method, route.path, headers=headers)
            assert response.status_code not in (401, 403, 500)


async def test_a_key_for_admin_alone_does_not_generate() -> None:
    async with residing(keys=KEYS) as found:
        body = {"model": "tiny", "prompt": "x", "max_tokens": 1}
        for key, status in ((ADMIN, 403), (GENERATE, 200), (BOTH, 200)):
            response = await found.server.post("/v1/completions", body, authorization=f"Bearer {key}")
            assert response.status_code == status


@pytest.mark.parametrize(
    "header", ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "x-real-ip", "via"]
)
async def test_without_keys_a_proxy_speaks_for_others(header: str) -> None:
    async with residing() as found:
        response = await found.server.http.get("/admin/models", headers={header: "192.0.2.1"})
        assert (response.status_code, error_code(response)) == (403, "permission_denied")
        response = await found.server.http.get("/admin/models", headers={"host": "rebound.example"})
        assert response.status_code == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://app.example.com"},  # of a page that may ask for answers
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin"},
    ],
)
async def test_without_keys_no_web_page_changes_the_server(headers: dict[str, str]) -> None:
    async with residing() as found:
        response = await found.server.post("/admin/models/unload", {"name": "tiny"}, **headers)
        assert (response.status_code, error_code(response)) == (403, "permission_denied")
        assert (await unload(found.server, "tiny")).status_code == 200
    async with residing(keys=KEYS) as found:
        body = {"name": "tiny"}
        response = await found.server.post("/admin/models/unload", body, **headers, authorization=f"Bearer {ADMIN}")
        assert response.status_code == 200


async def test_a_server_without_a_loader_says_so() -> None:
    async with running(TinyModel()) as server:
        response = await server.http.get("/admin/models")
        assert (response.status_code, error_code(response)) == (404, "not_found")


def test_key_file_gives_scopes(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(f"# ours\r\n{GENERATE}\r\n{ADMIN} admin\n{BOTH}  generate, admin\n".encode())
    file.chmod(0o600)
    keys = read_keys(str(file))
    for key, opens in ((GENERATE, "generate"), (ADMIN, "admin"), (BOTH, "generate"), (BOTH, "admin")):
        assert keys.principal([(b"x-api-key", key.encode())], opens)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{GENERATE} root\n", "line 1"),
        (f"# x\n{GENERATE} generate admin\n", "line 2"),
        (f"{GENERATE}\n{ADMIN}\n{GENERATE} admin\n", "line 3"),
        (f"{GENERATE} ,\n", "line 1"),
        ("".join(f"{i:032}\n" for i in range(1025)), "1024"),
        ("k" * (1 << 20) + "\n" * 2, "1 MiB"),
    ],
)
def test_a_wrong_key_file_is_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_keys(str(file))


def test_a_key_file_that_everybody_can_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text(GENERATE + "\n")
    file.chmod(0o644)
    read_keys(str(file))
    assert "chmod 600" in caplog.text


# -- bad input --------------------------------------------------------------------------------------------------------
LOAD, RELOAD, UNLOAD = "/admin/models/load", "/admin/models/reload", "/admin/models/unload"
BAD: list[tuple[str, Any, int, str]] = [
    (LOAD, b"", 400, "invalid_json"),
    (LOAD, b"[]", 400, "invalid_type"),
    (LOAD, b"{", 400, "invalid_json"),
    (LOAD, {}, 400, "missing_field"),
    (LOAD, {"name": "", "source": ""}, 400, "missing_field"),
    (LOAD, {"name": "new"}, 404, "not_found"),
    (LOAD, {"name": 1}, 400, "invalid_type"),
    (LOAD, {"name": "n" * 513, "source": "demo:x"}, 400, "out_of_range"),
    (LOAD, {"name": "n" * 129, "source": "demo:x"}, 400, "invalid_config"),
    (LOAD, {"name": "a\nb", "source": "demo:x"}, 400, "invalid_config"),
    (LOAD, {"name": "tiny"}, 409, "conflict"),
    (LOAD, {"name": "tiny", "source": "demo:x"}, 409, "conflict"),
    (LOAD, {"source": "demo:absent"}, 400, "model_refused"),
    (LOAD, {"source": "demo:damaged"}, 400, "model_refused"),
    (LOAD, {"source": "/etc/passwd"}, 403, "permission_denied"),
    (LOAD, {"source": "../../etc"}, 403, "permission_denied"),
    (LOAD, {"source": "."}, 403, "permission_denied"),
    (LOAD, {"source": "hf:org/name"}, 403, "permission_denied"),
    (LOAD, {"source": "file:///etc"}, 403, "permission_denied"),
    (LOAD, {"source": "a\0b"}, 403, "permission_denied"),
    (LOAD, {"source": "s" * 4097}, 400, "out_of_range"),
    (LOAD, {"source": "demo:x", "sauce": 1}, 400, "unknown_field"),
    (LOAD, {"source": "demo:x", "options": []}, 400, "invalid_type"),
    (LOAD, {"source": "demo:x", "options": {"thread": 1}}, 400, "invalid_config"),
    (LOAD, {"source": "demo:x", "options": {"source": "demo:y"}}, 400, "invalid_config"),
    (LOAD, {"source": "demo:x", "options": {"threads": "2"}}, 400, "invalid_config"),
    (LOAD, {"source": "demo:x", "options": {"threads": True}}, 400, "invalid_config"),
    (LOAD, {"source": "demo:x", "options": {"threads": -1}}, 400, "invalid_config"),
    (LOAD, {"source": "demo:x", "options": {"weights": "int3"}}, 400, "invalid_config"),
    (LOAD, {"source": "demo:x", "options": {"memory": "1 furlong"}}, 400, "invalid_config"),
    (LOAD, {"source": "demo:x", "options": {f"k{i}": 1 for i in range(65)}}, 400, "too_many_items"),
    (LOAD, {"source": "demo:x", "options": {"memory": "1GiB"}}, 409, "conflict"),
    (RELOAD, {}, 400, "missing_field"),
    (RELOAD, {"name": "absent"}, 404, "model_not_found"),
    (RELOAD, {"name": "later"}, 409, "conflict"),
    (RELOAD, {"name": "tiny", "source": "/etc"}, 403, "permission_denied"),
    (RELOAD, {"name": "tiny", "source": "demo:absent"}, 400, "model_refused"),
    (RELOAD, {"name": "tiny", "source": "demo:damaged"}, 400, "model_refused"),
    (RELOAD, {"name": "tiny", "options": {"memory": "1GiB"}}, 409, "conflict"),
    (RELOAD, {"name": "tiny", "options": {"memroy": 1}}, 400, "invalid_config"),
    (UNLOAD, {}, 400, "missing_field"),
    (UNLOAD, {"name": ""}, 404, "model_not_found"),
    (UNLOAD, {"name": "absent"}, 404, "model_not_found"),
    (UNLOAD, {"name": "later"}, 409, "conflict"),
    (UNLOAD, {"name": "tiny", "force": True}, 400, "unknown_field"),
    ("/admin/reread", {"x": 1}, 400, "unknown_field"),
]


async def check_post(found: Residing, before: str) -> None:
    """The corpus's post-conditions: the same answers, nothing held, everything that was opened in vain closed."""
    server = found.server
    assert await server.canary() == before
    assert (await server.http.get("/readyz")).status_code == 200
    assert found.store.num_open == 1
    assert [opening for opening in found.store.opened[1:] if not opening.is_closed] == []
    memory = found.repository.describe()["memory"]
    assert memory["reserved_bytes"] == MAX_BYTES


async def test_bad_requests_get_their_code_and_change_nothing() -> None:
    later = ModelOptions(source="demo:later", name="later", preload=False)
    async with residing(*tiny_options("tiny"), later) as found:
        before = await found.server.canary()
        for path, body, status, code in BAD:
            response = await found.server.post(path, body)
            assert (response.status_code, error_code(response)) == (status, code), (path, body, response.text)
            assert "Traceback" not in response.text
            await check_post(found, before)


async def test_models_below_a_root_may_be_loaded_and_links_do_not_lead_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "models", tmp_path / "other"
    for folder in (root / "one", outside):
        folder.mkdir(parents=True)
    (root / "link").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    async with residing() as found:
        found.set(*found.options.models, model_roots=(str(root),))
        await found.server.post("/admin/reread", {})
        assert (await load(found.server, "one", str(root / "one"))).status_code == 200
        for source in (root / "link", root / ".." / "other", outside, tmp_path / "modelsx", root / "loop"):
            response = await load(found.server, "two", str(source))
            assert (response.status_code, error_code(response)) == (403, "permission_denied"), source
