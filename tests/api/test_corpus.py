"""The corpus of bad inputs, sections 3.1 to 3.7: each row gets its outcome, and leaves the server as it was."""

from __future__ import annotations

import importlib
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.api.after import LEAKS, After, Log
from tests.api.corpus import (
    conversation_rows,
    framing_rows,
    grammar_rows,
    json_rows,
    parameter_rows,
    routing_rows,
    text_rows,
)
from tests.api.corpus.row import Ask, Row
from tests.api.posts import POSTS
from tests.api.running import NUM_BLOCKS, Running, TinyModel, error_code, running, tiny_encoder
from tripos.api.auth import Keys
from tripos.api.routes import ROUTES
from tripos.errors import InvalidRequest
from tripos.wire.openai import chat

module_loop = pytest.mark.asyncio(loop_scope="module")

SECTIONS: dict[str, list[Row]] = {
    "H": framing_rows.ROWS,
    "R": routing_rows.ROWS,
    "J": json_rows.ROWS,
    "P": parameter_rows.ROWS,
    "U": text_rows.ROWS,
    "M": conversation_rows.ROWS,
    "G": grammar_rows.ROWS,
}
ROOM = 2**17  # tokens
LAST = {"H": 41, "R": 8, "J": 18, "P": 25, "U": 12, "M": 17, "G": 20}
# What a table cannot say: time, memory, broken connections, and what models say.
ELSEWHERE = {
    "H16": "tests.api.test_connections:test_a_body_that_ends_early_has_no_effect",
    "H17": "tests.api.test_connections:test_a_body_that_does_not_come_is_timed_out",
    "H34": "tests.api.test_connections:test_what_stands_before_a_malformed_request_is_answered_and_nothing_after_it",
    "H37": "tests.api.test_connections:test_a_head_that_trickles_is_timed_out",
    "H38": "tests.api.test_connections:test_a_reset_anywhere_leaves_one_line",
    "U08": "tests.unit.engine.test_text:test_half_a_character_is_never_shown",
    "U09": "tests.unit.engine.test_text:test_half_a_character_is_never_shown",
    "M11": "tests.unit.dialects.test_dialects:test_ten_thousand_open_tags_are_text",
    "M14": "tests.unit.models.text.test_chat:test_message_of_the_template_reaches_the_caller_trimmed",
    "G18": "tests.api.test_corpus:test_a_bad_grammar_after_a_good_one",
    "G19": "tests.api.test_corpus:test_a_bad_grammar_after_a_good_one",
}


def is_served(path: str) -> bool:
    return any(route.path == path and "absent" not in route.endpoint.__qualname__ for route in ROUTES)


def takes_schemas() -> bool:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "response_format": form}
    try:
        chat.decode(json.dumps(body).encode())
    except InvalidRequest:
        return False
    return True


def says(code: str) -> bool:
    sources = Path(importlib.import_module("tripos").__file__ or "").parent.rglob("*.py")
    return any(f'"{code}"' in source.read_text() for source in sources)


FEATURES: dict[str, Callable[[], bool]] = {
    "tools": lambda: chat.FIELDS["tools"].use == "honoured",
    "enforced tool schemas": takes_schemas,
    "grammar": takes_schemas,
    "embeddings": lambda: is_served("/v1/embeddings"),
    "rerank": lambda: is_served("/v1/rerank"),
    "files": lambda: is_served("/v1/files"),
    "idempotency keys": lambda: says("idempotency_mismatch"),
    "request ids that are unique": lambda: says("request_id_in_use"),
    "keys revoked while running": lambda: says("key_revoked"),
}
ACTIVE = {
    section: [pytest.param(row, id=row.name) for row in rows if not row.feature or FEATURES[row.feature]()]
    for section, rows in (*SECTIONS.items(), ("roomy", conversation_rows.ROOMY_ROWS))
}
INACTIVE = {row.feature for rows in SECTIONS.values() for row in rows if row.feature} - {
    feature for feature, is_there in FEATURES.items() if is_there()
}


def test_rows_wait_only_for_what_is_not_there() -> None:
    """Whoever brings one of these features takes its name out here, and its rows run."""
    assert {
        "files", "idempotency keys", "request ids that are unique", "keys revoked while running"
    } == INACTIVE  # fmt: skip


@pytest.mark.parametrize("section", list(SECTIONS))
def test_every_id_of_the_document_has_its_row_or_test(section: str) -> None:
    ids = {row.id.split()[0] for row in (*SECTIONS[section], *conversation_rows.ROOMY_ROWS)} | set(ELSEWHERE)
    assert not {f"{section}{number:02}" for number in range(1, LAST[section] + 1)} - ids


@pytest.mark.parametrize("where", sorted(set(ELSEWHERE.values())))
def test_what_is_tested_elsewhere_is_tested(where: str) -> None:
    module, _, name = where.partition(":")
    source = Path(*module.split(".")).with_suffix(".py")
    assert f"def {name}" in (Path(__file__).parents[2] / source).read_text()


