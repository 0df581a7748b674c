"""Models are replaced while clients talk to them: no request is dropped, and nothing of the old ones is left."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.api.residing import MAX_BYTES, MIB, Residing, residing, tiny_options
from tests.api.running import error_code
from tripos.api import reread as rereading
from tripos.api.auth import read_keys
from tripos.config import LimitsStage, ModelOptions, RouteOptions, ServiceOptions

NUM_RELOADS = 20


@asynccontextmanager
async def clients(found: Residing, num: int = 6) -> AsyncIterator[list[Any]]:
    """Clients that ask in a loop, streaming or not; the list gets every answer, checked."""
    answers: list[Any] = []
    is_over = asyncio.Event()

    async def ask_on(stream: bool) -> None:
        body = {"model": "tiny", "prompt": "canary", "max_tokens": 8, "seed": 7, "stream": stream}
        while not is_over.is_set():
            response = await found.server.post("/v1/completions", body)
            answers.append((response.status_code, text_of(response.text, stream)))

    tasks = [asyncio.create_task(ask_on(bool(i % 2))) for i in range(num)]
    try:
        yield answers
    finally:
        is_over.set()
        await asyncio.gather(*tasks)


def text_of(body: str, stream: bool) -> str:
    if not stream:
        whole: str = json.loads(body)["choices"][0]["text"]
        return whole
    assert body.endswith("data: [DONE]\n\n")
    events = [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line.startswith("data: {")]
    return "".join(choice["text"] for event in events for choice in event["choices"])


async def test_no_request_is_dropped_while_a_model_is_reloaded() -> None:
    async with residing() as found:
        found.store.step_s = 0.002
        text = await found.server.canary()
        async with clients(found) as answers:
            for _ in range(NUM_RELOADS):
                num = len(answers)
                response = await found.server.post("/admin/models/reload", {"name": "tiny"})
                assert response.status_code == 200, response.text
                async with asyncio.timeout(10):
                    while len(answers) == num:  # somebody was served by this version
                        await asyncio.sleep(0.002)
        assert len(answers) >= NUM_RELOADS
        assert set(answers) == {(200, text)}
        assert len(found.store.made) == NUM_RELOADS + 1
        assert found.store.num_open == 1
        assert [model.num_held for model in found.store.made] == [0] * (NUM_RELOADS + 1)
        assert found.repository.describe()["memory"]["reserved_bytes"] == MAX_BYTES


async def test_loads_and_unloads_leave_no_thread_descriptor_or_series() -> None:
    async with residing() as found:

        async def once() -> None:
            body = {"name": "other", "source": "demo:other"}
            assert (await found.server.post("/admin/models/load", body)).status_code == 200
            ask = {"model": "other", "prompt": "x", "max_tokens": 2}
            assert (await found.server.post("/v1/completions", ask)).status_code == 200
            assert (await found.server.post("/admin/models/reload", {"name": "other"})).status_code == 200
            assert (await found.server.post("/admin/models/unload", {"name": "other"})).status_code == 200

        await once()
        gc.collect()
        before = num_left(), found.server.service.metrics.render().count(b"\n")
        for _ in range(5):
            await once()
        gc.collect()
        assert (num_left(), found.server.service.metrics.render().count(b"\n")) == before


def num_left() -> tuple[int, int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(asyncio.all_tasks())


async def test_a_stream_ends_where_it_began_and_the_new_version_serves_meanwhile() -> None:
    async with residing() as found:
        found.store.step_s = 0.02
        await found.server.post("/admin/models/reload", {"name": "tiny"})  # to a slow one
        body = {"model": "tiny", "prompt": "x", "max_tokens": 40, "ignore_eos": True, "stream": True}
        long = asyncio.create_task(found.server.post("/v1/completions", body))
        old = found.store.made[-1]
        while not old.num_held:
            await asyncio.sleep(0.005)
        found.store.step_s = 0.0
        reloading = asyncio.create_task(found.server.post("/admin/models/reload", {"name": "tiny"}))
        while found.server.service.model("tiny") is old:
            await asyncio.sleep(0.005)
        await found.server.canary()  # by the new one
        states = [model["state"] for model in (await found.server.http.get("/admin/models")).json()["models"]]
        assert states == ["ready", "draining"]
        assert not long.done()
        assert (await long).text.endswith("data: [DONE]\n\n")
        assert (await reloading).status_code == 200
        assert old.num_held == 0
        assert found.store.num_open == 1


async def test_what_does_not_end_in_time_is_cut_off_with_an_error_event() -> None:
    async with residing(drain_s=0.1) as found:
        found.store.step_s = 0.1
        await found.server.post("/admin/models/reload", {"name": "tiny"})
        body = {"model": "tiny", "prompt": "x", "max_tokens": 100, "ignore_eos": True, "stream": True}
        long = asyncio.create_task(found.server.post("/v1/completions", body))
        while not found.store.made[-1].num_held:
            await asyncio.sleep(0.005)
        done = await found.server.post("/admin/models/unload", {"name": "tiny"})
        assert done.json()["num_cut_off"] == 1
        last = (await long).text.rstrip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
        assert found.store.num_open == 0


async def test_a_reload_that_fails_leaves_the_old_version() -> None:
    async with residing() as found:
        text = await found.server.canary()
        for body, status in (
            ({"source": "demo:damaged"}, 400),
            ({"source": "demo:absent"}, 400),
            ({"options": {"memory": 900 * MIB}}, 409),
        ):
            response = await found.server.post("/admin/models/reload", {"name": "tiny", **body})
            assert response.status_code == status
            assert await found.server.canary() == text
        assert found.store.num_open == 1
        message = response.json()["error"]["message"]
        assert "beside the version that serves" in message
        assert found.repository.describe()["memory"]["reserved_bytes"] == MAX_BYTES


async def test_stopping_in_the_middle_of_a_change_leaves_nothing() -> None:
    async with residing() as found:
        loading = asyncio.create_task(found.server.post("/admin/models/load", {"name": "slow", "source": "demo:gated"}))
        while found.repository.states().get("slow") != "loading":
            await asyncio.sleep(0.005)
        found.server.door.stop(now=True)
        found.store.gate.set()
        await asyncio.gather(loading, return_exceptions=True)
        await found.server.task
    assert not [model for model in found.store.made if (await model.info()).is_progressing]


async def test_an_adapter_that_comes_while_its_model_is_reloaded_is_one_of_the_new_version() -> None:
    async with residing(adapts=True) as found:
        reloading = asyncio.create_task(
            found.server.post("/admin/models/reload", {"name": "tiny", "source": "demo:gated"})
        )
        while not found.repository.retiring:
            await asyncio.sleep(0.005)
        body = {"lora_name": "a", "lora_path": "demo:1"}
        adapting = asyncio.create_task(found.server.post("/v1/load_lora_adapter", body))
        await asyncio.wait({adapting}, timeout=0.3)
        found.store.gate.set()
        assert (await reloading).status_code == 200
        assert (await adapting).status_code == 200
        assert found.service.model("a") is found.service.model("tiny")
        ask = {"model": "a", "prompt": "x", "max_tokens": 2}
        assert (await found.server.post("/v1/completions", ask)).status_code == 200
        assert found.store.num_open == 1


async def test_an_adapter_cannot_take_the_name_of_a_model_that_is_loading() -> None:
    async with residing(adapts=True) as found:
        loading = asyncio.create_task(
            found.server.post("/admin/models/load", {"name": "other", "source": "demo:gated"})
        )
        while found.repository.states().get("other") != "loading":
            await asyncio.sleep(0.005)
        body = {"lora_name": "other", "lora_path": "demo:1", "base_model_name": "tiny"}
        adapting = asyncio.create_task(found.server.post("/v1/load_lora_adapter", body))
        await asyncio.wait({adapting}, timeout=0.3)
        found.store.gate.set()
        assert (await loading).status_code == 200
        refused = await adapting
        assert (refused.status_code, error_code(refused)) == (400, "already_loaded")
        assert found.service.model("other") is found.store.made[-1]


# -- the configuration, read again ------------------------------------------------------------------------------------
async def reread(found: Residing) -> Any:
    response = await found.server.post("/admin/reread", {})
    return response.json() if response.status_code == 200 else error_code(response)


async def test_the_configuration_is_read_again_and_done() -> None:
    async with residing(*tiny_options("tiny", "gone", "kept")) as found:
        kept, tiny = found.server.service.model("kept"), found.server.service.model("tiny")
        changed = ModelOptions(source="demo:tiny", name="tiny", max_sequences=8)
        later = ModelOptions(source="demo:later", name="later", preload=False)
        alias = RouteOptions(name="alias", model="new")
        found.set(changed, *tiny_options("kept", "new"), later, routes=(alias,), port=9000, drain_s=7.0)
        assert await reread(found) == {
            "loaded": ["new"], "reloaded": ["tiny"], "unloaded": ["gone"], "routes": ["alias"],
            "needs_restart": ["port"], "failed": {}, "keys": {},
        }  # fmt: skip
        service = found.server.service
        assert list(service.routes) == ["tiny", "kept", "new", "alias"]
        assert service.model("kept") is kept
        assert service.model("tiny") is not tiny
        assert service.model("alias") is service.model("new")
        assert found.repository.states() == {"tiny": "ready", "kept": "ready", "new": "ready", "later": "unloaded"}
        assert await reread(found) == {
            "loaded": [], "reloaded": [], "unloaded": [], "routes": [], "needs_restart": [], "failed": {}, "keys": {},
        }  # fmt: skip


async def test_new_stages_hold_without_a_reload() -> None:
    async with residing(routes=(RouteOptions(name="r", model="tiny"),)) as found:
        model = found.server.service.model("r")
        ask = {"model": "r", "prompt": "x", "max_tokens": 1, "n": 2}
        assert (await found.server.post("/v1/completions", ask)).status_code == 200
        strict = RouteOptions(name="r", model="tiny", stages=(LimitsStage(max_n=1),))
        found.set(*found.options.models, routes=(strict,))
        assert (await reread(found))["routes"] == ["r"]
        assert error_code(await found.server.post("/v1/completions", ask)) == "out_of_range"
        assert found.server.service.model("r") is model
        found.set(*found.options.models)
        await reread(found)
        assert error_code(await found.server.post("/v1/completions", ask)) == "model_not_found"


async def test_a_route_becomes_strict_without_a_reload() -> None:
    async with residing(routes=(RouteOptions(name="r", model="tiny"),)) as found:
        ask = {"model": "r", "prompt": "x", "max_tokens": 1, "colour": 1}
        lenient = await found.server.post("/v1/completions", ask)
        assert (lenient.status_code, lenient.headers["x-tripos-ignored"]) == (200, "colour")
        strict = RouteOptions(name="r", model="tiny", unknown_fields="refuse")
        own = RouteOptions(name="tiny", model="tiny", unknown_fields="refuse")
        found.set(*found.options.models, routes=(strict, own))
        await reread(found)
        for name in ("r", "tiny"):
            assert error_code(await found.server.post("/v1/completions", {**ask, "model": name})) == "unknown_field"


async def test_a_bad_configuration_leaves_everything_as_it_is() -> None:
    async with residing(*tiny_options("tiny", "other")) as found:
        before = found.repository.describe(), found.server.service.routes
        absent = ModelOptions(source="demo:absent", name="absent")
        large = ModelOptions(source="demo:large", name="large", memory=900 * MIB)
        new = tiny_options("new")
        for models, server, code in (
            ((*tiny_options("tiny"), *new, absent), {}, "model_refused"),
            ((*tiny_options("tiny"), *new, large), {}, "conflict"),
            (tiny_options("tiny", "other"), {"memory": 10 * MIB}, "conflict"),
        ):
            found.set(*models, **server)
            assert await reread(found) == code
            assert (found.repository.describe(), found.server.service.routes) == before
            assert [opening for opening in found.store.opened[2:] if not opening.is_closed] == []
            found.set(*tiny_options("tiny", "other"), memory=0)


async def test_a_configuration_without_models_is_no_order_to_unload_them_all() -> None:
    async with residing(*tiny_options("tiny", "other")) as found:
        before = found.repository.describe(), found.server.service.routes
        found.options = replace(ServiceOptions(), file="tripos.toml", is_default=True)  # as of an empty file
        response = await found.server.post("/admin/reread", {})
        assert (response.status_code, error_code(response)) == (400, "invalid_config")
        assert "tripos.toml names no model" in response.json()["error"]["message"]
        assert (found.repository.describe(), found.server.service.routes) == before
        found.set(ModelOptions(source="demo:tiny", name="tiny", preload=False))  # which says so by name
        assert (await reread(found))["unloaded"] == ["other"]


async def test_a_file_that_is_being_written_is_read_when_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rereading, "SETTLE_S", 0.1)
    file = tmp_path / "tripos.toml"
    file.write_text("begun")
    async with residing(*tiny_options("tiny", "other")) as found:
        found.repository.settings = replace(found.repository.settings, file=str(file))
        found.read = lambda: (  # type: ignore[method-assign]
            replace(found.options, models=tiny_options("tiny" if file.read_text() == "whole" else "half"))
        )

        async def write() -> None:
            for i in range(8):
                file.write_text("half" * i)
                await asyncio.sleep(0.03)
            file.write_text("whole")

        writing = asyncio.create_task(write())
        await asyncio.sleep(0)
        assert (await reread(found))["unloaded"] == ["other"]
        await writing
        assert found.repository.states() == {"tiny": "ready"}


async def test_keys_are_read_again_and_reported(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    old, new, admin = "o" * 20, "n" * 20, "a" * 20

    def write(text: str) -> None:
        path.write_text(text)
        path.chmod(0o600)

    write(f"{old}\n{admin} admin\n")
    async with residing(keys=read_keys(str(path))) as found:

        async def ask(key: str, path: str = "/v1/models") -> int:
            headers = {"authorization": f"Bearer {key}"}
            return (await found.server.http.get(path, headers=headers)).status_code

        async def again() -> Any:
            return await found.server.post("/admin/reread", {}, authorization=f"Bearer {admin}")

        write(f"{new}\n{admin} admin,generate\n")
        assert (await again()).json()["keys"] == {"added": 1, "removed": 1, "changed": 1}
        assert [await ask(key) for key in (old, new, admin)] == [401, 200, 200]
        assert (await again()).json()["keys"] == {}

        for text in ("", "short\n", f"{new}\n{new}\n"):  # emptied for a moment, cut, written twice
            write(text)
            assert (await again()).status_code in (400, 409)
            assert [await ask(key) for key in (old, new, admin)] == [401, 200, 200]

        write(f"{admin} admin\n")  # a wrong model keeps no key alive that was taken away
        found.set(ModelOptions(source="demo:absent", name="absent"))
        assert error_code(await again()) == "model_refused"
        assert await ask(new) == 401


async def test_a_rereading_that_breaks_off_leaves_nothing_open_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with residing(*tiny_options("tiny", "gone")) as found:
        found.set(*tiny_options("tiny", "new"))

        async def fail(name: str) -> None:
            raise RuntimeError("planted")

        with monkeypatch.context() as patch:
            patch.setattr(found.repository, "drain_and_free", fail)
            with pytest.raises(RuntimeError, match="planted"):
                await found.repository.reread()
        assert [opening.is_closed for opening in found.store.opened[2:]] == [True]
        assert found.store.num_open == 2
        report = await reread(found)
        assert (report["loaded"], report["unloaded"]) == (["new"], ["gone"])
        assert found.store.num_open == 2


async def test_a_model_that_fails_only_at_loading_is_reported_and_tried_again() -> None:
    async with residing() as found:
        damaged = ModelOptions(source="demo:damaged", name="bad")
        found.set(*tiny_options("tiny", "new"), damaged)
        report = await reread(found)
        assert report["loaded"] == ["new"]
        assert "tensor 3" in report["failed"]["bad"]
        assert found.repository.states()["bad"] == "failed"
        found.set(*tiny_options("tiny", "new", "bad"))  # repaired
        assert (await reread(found))["loaded"] == ["bad"]
        assert found.repository.states()["bad"] == "ready"


async def test_no_request_is_dropped_while_the_configuration_changes() -> None:
    async with residing() as found:
        text = await found.server.canary()
        async with clients(found) as answers:
            for i in range(NUM_RELOADS):
                model = ModelOptions(source="demo:tiny", name="tiny", max_sequences=8 + i)
                found.set(model, *tiny_options(*(["other"] if i % 2 else [])))
                assert (await reread(found))["reloaded"] == ["tiny"]
        assert set(answers) == {(200, text)}
