"""How each family of clients wants its errors and streams: shapes come from wire/, bytes are made here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tripos.errors import TriposError
from tripos.wire.errors import encode_anthropic_error, encode_ollama_error, encode_openai_error
from tripos.wire.json import encode

EVENT_STREAM = b"text/event-stream; charset=utf-8"


def data_events(values: Iterable[Any]) -> bytes:
    """JSON values as `data:` events."""
    return b"".join([b"data: %b\n\n" % encode(value) for value in values])


def typed_events(values: Iterable[Any]) -> bytes:
    """JSON objects as events named by their `type`."""
    return b"".join([b"event: " + value["type"].encode() + b"\ndata: " + encode(value) + b"\n\n" for value in values])


def json_lines(values: Iterable[Any]) -> bytes:
    """JSON values, one per line."""
    return b"".join([encode(value) + b"\n" for value in values])


@dataclass(frozen=True)
class WireFormat:
    """`encode_error` takes the error and the request's id. `end`: the last bytes of a stream that went well.
    `id_header`: carries the request's id beside x-request-id. `needs_type`: a JSON body needs a Content-Type.
    """

    encode_error: Callable[[TriposError, str], dict[str, Any]]
    frame: Callable[[Iterable[Any]], bytes]
    stream_type: bytes = EVENT_STREAM
    end: bytes = b""
    id_header: bytes = b""
    needs_type: bool = True


OPENAI = WireFormat(encode_openai_error, data_events, end=b"data: [DONE]\n\n")
OPENAI_RESPONSES = WireFormat(encode_openai_error, typed_events)
ANTHROPIC = WireFormat(encode_anthropic_error, typed_events, id_header=b"request-id")
OLLAMA = WireFormat(encode_ollama_error, json_lines, b"application/x-ndjson", needs_type=False)
