"""One request of the corpus, and short ways to write it. Knows the wire alone, nothing of the server's code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Request:
    """`name` is unique in its table. `server` is the service file that it is sent to (tests/recorded/models.py).

    `keep`: name -> dotted place in the answer. `kept(name)` stands for its value in the path or body of later requests.
    `raw`: what is written to the socket instead of everything else.
    """

    name: str
    method: str
    path: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    server: str = "open"
    keep: Mapping[str, str] = field(default_factory=dict)
    raw: bytes = b""


def kept(name: str) -> str:
    """Stands for the value that an earlier request kept under this name."""
    return f"@({name})"


def post(name: str, path: str, body: Any, *, method: str = "POST", **fields: Any) -> Request:
    """A JSON body, or bytes as they are."""
    content = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    headers = {**JSON, **fields.pop("headers", {})}
    return Request(name, method, path, content, headers, **fields)


def get(name: str, path: str, *, method: str = "GET", **fields: Any) -> Request:
    return Request(name, method, path, **fields)


def raw(name: str, data: bytes) -> Request:
    """Bytes to a fresh connection; everything that comes until the server closes it is the answer."""
    return Request(name, "RAW", "", raw=data)


def both(name: str, path: str, body: dict[str, Any], **fields: Any) -> tuple[Request, Request]:
    """The request whole and streamed."""
    whole = post(f"{name}, whole", path, {**body, "stream": False}, **fields)
    return whole, post(f"{name}, streamed", path, {**body, "stream": True}, **fields)
