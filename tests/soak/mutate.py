"""Valid requests of every endpoint, changed at random: bytes, JSON, headers, framing. Seeded: the same every time."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.api.posts import POSTS, body_of
from tripos.api.routes import ROUTES

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, -0.0, 1e308, -1e308, 2**31, 2**63, -(2**63), 10**30, "", "x", "tiny", "\0",
    "\ud7ff",
    "\U0010ffff", "a" * 300, "../../etc/passwd", "{{ 7*7 }}", "' OR 1=1 --", "</s>", [], {}, [None], [[]], [1, "x"],
    {"a": 1},
    {"type": "x"}, {"type": "text", "text": "x"}, [{"role": "user", "content": "x"}], [{}] * 20, ["x"] * 40,
    {"$ref": "#"},
    {"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}, [{"type": "function",
    "function": {"name": "f"}}],
    "text", "auto", "required", "json", "float", "base64",
]  # fmt: skip
RAW = [
    b"NaN",
    b"1e999",
    b"-",
    b"01",
    b'"\\ud800"',
    b'"\\u0000"',
    b"[" * 70 + b"]" * 70,
    b"\xff",
    b"tru",
    b"'x'",
    b"9" * 400,
]
BYTES = b'\0\t\n\r "\\{}[]:,0-9eE+.tfn\x7f\x80\xc0\xff'
FIELDS = [
    b"x-request-id: %s", b"authorization: Bearer %s", b"x-api-key: %s", b"content-type: %s", b"content-encoding: %s",
    b"accept: %s", b"cookie: %s", b"origin: http:" + b"//%s.example", b"traceparent: %s", b"anthropic-version: %s",
    b"connection: %s", b"transfer-encoding: %s", b"content-length: %s", b"host: %s", b"te: %s", b"range: bytes=%s",
    b"%s: x",
]  # fmt: skip
WORDS = [b"", b"x", b"0", b"-1", b"9" * 30, b"chunked", b"gzip", b"close", b"keep-alive", b"application/json",
    b"text/plain",
         b"\xff\xfe", b"a" * 600, b"a, b", b'"', b"%00", b"\t", b"localhost"]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`is_whole`: its length is right, so that an answer must come and the connection may stay."""

    data: bytes
    level: str
    is_whole: bool


class Mutator:
    """Draws cases. The same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._goods = [(post.path, json.dumps(body_of(post))) for post in POSTS]
        self._bare = [(route.method, route.path.replace("{name:path}", "tiny")) for route in ROUTES if not route.fields]

    def draw(self) -> Case:
        level = self._rng.choices(("json", "text", "path", "header", "framing"), (52, 26, 10, 8, 4))[0]
        draws: dict[str, Callable[[], Case]] = {
            "json": self._json, "text": self._text, "path": self._path, "header": self._header, "framing": self._framing
        }  # fmt: skip
        return draws[level]()

    def _good(self) -> tuple[str, dict[str, Any]]:
        path, text = self._rng.choice(self._goods)
        return path, json.loads(text)

    def _json(self) -> Case:
        """Values and keys, anywhere inside."""
        path, body = self._good()
        for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
            self._change(body)
        return Case(request(path, json.dumps(body).encode()), "json", True)

    def _change(self, body: dict[str, Any]) -> None:
        rng, where = self._rng, body
        while rng.random() < 0.4:
            inner = [each for each in where.values() if isinstance(each, dict)]
            inner += [
                each[0] for each in where.values() if isinstance(each, list) and each and isinstance(each[0], dict)
            ]
            if not inner:
                break
            where = rng.choice(inner)
        name = rng.choice([*where, rng.choice(FIELD_NAMES)])
        if rng.random() < 0.15:
            where.pop(name, None)
        else:
            where[name] = copy.deepcopy(rng.choice(VALUES))

    def _text(self) -> Case:
        """Bytes of the body."""
        rng = self._rng
        path, body = self._good()
        text = bytearray(json.dumps(body).encode())
        if rng.random() < 0.3:
            at = text.index(b":", rng.randrange(len(text) // 2)) + 1
            text[at : at + rng.randint(0, 5)] = rng.choice(RAW)
        else:
            self._damage(text, rng.randint(1, 4), 0)
        return Case(request(path, bytes(text)), "text", True)

    def _path(self) -> Case:
        """Another method, path or query."""
        rng = self._rng
        method, path = rng.choice(self._bare)
        target = bytearray(path.encode())
        if rng.random() < 0.7:
            target += rng.choice(
                (b"/", b"?x=1", b"%00", b"/..", b"//", b"%2f", b"?" + b"a" * 500, b";a", b"%zz", b"/x/y")
            )
        if rng.random() < 0.3:
            target[1:1] = rng.choice((b"v1/", b"/", b"%2e", b"V1/", b"admin/"))
        if rng.random() < 0.3:
            method = rng.choice(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "X"))
        head = b"%b %b HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 0\r\n\r\n" % (method.encode(), bytes(target))
        return Case(head, "path", method != "HEAD")

    def _header(self) -> Case:
        """More headers, or others."""
        rng = self._rng
        path, body = self._good()
        more = [rng.choice(FIELDS) % rng.choice(WORDS) for _ in range(rng.choice((1, 1, 2, 5, 120)))]
        framing = (b"transfer-encoding", b"content-length", b"connection", b"host")
        is_whole = not any(line.lower().startswith(framing) for line in more)
        return Case(request(path, json.dumps(body).encode(), more), "header", is_whole)

    def _framing(self) -> Case:
        """Any byte of the whole request."""
        path, body = self._good()
        data = bytearray(request(path, json.dumps(body).encode()))
        self._damage(data, self._rng.randint(1, 5), 0)
        return Case(bytes(data), "framing", False)

    def _damage(self, data: bytearray, times: int, start: int) -> None:
        rng = self._rng
        for _ in range(times):
            at, choice = rng.randrange(start, len(data)), rng.random()
            if choice < 0.35:
                data[at] = rng.choice(BYTES)
            elif choice < 0.6:
                data.insert(at, rng.choice(BYTES))
            elif choice < 0.8:
                del data[at : at + rng.choice((1, 1, 2, 9))]
            elif choice < 0.9:
                data[at:at] = data[at : at + 20] * rng.randint(1, 3)
            else:
                del data[max(at, 1) :]
            if len(data) <= start + 1:
                data += b"xx"


FIELD_NAMES = sorted({name for post in POSTS for name in post.table} | {"__proto__", "unknown", "a" * 70})


def request(path: str, body: bytes, more: list[bytes] | None = None) -> bytes:
    lines = [b"POST %b HTTP/1.1" % path.encode(), b"host: 127.0.0.1", b"content-type: application/json", *(more or [])]
    return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])
