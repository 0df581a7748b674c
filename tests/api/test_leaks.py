"""Nothing stays behind: no descriptor, no thread, no task, and one log line per request without its content."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import threading

import pytest

from tests.api.running import HELLO, TinyModel, running
from tripos.api.http.logs import JsonLines, TextLines


def num_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_server_that_stopped_leaves_nothing() -> None:
    async def serve_once() -> None:
        model = TinyModel()
        async with running(model) as server:
            for stream in (False, True):
                body = {"model": "tiny", "messages": HELLO, "max_tokens": 4, "stream": stream}
                assert (await server.post("/v1/chat/completions", body)).status_code == 200
            assert (await server.post("/v1/chat/completions", b"{")).status_code == 400
        model.close()

    await serve_once()  # what is made once per process
    gc.collect()
    before = num_descriptors(), threading.active_count(), len(asyncio.all_tasks())
    for _ in range(3):
        await serve_once()
    gc.collect()
    assert (num_descriptors(), threading.active_count(), len(asyncio.all_tasks())) == before


async def test_each_request_is_one_log_line_without_content(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="tripos.access")
    async with running(TinyModel()) as server:
        body = {"model": "tiny", "prompt": "very secret", "max_tokens": 2}
        await server.post("/v1/completions", body, x_request_id="one")
        await server.post("/v1/completions", {**body, "suffix": "very secret"}, x_request_id="two")
        await server.post("/v1/completions", {**body, "secret": "very secret"}, x_request_id="three")
        await server.post("/no/such?key=very-secret", body, x_request_id="four")
    records = [record for record in caplog.records if record.name == "tripos.access"]
    lines = [record.fields for record in records]  # type: ignore[attr-defined]
    assert [(line["request_id"], line["status"], line["code"]) for line in lines] == [
        ("one", 200, ""), ("two", 400, "invalid_value"), ("three", 200, ""), ("four", 404, "not_found")
    ]  # fmt: skip
    assert lines[0]["model"] == "tiny"
    assert lines[0]["bytes"] > 100
    written = "".join(form.format(record) for form in (TextLines(), JsonLines()) for record in records)
    assert "secret" not in written
