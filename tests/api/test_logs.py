"""The server's log: one format, one line per event, and nobody who does not read it stops the server."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.api.after import Log
from tests.api.running import TinyModel, running, running_service
from tripos.api.http import logs
from tripos.api.http.logs import JsonLines, LineWriter, TextLines
from tripos.service import Service
from tripos.testing import ScriptedModel

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def record(message: str, level: int = logging.INFO, failure: Exception | None = None, **fields: Any) -> Any:
    exc = (type(failure), failure, None) if failure else None
    made = logging.LogRecord("x", level, "", 0, message, (), exc)
    made.fields = fields
    return made


@contextmanager
def noted() -> Iterator[Log]:
    log, logger = Log(), logging.getLogger("tripos")
    before = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(before)


# -- a line ------------------------------------------------------------------------------------------------------------
def test_text_has_time_level_message_and_pairs() -> None:
    line = TextLines().format(record("request", path="/a b", status=200, model="", code=None, ms=0.5))
    assert re.fullmatch(rf'{TIME} INFO request path="/a b" status=200 ms=0\.5', line)


def test_json_has_the_same_as_fields() -> None:
    line = json.loads(
        JsonLines().format(record("request", logging.WARNING, path="/a b", status=200, code="", model=None))
    )
    assert re.fullmatch(TIME, line.pop("time"))
    assert line == {"level": "warning", "message": "request", "path": "/a b", "status": 200}


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "\x1b[2J", "a\u2028b", "a\x85b", "\udc80", '" x="'])
def test_what_a_client_sends_makes_no_line_of_its_own(formatter: TextLines, text: str) -> None:
    line = formatter.format(record(text, path=text))
    assert len(line.splitlines()) == 1
    assert "\x1b" not in line
    line.encode("utf-8", "backslashreplace")


def test_a_traceback_cannot_pass_for_an_event() -> None:
    failure = ValueError("x\n2026-01-01T00:00:00.000Z INFO forged")
    first, *rest = TextLines().format(record("failed", logging.ERROR, failure)).splitlines()
    assert first.endswith("ERROR failed")
    assert rest
    assert all(line.startswith("  ") for line in rest)
    assert "forged" in json.loads(JsonLines().format(record("failed", logging.ERROR, failure)))["traceback"]


# -- the writer --------------------------------------------------------------------------------------------------------
def lines_of(descriptor: int, until: str) -> list[str]:
    data, end_s = b"", time.monotonic() + 30
    while until.encode() not in data:
        assert time.monotonic() < end_s, data[-500:]
        if select.select((descriptor,), (), (), 1)[0]:
            data += os.read(descriptor, 1 << 20)
    return data.decode().splitlines()


def test_lines_that_nobody_reads_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_WAITING_BYTES", 10_000)
    read, write = os.pipe()
    writer = LineWriter(write, TextLines())
    try:
        num_lines = num_first = 20_000  # twice what the pipe and the queue hold
        for i in range(num_lines):
            writer.write(f"line {i}")
        data = b""
        while b"dropped" not in data:
            data += os.read(read, 1 << 20)
        while b"room again" not in data:  # the first of them may find the queue full still
            writer.write("room again")
            num_lines += 1
            if select.select([read], [], [], 0.1)[0]:
                data += os.read(read, 1 << 20)
        lines, expected = data.decode().splitlines(), 0
        at = lines.index("room again")
        num_lines -= sum(line == "room again" for line in lines)
        for line in lines[:at]:  # what is missing is told where it is missing
            if match := re.fullmatch(rf"{TIME} WARNING (\d+) lines? (was|were) dropped: nobody read the log", line):
                expected += int(match[1])
            else:
                assert line == f"line {expected}"
                expected += 1
        assert num_first <= expected <= num_lines
    finally:
        os.close(read)
        writer.close()
        os.close(write)


def test_a_reader_that_left_stops_nobody() -> None:
    read, write = os.pipe()
    os.close(read)
    writer = LineWriter(write, TextLines())
    for _ in range(1000):
        writer.write("x" * 1000)
    writer.close()
    os.close(write)


def test_a_status_is_replaced_by_the_next_line_and_drawn_again_below_it() -> None:
    read, write = os.pipe()
    writer = LineWriter(write, TextLines())
    try:
        writer.show("[##] 50%")
        lines_of(read, "50%")
        writer.write("a table")
        assert lines_of(read, "50%")[-2:] == ["\r\x1b[Ka table".lstrip("\r"), "[##] 50%"]
        writer.show("")
        assert "\x1b[K" in "".join(lines_of(read, "\x1b[K"))
    finally:
        writer.close()
        os.close(read)
        os.close(write)


# -- requests ----------------------------------------------------------------------------------------------------------
async def test_a_line_names_the_client_the_status_and_the_tokens() -> None:
    with noted() as log:
        async with running(TinyModel()) as server:
            ask = {"model": "tiny", "prompt": "abc", "max_tokens": 5, "ignore_eos": True}
            await server.post("/v1/completions", ask)
            await server.post("/v1/completions", {**ask, "prompt": ["abc", "de"], "stream": True})
            await server.post("/v1/completions", {**ask, "model": "absent"})
    one, two, refused = log.lines
    assert (one["client"], one["status"], one["path"]) == ("127.0.0.1", 200, "/v1/completions")
    assert (one["prompt_tokens"], one["cached_tokens"], one["output_tokens"]) == (3, 0, 5)
    assert (two["prompt_tokens"], two["output_tokens"]) == (5, 10)
    assert isinstance(one["ms"], float)
    assert (refused["status"], refused["code"], "output_tokens" in refused) == (404, "model_not_found", False)


@pytest.mark.parametrize(
    ("access", "paths"),
    [
        ("on", ["/readyz", "/v1/models"]),
        ("all", ["/livez", "/metrics", "/readyz", "/v1/models"]),
        ("off", []),
    ],
)
async def test_probes_that_are_well_are_logged_only_when_asked(access: Any, paths: list[str]) -> None:
    model = ScriptedModel()
    service = Service()
    service.add(model)
    with noted() as log:
        async with running_service(service, access=access) as server:
            await server.http.get("/livez")
            await server.http.get("/metrics")
            model.is_started = False
            assert (await server.http.get("/readyz")).status_code == 503
            await server.http.get("/v1/models")
            await server.raw(b"nonsense\r\n\r\n")
    assert [line["path"] for line in log.lines if "path" in line] == paths
    assert sum("path" not in line for line in log.lines) == (access != "off")


SERVE = textwrap.dedent("""
    from tripos.api.http.logs import logging_to_stderr
    from tripos.api.http.server import serve
    from tripos.config import ServerOptions
    from tripos.service import Service
    from tripos.testing import ScriptedModel
    service = Service()
    service.add(ScriptedModel())
    with logging_to_stderr():
        serve(service, ServerOptions(port=0, access_log="all"), lambda address: print(address, flush=True))
