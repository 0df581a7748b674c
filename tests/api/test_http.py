"""The edge: hosts, routes, methods, framing, content types, request ids."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

import tripos
from tests.api.running import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY = b'{"model":"tiny","prompt":"x","max_tokens":1}'
HEAD = b"host: 127.0.0.1\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)


def post(*headers: bytes, body: bytes = BODY, line: bytes = b"POST /v1/completions HTTP/1.1") -> bytes:
    return line + b"\r\n" + b"".join(headers) + b"connection: close\r\n\r\n" + body


def outcome(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"] if b'"error"' in body else ""


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (post(HEAD, LENGTH), 200, ""),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400, "invalid_http"),  # H02
        (post(LENGTH, b"content-type: application/json\r\n"), 400, "invalid_host"),  # H06
        (post(HEAD, LENGTH, b"host: localhost\r\n"), 400, "invalid_host"),  # H07
        (post(HEAD.replace(b"127.0.0.1", b"a/v1?x"), LENGTH), 400, "invalid_host"),  # H08
        (post(HEAD.replace(b"127.0.0.1", b"evil.example"), LENGTH), 421, "misdirected_host"),  # H09
        (post(HEAD.replace(b"127.0.0.1", b"LOCALHOST:80"), LENGTH), 200, ""),
        (post(HEAD.replace(b"127.0.0.1", b"[::1]:80"), LENGTH), 200, ""),
        (post(HEAD, LENGTH, b"transfer-encoding: chunked\r\n"), 400, "invalid_http"),  # H11
        (post(HEAD, LENGTH, b"content-length: 1\r\n"), 400, "invalid_http"),  # H12
        (post(HEAD, LENGTH, LENGTH), 400, "invalid_http"),  # H13
        (post(HEAD, b"content-length: -5\r\n"), 400, "invalid_http"),  # H14
        (post(HEAD, b"content-length: 0x10\r\n"), 400, "invalid_http"),
        (post(HEAD, b"content-length: 99999999999\r\nexpect: 100-continue\r\n"), 413, "request_too_large"),  # H33
        (post(HEAD, LENGTH, b"a b: x\r\n"), 400, "invalid_http"),  # H26
        (post(HEAD, LENGTH, b"x: " + b"y" * 100_000 + b"\r\n"), 431, "headers_too_large"),  # H27
        (post(HEAD, LENGTH, b"x: " + b"y" * 17_000 + b"\r\n"), 431, "headers_too_large"),
        (post(HEAD, LENGTH, b"x: y\r\n" * 2000), 431, "headers_too_large"),  # H28
        (post(HEAD, LENGTH, b"authorization: " + b"k" * 2**20 + b"\r\n"), 431, "headers_too_large"),  # R02
        (post(HEAD, LENGTH, line=b"POST /" + b"a" * 9000 + b" HTTP/1.1"), 414, "uri_too_long"),  # H29
        (post(HEAD, LENGTH, b"content-encoding: gzip\r\n"), 415, "unsupported_media_type"),  # H36
        (post(HEAD, body=b""), 411, "length_required"),  # H39
        (post(b"host: localhost\r\n", LENGTH), 415, "unsupported_media_type"),  # J15
        (post(HEAD.replace(b"json", b"xml"), LENGTH), 415, "unsupported_media_type"),
        (post(HEAD.replace(b"json", b"json; charset=utf-7"), LENGTH), 415, "unsupported_media_type"),
        (post(HEAD.replace(b"json", b"json; charset=UTF-8"), LENGTH), 200, ""),
    ],
    ids=range(26),
)
async def test_framing(server: Running, data: bytes, status: int, code: str) -> None:
    assert outcome(await server.raw(data)) == (status, code)
    assert (await server.http.get("/readyz")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/absent", 404, "not_found"),
        ("GET", "/V1/models", 404, "not_found"),  # R06
        ("GET", "//v1/models", 404, "not_found"),
        ("GET", "/v1/models/%00", 404, "model_not_found"),  # H30
        ("GET", "/v1/models/../../etc/passwd", 404, "not_found"),
        ("GET", "/v1/models/%2e%2e%2f", 404, "model_not_found"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("TRACE", "/livez", 405, "method_not_allowed"),  # H31
        ("OPTIONS", "/v1/chat/completions", 405, "method_not_allowed"),  # A8: no CORS
    ],
)
async def test_unknown_places(server: Running, method: str, path: str, status: int, code: str) -> None:
    response = await server.http.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions/", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
        ("/v1/completions/", {"prompt": "x", "max_tokens": 1}),
        ("/api/show/", {}),
    ],
)
async def test_a_slash_at_the_end_changes_nothing(server: Running, path: str, body: dict[str, Any]) -> None:
    body = {"model": "tiny", **body}
    assert (await server.post(path, body)).status_code == (await server.post(path[:-1], body)).status_code == 200
    listed = await server.http.get("/v1/models/")
    assert listed.json() == (await server.http.get("/v1/models")).json()
    assert (await server.http.get(path)).status_code == 405
    stored = await server.http.get("/v1/chat/completions/chatcmpl-1/")
    assert (stored.status_code, stored.json()["error"]["code"]) == (501, "not_implemented")


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/health", "/version", "/v1/models", "/metrics"])
async def test_small_answers(server: Running, path: str) -> None:
    response = await server.http.get(path)
    assert response.status_code == 200
    assert response.content
    assert "server" not in response.headers
    head = await server.http.head(path)
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_probes_come_under_any_name(server: Running, method: str) -> None:
    for path, status in (("/livez", 200), ("/readyz", 200), ("/health", 421), ("/version", 421)):
        response = await server.http.request(method, path, headers={"host": "10.1.2.3:8000"})
        assert response.status_code == status


async def test_a_path_that_is_not_there_names_the_nearest(server: Running) -> None:
    assert "did you mean /v1/messages?" in (await server.http.post("/v1/mesages")).text
    assert "see /openapi.json" in (await server.http.get("/" + "x" * 500)).text


async def test_a_method_that_is_not_taken_is_refused_in_the_paths_own_dialect(server: Running) -> None:
    anthropic: Any = await server.http.get("/v1/messages")
    assert (anthropic.status_code, anthropic.headers["allow"], anthropic.json()["type"]) == (405, "POST", "error")
    ollama: Any = await server.http.put("/api/chat")
    assert (ollama.status_code, ollama.json()["error"]) == (405, "this path takes POST")
    both: Any = await server.http.post("/v1/responses/resp_1")
    assert set(both.headers["allow"].split(", ")) == {"GET", "HEAD", "DELETE"}


async def test_version_is_the_packages_own(server: Running) -> None:
    assert (await server.http.get("/version")).json() == {"version": tripos.__version__}


async def test_request_id_is_echoed_or_made(server: Running) -> None:
    given: Any = await server.http.get("/livez", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    made = await server.http.get("/livez", headers={"x-request-id": "has space"})
    assert made.headers["x-request-id"].startswith("req-")


async def test_keep_alive_answers_pipelined_requests_in_order(server: Running) -> None:
    get = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
    last = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    answer = await server.raw(get * 3 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert answer.rstrip().endswith(b'{"status":"ok"}')


async def test_body_in_single_bytes_is_one_body(server: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for byte in post(HEAD, LENGTH):
        writer.write(bytes([byte]))
        await writer.drain()
    assert outcome(await reader.read()) == (200, "")
    writer.close()
