"""An endpoint with two path parameters and a binary body takes a pair of wire functions and one line of the table."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import pytest

from tests.api.running import Running, error_code, running
from tripos.api import app
from tripos.api.http.exchange import Exchange
from tripos.api.routes import ROUTES
from tripos.api.routing import Route
from tripos.service import Service
from tripos.testing import ScriptedModel
from tripos.wire.openapi import encode_document

PATH = "/v2/models/{model}/versions/{version}/infer"


def decode(path_params: Mapping[str, str], body: bytes) -> tuple[str, int, list[float]]:
    """Model, version, and the float32 values of the body."""
    return path_params["model"], int(path_params["version"]), list(struct.unpack(f"<{len(body) // 4}f", body))


def encode(model: str, version: int, values: list[float]) -> dict[str, Any]:
    return {"model_name": model, "model_version": version, "sum": sum(values)}


async def infer(exchange: Exchange, service: Service) -> None:
    exchange.answer_json(encode(*decode(exchange.path_params, await exchange.read_body())))


LINE = Route("POST", PATH, infer, "Run a model on a tensor", body_type=b"application/octet-stream")


async def ask(server: Running, path: str, **headers: str) -> Any:
    content = struct.pack("<3f", 1.0, 2.0, 4.0)
    return await server.http.post(path, content=content, headers={k.replace("_", "-"): v for k, v in headers.items()})


async def test_one_line_serves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "ROUTES", (*ROUTES, LINE))
    async with running(ScriptedModel()) as server:
        path = "/v2/models/a%20b/versions/7/infer"
        response = await ask(server, path, content_type="application/octet-stream")
        assert response.json() == {"model_name": "a b", "model_version": 7, "sum": 7.0}
        for other in ("application/json", "text/plain"):
            response = await ask(server, path, content_type=other)
            assert (response.status_code, error_code(response)) == (415, "unsupported_media_type")
        response = await server.http.get(path)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")
        response = await ask(server, "/v2/models/a/b/versions/7/infer", content_type="application/octet-stream")
        assert response.status_code == 404


def test_the_document_names_both_parameters_and_the_type_of_the_body() -> None:
    operation = encode_document([LINE.operation], "0")["paths"][PATH]["post"]
    assert [each["name"] for each in operation["parameters"]] == ["model", "version"]
    assert list(operation["requestBody"]["content"]) == ["application/octet-stream"]
