"""The port is open before the models are there: probes answer, everything else is told to come again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.api.residing import Residing, tiny_options
from tests.api.running import Running, error_code
from tripos.api.app import App
from tripos.api.auth import Keys
from tripos.api.http.server import Door, listen
from tripos.config import ModelOptions, ServerOptions, ServiceOptions

ABOUT_US = ("/livez", "/metrics", "/version", "/openapi.json", "/api/version", "/")


@asynccontextmanager
async def loading(*models: ModelOptions, keys: Keys | None = None) -> AsyncIterator[tuple[Running, Residing]]:
    """A server whose first models come when `store.gate` is set."""
    found = Residing(ServiceOptions(models=models, server=ServerOptions(drain_s=5.0)), is_filled=False)
    app, listener = App(found.service, keys, repository=found.repository), listen("127.0.0.1", 0)

    async def load() -> None:
        await found.repository.fill_beside(lambda phase, done: None, lambda rows: None, lambda name: None)

    door = Door(found.service, app, listener, 5.0, load=load)
    task = asyncio.create_task(door.run())
    server = Running(door, found.service, task)
    try:
        yield server, found
    finally:
        found.store.gate.set()
        await server.http.aclose()
        await server.openai.close()
        door.stop(now=True)
        await asyncio.wait((task,))
        listener.close()
        for model in found.store.made:
            model.close()


def gated(name: str = "tiny") -> ModelOptions:
    return ModelOptions(source="demo:gated", name=name)


async def until_ready(server: Running) -> None:
    async with asyncio.timeout(10):
        while (await server.http.get("/readyz")).status_code != 200:
            await asyncio.sleep(0.01)


async def test_probes_answer_while_models_load_and_calls_are_told_to_come_again() -> None:
    async with loading(gated()) as (server, found):
        for path in ABOUT_US:
            assert (await server.http.get(path)).status_code == 200, path
        for path in ("/readyz", "/health", "/v1/models", "/api/tags", "/admin/models"):
            response = await server.http.get(path)
            assert (response.status_code, error_code(response)) == (503, "model_loading"), path
            assert int(response.headers["retry-after"]) >= 1
        refused = await server.post("/v1/chat/completions", {"model": "tiny", "messages": []})
        assert (refused.status_code, error_code(refused)) == (503, "model_loading")
        assert (await server.http.get("/nothing")).status_code == 404
        found.store.gate.set()
        await until_ready(server)
        assert len(await server.canary()) == 8


async def test_a_key_is_asked_for_while_models_load() -> None:
    async with loading(gated(), keys=Keys(["k" * 20])) as (server, _):
        assert (await server.http.get("/v1/models")).status_code == 401
        known = await server.http.get("/v1/models", headers={"authorization": "Bearer " + "k" * 20})
        assert (known.status_code, error_code(known)) == (503, "model_loading")


async def test_the_states_of_models_can_be_scraped_while_they_load() -> None:
    async with loading(gated("one"), *tiny_options("two")) as (server, found):
        async with asyncio.timeout(10):
            while 'state="loading"} 1.0' not in (text := (await server.http.get("/metrics")).text):
                await asyncio.sleep(0.01)
        assert 'tripos_model_state{model_name="one",state="ready"} 0.0' in text
        found.store.gate.set()
        await until_ready(server)
        assert 'tripos_model_state{model_name="one",state="ready"} 1.0' in (await server.http.get("/metrics")).text


async def test_a_configuration_that_is_read_again_while_models_load_waits_for_them() -> None:
    async with loading(gated()) as (server, found):
        found.set(gated(), *tiny_options("new"))
        server.door.reread()
        await asyncio.sleep(0.5)
        assert (await server.http.get("/livez")).status_code == 200
        assert len(found.store.opened) == 1
        found.store.gate.set()
        async with asyncio.timeout(10):
            while found.repository.states() != {"tiny": "ready", "new": "ready"}:
                await asyncio.sleep(0.01)


async def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_error() -> None:
    async with loading(ModelOptions(source="demo:damaged", name="bad")) as (server, _):
        with pytest.raises(Exception, match="tensor 3 is damaged"):
            await server.task


async def test_a_server_that_is_stopped_while_models_load_does_not_wait_for_them() -> None:
    async with loading(gated()) as (server, _):
        assert (await server.http.get("/livez")).status_code == 200
        server.door.stop()
        async with asyncio.timeout(5):
            assert await server.task is False


# -- the process -------------------------------------------------------------------------------------------------------
SLOW = """
import sys, time
from tripos import cli
from tripos.build import language as build
load, seconds = build.Opened.load, float(sys.argv.pop())
def slow(self, *arguments):
    time.sleep(seconds)
    return load(self, *arguments)
build.Opened.load = slow
cli.main()
"""


@contextmanager
def slow_server(folder: Path, seconds: float) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """`tripos serve` whose model takes some seconds more; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = folder / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, "serve", "--port", str(port), str(seconds)],
            cwd=folder,
            stderr=stderr,
            text=True,
        )
    try:
        yield process, f"http://127.0.0.1:{port}", log
    finally:
        process.kill()
        process.wait()


def until(log: Path, process: subprocess.Popen[str], words: str) -> None:
    end_s = time.monotonic() + 30
    while words not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end_s, log.read_text()
        time.sleep(0.02)


def test_a_stop_while_models_load_ends_the_process_at_once(tmp_path: Path) -> None:
    with slow_server(tmp_path, 60) as (process, url, log):
        until(log, process, "models are loading")
        assert httpx.get(url + "/livez", trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0
        assert "stopped while models were loading" in log.read_text()
        assert "Traceback" not in log.read_text()


def test_a_hangup_while_models_load_is_heard_when_they_are_there(tmp_path: Path) -> None:
    (tmp_path / "tripos.toml").write_text('[models.one]\nsource = "demo:assistant"\n')
    with slow_server(tmp_path, 1.5) as (process, _, log):
        until(log, process, "models are loading")
        process.send_signal(signal.SIGHUP)
        until(log, process, "listening on ")
        until(log, process, "SIGHUP: no change")
        os.truncate(tmp_path / "tripos.toml", 0)
        process.send_signal(signal.SIGHUP)
        until(log, process, "SIGHUP: nothing was changed: tripos.toml names no model")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=15) == 0


def test_a_busy_port_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-c", SLOW, "serve", "--port", port, "60"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=30)
    assert (done.returncode, f"port {port}: another process listens there" in done.stderr) == (3, True)
    assert done.stderr.count("\n") == 1
