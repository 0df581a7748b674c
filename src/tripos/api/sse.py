"""Server-sent events: one write per wake-up, however many events it brought."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tripos.wire.json import encode

DONE = b"data: [DONE]\n\n"


def frame(values: Iterable[Any]) -> bytes:
    """JSON values as `data:` events."""
    return b"".join([b"data: " + encode(value) + b"\n\n" for value in values])