@pytest.fixture(scope="module")
def log() -> Log:
    return Log()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where temporary files go meanwhile, those of processes that we start included."""
    own = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(own))
        patch.setattr(tempfile, "tempdir", None)
        yield own


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_door(tiny: TinyModel, log: Log, folder: Path) -> AsyncIterator[tuple[Running, After]]:
    """Without keys, as most run it at home."""
    async with watched(tiny, log, folder) as both:
        yield both


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def roomy_door(log: Log, folder: Path) -> AsyncIterator[tuple[Running, After]]:
    """A model with a window that long requests fit in."""
    async with watched(TinyModel(window=ROOM, num_blocks=ROOM // 16), log, folder, num_blocks=ROOM // 16) as both:
        yield both


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked_door(log: Log, folder: Path) -> AsyncIterator[tuple[Running, After]]:
    keys = Keys({routing_rows.KEY: frozenset({"generate"}), routing_rows.OTHER: frozenset({"generate"})})
    async with watched(TinyModel(), log, folder, keys) as both:
        yield both


class watched:  # noqa: N801  # used as a function is
    """A server, its log and what must hold after each row."""

    def __init__(
        self, tiny: TinyModel, log: Log, folder: Path, keys: Keys | None = None, num_blocks: int = NUM_BLOCKS
    ) -> None:
        self._tiny, self._log, self._folder, self._num_blocks = tiny, log, folder, num_blocks
        self._running = running(tiny, tiny_encoder(), keys=keys)
        self._is_locked = keys is not None

    async def __aenter__(self) -> tuple[Running, After]:
        logger = logging.getLogger("tripos")
        self._level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(self._log)
        server = await self._running.__aenter__()
        if self._is_locked:
            server.http.headers["authorization"] = f"Bearer {routing_rows.KEY}"
        after = await After.of(server, self._tiny, self._log, self._num_blocks, self._folder)
        self._log.lines.clear()
        return server, after

    async def __aexit__(self, *error: object) -> None:
        await self._running.__aexit__(None, None, None)
        logger = logging.getLogger("tripos")
        logger.removeHandler(self._log)
        logger.setLevel(self._level)


async def outcome_of(server: Running, row: Row) -> tuple[str, str | None, str]:
    """Status and code; param; the body."""
    if isinstance(row.sends, Ask):
        ask = row.sends
        headers = {"content-type": "application/json"} | ask.headers
        headers = {name: value for name, value in headers.items() if value}
        client_headers = server.http.headers
        if "authorization" not in headers:
            client_headers = client_headers.copy()
            client_headers.pop("authorization", None)
        request = server.http.build_request(ask.method, ask.path, content=ask.content or None, headers=headers)
        if "authorization" not in headers:
            request.headers.pop("authorization", None)
        response = await server.http.send(request)
        assert response.headers["x-request-id"]
        text = response.text
        status, code = response.status_code, error_code(response) if response.status_code != 200 else ""
        error = response.json().get("error") if code else None
        param = error.get("param") if isinstance(error, dict) else None
    else:
        answer = await server.raw(row.sends() if callable(row.sends) else row.sends)
        head, _, content = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), answer[:200]
        text, status = content.decode(), int(head.split()[1])
        code = json.loads(content)["error"]["code"] if status != 200 else ""
        param = None
        if status != 200:
            assert b"\r\nx-request-id: " in head
    return f"{status} {code}".strip(), param, text


async def check_row(door: tuple[Running, After], row: Row) -> None:
    server, after = door
    after.begin()
    outcome, param, text = await outcome_of(server, row)
    after.answered()
    assert outcome == row.outcome, text[:600]
    if row.param is not None:
        assert param == row.param
    if outcome != "200":
        assert len(text) < 700
        assert not LEAKS.search(text)
    await after.check(num_requests=1)


@module_loop
@pytest.mark.parametrize("row", [row for section in "HJPUMG" for row in ACTIVE[section]])
async def test_bad_input(open_door: tuple[Running, After], row: Row) -> None:
    await check_row(open_door, row)


@module_loop
@pytest.mark.parametrize("row", ACTIVE["roomy"])
async def test_what_only_looks_bad(roomy_door: tuple[Running, After], row: Row) -> None:
    await check_row(roomy_door, row)


@module_loop
@pytest.mark.parametrize("row", ACTIVE["R"])
async def test_bad_key(locked_door: tuple[Running, After], row: Row) -> None:
    await check_row(locked_door, row)


@module_loop
@pytest.mark.skipif(not takes_schemas(), reason="grammars are not there yet")
async def test_a_bad_grammar_after_a_good_one(open_door: tuple[Running, After]) -> None:
    server, _ = open_door
    answer = await server.canary()
    for i in range(50):
        good = grammar_rows.schema({"type": "object", "properties": {f"p{i}": {"type": "null"}}}).body
        bad = grammar_rows.schema({"type": "string", "pattern": "((("}).body
        assert (await server.post("/v1/chat/completions", good)).status_code == 200
        assert (await server.post("/v1/chat/completions", bad)).status_code == 400
    assert await server.canary() == answer


def test_every_route_that_takes_a_body_is_in_the_other_corpus() -> None:
    """test_bad_input sends what is wrong everywhere to each of these."""
    taken = {route.path for route in ROUTES if route.fields is not None and route.scope != "admin"}
    assert taken - {post.path for post in POSTS} <= {
        "/v1/embeddings",
        "/v1/rerank",
        "/rerank",
        "/v2/rerank",
        "/api/embed",
    }
