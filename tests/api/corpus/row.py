"""One row of the corpus of bad inputs: what is sent, and what must come back.

Ids are those of the reliability document, sections 3.1 to 3.7. An outcome is a status and, for an error, its code:
"200", "400 invalid_json". Where it is not what the document asks, the row says why (docs/decisions/0022).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HOST = b"host: 127.0.0.1\r\n"
JSON = b"content-type: application/json\r\n"
BODY = b'{"model":"tiny","prompt":"x","max_tokens":1}'
MIB = 2**20


@dataclass(frozen=True)
class Ask:
    """A request by the ordinary client."""

    path: str
    body: Any = None  # bytes as they are, else JSON
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Row:
    """`feature`: what must be there for the row to run; empty: nothing special. `param`: None where it is not told.
    `deviates`: why the outcome is another than the document's.
    """

    id: str
    what: str
    sends: bytes | Ask | Callable[[], bytes]
    outcome: str
    param: str | None = None
    feature: str = ""
    deviates: str = ""

    @property
    def name(self) -> str:
        return f"{self.id} {self.what}"


def row(
    id: str, what: str, sends: Any, outcome: str, *, param: str | None = None, feature: str = "", deviates: str = ""
) -> Row:
    return Row(id, what, sends, outcome, param, feature, deviates)


def post(*fields: bytes, body: bytes = BODY, line: bytes = b"POST /v1/completions HTTP/1.1") -> bytes:
    """A request on a connection of its own, with a Host and a JSON type."""
    return bare(HOST, JSON, *fields, body=body, line=line)


def bare(*fields: bytes, body: bytes = b"", line: bytes = b"POST /v1/completions HTTP/1.1") -> bytes:
    return line + b"\r\n" + b"".join(fields) + b"connection: close\r\n\r\n" + body


def length(body: bytes = BODY) -> bytes:
    return b"content-length: %d\r\n" % len(body)


CHUNKED = b"transfer-encoding: chunked\r\n"


def chunks(*lines: bytes) -> bytes:
    return post(CHUNKED, body=b"".join(lines))


def chat(**fields: Any) -> Ask:
    """A chat completion; a field of `...` is left out."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 1, **fields}
    return Ask("/v1/chat/completions", {name: value for name, value in body.items() if value is not ...})


def message(**fields: Any) -> Ask:
    one = {"role": "user", "content": "x", **fields}
    return chat(messages=[{name: value for name, value in one.items() if value is not ...}])


def completion(**fields: Any) -> Ask:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1, **fields}
    return Ask("/v1/completions", {name: value for name, value in body.items() if value is not ...})