""")


def test_a_log_that_nobody_reads_stops_no_request_and_no_signal() -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        long = "x" * 127
        for _ in range(600):  # 180 kB of lines; a pipe holds 64
            asked = urllib.request.Request(f"{address}/livez?{long}", headers={"x-request-id": long})
            with opener.open(asked) as response:
                assert response.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


def test_threads_and_warnings_speak_through_the_log() -> None:
    script = textwrap.dedent("""
        import threading, warnings
        from tripos.api.http.logs import logging_to_stderr
        with logging_to_stderr("json"):
            warnings.warn("careful")
            thread = threading.Thread(target=lambda: 1 / 0, name="worker")
            thread.start()
            thread.join()
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    warned, failed = [json.loads(line) for line in done.stderr.splitlines()]
    assert (warned["level"], warned["message"]) == ("warning", "careful")
    assert (failed["level"], failed["message"]) == ("error", "worker failed: this is a bug in Tripos")
    assert "ZeroDivisionError" in failed["traceback"]


async def test_an_idle_stop_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tripos")
    async with running(TinyModel()) as server:
        server.door.stop()
        await server.task
    assert [line for line in caplog.messages if line.startswith(("drain", "stop"))] == ["stopped"]


async def test_calls_in_flight_are_told_when_the_server_drains(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tripos")
    async with running(TinyModel(step_s=0.02)) as server:
        call = asyncio.create_task(server.post("/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 40}))
        async with asyncio.timeout(10):
            while not server.service.num_in_flight:
                await asyncio.sleep(0.005)
        server.door.stop()
        await server.task
        assert (await call).status_code == 200
    told = [re.sub(r"\d+\.\d", "N", line) for line in caplog.messages if line.startswith(("drain", "stop"))]
    assert told == [
        "draining: 1 calls in flight have up to 5 s",
        "stopping after N s of draining, 0 calls are cut off",
        "stopped",
    ]


def test_nothing_waits_in_the_thread_that_logs() -> None:
    """`write` comes back although the writer's thread waits for its reader."""
    read, write = os.pipe()
    writer = LineWriter(write, TextLines())
    done = threading.Event()

    def flood() -> None:
        for _ in range(5000):
            writer.write("y" * 1000)
        done.set()

    threading.Thread(target=flood, daemon=True).start()
    assert done.wait(20)
    os.close(read)
    writer.close()
    os.close(write)
