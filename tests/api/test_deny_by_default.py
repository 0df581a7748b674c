"""Nothing answers without a key but the two probes, however a path, a host or a key is spelt."""

from __future__ import annotations

import ast
import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import tripos.api.auth
from tests.api.running import Running, TinyModel, running
from tripos.api.auth import Keys
from tripos.api.routes import ROUTES, Route

module_loop = pytest.mark.asyncio(loop_scope="module")

KEY, ADMIN, SCRAPER = "k" * 32, "a" * 32, "m" * 32
PUBLIC = {"/livez", "/readyz"}
DENIED = {400, 401, 403, 404, 405, 421}
PRIVATE = [route for route in ROUTES if not route.is_public]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked() -> AsyncIterator[Running]:
    keys = Keys({KEY: frozenset({"generate"}), ADMIN: frozenset({"admin"}), SCRAPER: frozenset({"metrics"})})
    async with running(TinyModel(), keys=keys) as server:
        yield server


def spellings(path: str) -> list[str]:
    """Other ways to write a path."""
    first = path[1:2]
    return [
        path,
        path + "/",
        "/" + path,
        path.replace("/", "//"),
        path.upper(),
        path.title(),
        path + "?key=" + KEY,
        path + "%2f",
        path + "%00",
        path + ";x",
        path + "/.",
        "/." + path,
        "/livez/.." + path,
        "/livez/%2e%2e" + path,
        f"/%{ord(first):02x}{path[2:]}" if first else "/%2f",
        "/" + path[1:].replace("/", "%2f"),
    ]


def named(route: Route) -> str:
    return route.path.replace("{name:path}", "tiny").replace("{name}", "tiny")


async def status_of(server: Running, method: str, target: str, *fields: str, host: str = "127.0.0.1") -> int:
    lines = [f"{method} {target} HTTP/1.1", f"host: {host}", "content-length: 0", "connection: close", *fields]
    answer = await server.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))
    return int(answer.split(b" ", 2)[1])


def test_only_the_probes_are_public() -> None:
    assert {route.path for route in ROUTES if route.is_public} == PUBLIC


@module_loop
@pytest.mark.parametrize("route", PRIVATE, ids=lambda route: f"{route.method} {route.path}")
async def test_no_spelling_of_a_route_opens_it(locked: Running, route: Route) -> None:
    for method, target in itertools.product((route.method, "HEAD", "OPTIONS"), spellings(named(route))):
        for field in ("x-nothing: x", "authorization: Bearer " + "x" * 32):
            assert await status_of(locked, method, target, field) in DENIED, (method, target, field)


@module_loop
@pytest.mark.parametrize("route", PRIVATE, ids=lambda route: f"{route.method} {route.path}")
async def test_a_key_of_another_scope_does_not_open_a_route(locked: Running, route: Route) -> None:
    opening = {"admin": {ADMIN}, "generate": {KEY}, "metrics": {KEY, ADMIN, SCRAPER}}[route.scope]
    for key in (KEY, ADMIN, SCRAPER):
        status = await status_of(locked, route.method, named(route), f"authorization: Bearer {key}")
        assert (status not in (401, 403)) if key in opening else (status == 403), key


HOSTS = ["127.0.0.1/livez", "127.0.0.1?x", "127.0.0.1#x", "127.0.0.1 ", "a@127.0.0.1", "127.0.0.1:x", "127.0.0.1,a",
         "127.0.0.1:80/livez", "[::1]/livez", "livez", "localhost.evil.example", "127.0.0.1%2flivez",
         "127.0.0.1\\livez"]  # fmt: skip
TARGETS = ["http://127.0.0.1/livez/../{}", "http://127.0.0.1/{}", "http://a/{}", "http://127.0.0.1:80/{}",
    "/{}?key=/livez", "/{}#/livez",
           "/{}?/livez", "/livez%3f/../{}", "/livez/../{}", "//livez/../{}", "/{}%23/livez", "/{}/..;/livez",
           "/./{}", "/%2e/{}"]  # fmt: skip


@module_loop
async def test_no_host_or_url_reaches_a_route_round_the_key(locked: Running) -> None:
    paths = [route for route in PRIVATE if route.method == "GET"]
    num_sent = 0
    for route, host in itertools.product(paths, HOSTS):
        num_sent += 1
        assert await status_of(locked, "GET", named(route), host=host) in DENIED, (route.path, host)
    for route, target in itertools.product(paths, TARGETS):
        num_sent += 1
        assert await status_of(locked, "GET", target.format(named(route)[1:])) in DENIED, (route.path, target)
    assert num_sent >= 200


@module_loop
async def test_keys_that_speak_another_language_are_unknown(locked: Running) -> None:
    rng = random.Random(3)
    pieces = [
        "'",
        '"',
        ";",
        "--",
        "/*",
        "*/",
        " OR ",
        "1=1",
        "UNION",
        "SELECT",
        "\\",
        "%",
        "_",
        "(",
        ")",
        "`",
        "x" * 9,
        "\xe4",
    ]
    for _ in range(500):
        key = "".join(rng.choices(pieces, k=rng.randint(1, 12))).strip()
        assert await status_of(locked, "GET", "/v1/models", f"authorization: Bearer {key}") == 401, key
    assert await status_of(locked, "GET", "/v1/models", "authorization: Bearer " + "k" * 513) == 401


def test_secrets_are_compared_in_constant_time() -> None:
    """Digests meet in hmac.compare_digest only; the keys themselves meet nothing."""
    tree = ast.parse(Path(tripos.api.auth.__file__).read_text())
    compared = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops)
    ]
    assert not [text for text in compared if "digest" in text or "given" in text or text.startswith("key ")]
    assert "hmac.compare_digest" in {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
