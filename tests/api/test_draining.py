"""Shutting down: new requests are refused at once, those in flight may finish, late ones are told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request

import pytest

from tests.api.running import Running, TinyModel, running
from tripos.api.http.server import listen
from tripos.errors import EnvironmentProblem
from tripos.testing import ScriptedModel

SLOW = {"model": "tiny", "prompt": "x", "max_tokens": 50, "stream": True, "ignore_eos": True}


async def started(server: Running, tiny: TinyModel) -> asyncio.Task[str]:
    """A stream in flight; its whole text in the end."""

    async def ask() -> str:
        return (await server.post("/v1/completions", SLOW)).text

    task = asyncio.create_task(ask())
    async with asyncio.timeout(5):
        while not tiny.num_held:
            await asyncio.sleep(0.005)
    return task


async def test_draining_refuses_new_calls_and_finishes_old_ones() -> None:
    tiny = TinyModel(step_s=0.01)
    async with running(tiny) as server:
        stream = await started(server, tiny)
        server.door.stop()
        await asyncio.sleep(0.05)
        ready = await server.http.get("/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "draining")
        assert (await server.http.get("/livez")).status_code == 200
        refused = await server.post("/v1/completions", {"model": "tiny", "prompt": "x"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-should-retry"] == "true"
        text = await stream
        assert text.endswith("data: [DONE]\n\n")
        assert text.count('"text":') >= 1
        await server.task
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", server.port)


@pytest.mark.parametrize("hurried", [False, True])
async def test_what_does_not_finish_in_time_is_told_so(hurried: bool) -> None:
    tiny = TinyModel(step_s=0.1)
    async with running(tiny, drain_s=60 if hurried else 0.2) as server:
        stream = await started(server, tiny)
        server.door.stop()
        if hurried:
            server.door.stop()  # the second signal
        last = (await stream).rstrip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
        async with asyncio.timeout(5):
            await server.task


async def test_a_model_that_ignores_its_stop_is_left_behind() -> None:
    model = ScriptedModel(delay_s=60)
    async with running(model, drain_s=0.1) as server:
        ask = asyncio.create_task(server.post("/v1/completions", {"model": "scripted", "prompt": "x"}))
        while not model.num_active:
            await asyncio.sleep(0.005)
        server.door.stop()
        assert (await ask).json()["error"]["code"] == "draining"
        await server.task
        assert model.num_active == 0


async def test_a_stuck_model_is_not_ready() -> None:
    model = ScriptedModel()
    async with running(model) as server:
        assert (await server.http.get("/readyz")).status_code == 200
        model.is_started = False
        response = await server.http.get("/health")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_restarting")


def test_a_port_in_use_is_an_environment_problem() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=f"port {port}: another process listens there") as caught:
            listen("127.0.0.1", port)
    assert caught.value.exit_status == 3


def test_an_address_of_another_machine_is_an_environment_problem() -> None:
    with pytest.raises(EnvironmentProblem, match="choose another --host"):
        listen("203.0.113.1", 0)


SERVE = textwrap.dedent("""
    from tripos.api.http.logs import logging_to_stderr
    from tripos.api.http.server import serve
    from tripos.config import ServerOptions
    from tripos.service import Service
    from tripos.testing import ScriptedModel
    service = Service()
    service.add(ScriptedModel(delay_s=0.2))
    with logging_to_stderr("json"):
        serve(service, ServerOptions(port=0, drain_s=10.0), on_ready=lambda address: print(address, flush=True))
""")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_the_process_and_it_exits_with_0(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        body = json.dumps({"model": "scripted", "prompt": "secret words"}).encode()
        ask = urllib.request.Request(
            address + "/v1/completions", body, {"content-type": "application/json", "x-request-id": "mine"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        killer = subprocess.Popen(["/bin/sh", "-c", f"sleep 0.3; kill -{number.value} {process.pid}"])
        with opener.open(ask, timeout=10) as response:
            assert json.load(response)["choices"][0]["text"] == "Hello there."
        began_s = time.monotonic()
        _, errors = process.communicate(timeout=10)
        assert time.monotonic() - began_s < 5
        assert process.returncode == 0
        assert killer.wait() == 0
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in errors.splitlines() if '"request_id"' in line]
    assert [(line["request_id"], line["status"], line["path"]) for line in lines] == [("mine", 200, "/v1/completions")]
    assert "secret words" not in errors
    assert "Traceback" not in errors
