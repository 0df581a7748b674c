"""/tokenize, /detokenize and token counts: as bounded as what runs the tokens."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.api.running import HELLO, Running, TinyModel, error_code, running, tiny_encoder
from tripos.models.text import token_requests

MIB = 2**20
TEXT = "x" * 5000


class Gate:
    """Stands before a function: counts who has come, and lets them through once it is open."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._is_open = threading.Event()
        self.has_come = threading.Event()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.has_come.set()
        assert self._is_open.wait(10)
        return self._function(*arguments, **named)

    def open(self) -> None:
        self._is_open.set()


async def first_waits_second_is_refused(server: Running, path: str, body: dict[str, Any], gate: Gate) -> None:
    first = asyncio.create_task(server.post(path, body))
    try:
        async with asyncio.timeout(10):
            while not gate.has_come.is_set():
                await asyncio.sleep(0.005)
        refused = await server.post(path, body)
    finally:
        gate.open()
    assert (refused.status_code, error_code(refused)) == (503, "server_overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert (await first).status_code == 200
    assert (await server.post(path, body)).status_code == 200


CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "text": ("/tokenize", {"prompt": TEXT}, "encode"),
    "ids": ("/detokenize", {"tokens": [120] * 5000}, "decode"),
    "messages": ("/tokenize", {"messages": [{"role": "user", "content": TEXT}]}, "template"),
    "Anthropic": ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": TEXT}]}, "template"),
    "responses": ("/v1/responses/input_tokens", {"input": TEXT}, "template"),
}


@pytest.mark.parametrize("case", CASES)
async def test_what_waits_for_a_tokenizer_is_bounded(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, fields, place = CASES[case]
    monkeypatch.setattr(token_requests, "MAX_ENCODING_CHARS", 8000)
    model = TinyModel(window=16384)
    owner, name = (model, "_encode_chat") if place == "template" else (model.tokenizer, place)
    async with running(model) as server:
        await server.post("/tokenize", {"model": "tiny", "messages": HELLO})  # after the model's own warm-up
        gate = Gate(getattr(owner, name))
        monkeypatch.setattr(owner, name, gate)
        await first_waits_second_is_refused(server, path, {"model": "tiny", **fields}, gate)


async def test_what_waits_for_an_encoders_tokenizer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_requests, "MAX_ENCODING_CHARS", 8000)
    model = tiny_encoder()
    gate = Gate(model._inputs.texts)
    monkeypatch.setattr(model._inputs, "texts", gate)
    async with running(model) as server:
        body = {"model": model.card.name, "input": TEXT, "truncate": True}
        await first_waits_second_is_refused(server, "/v1/embeddings", body, gate)
    model.close()


async def test_a_text_that_no_route_would_take_is_not_encoded() -> None:
    async with running(TinyModel()) as server:
        for fields in ({"prompt": "x" * 5 * MIB}, {"messages": [{"role": "user", "content": "x" * 5 * MIB}]}):
            refused = await server.post("/tokenize", {"model": "tiny", **fields})
            assert (refused.status_code, error_code(refused)) == (400, "context_length_exceeded")
        await server.canary()
