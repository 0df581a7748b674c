"""One HTTP exchange: the request with its bounded body, and the response, written once.

Owns what is the same for every endpoint: request id, headers, JSON and error bodies, the listener for a client that
leaves. Knows no endpoint.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl

from starlette.types import Receive, Scope, Send

from tripos.api.dialect import OPENAI, Dialect
from tripos.api.stored import ResponseStore
from tripos.errors import InvalidRequest, TriposError
from tripos.wire.json import encode

JSON = b"application/json"
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")

Headers = list[tuple[bytes, bytes]]


class ClientLeft(Exception):
    """The client closed the connection; nobody waits for the answer."""


class LengthRequired(InvalidRequest):
    status = 411
    code = "length_required"


class UnsupportedMediaType(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


def new_request_id() -> str:
    """Names a request in headers and logs; no secret."""
    return f"req-{random.getrandbits(96):024x}"


class Exchange:
    """`path_name` is what the route's pattern matched; `principal` is set once the caller is known, `dialect` once the
    route is. `encode_failure`: how an error ends a stream, where that is not as in a response.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, stored: ResponseStore) -> None:
        self.scope = scope
        self.stored = stored
        self._receive = receive
        self._send = send
        self._turn = scope.get("extensions", {}).get("tripos")  # protocol.Turn
        self.fields: dict[bytes, bytes] = self._turn.fields if self._turn else dict(scope["headers"])
        self.request_id = self._read_request_id()
        self.dialect: Dialect = OPENAI
        self.encode_failure: Callable[[TriposError], list[Any]] | None = None
        self.principal = ""
        self.path_name = ""
        self.model = ""  # for the log: a served name or nothing
        self.status = 0  # 0: not answered yet
        self.num_sent = 0
        self.code = ""  # of the error that the client got
        self.is_over = False
        self.headers: Headers = [(b"x-request-id", self.request_id.encode())]

    @property
    def has_left(self) -> bool:
        """Whether the client closed the connection: then this request's task was cancelled."""
        return self._turn is not None and self._turn.has_left

    def leave(self) -> None:
        """For the log: nobody waits for the rest."""
        self.status = self.status or 499
        self.code = self.code or "client_left"

    def header(self, name: bytes) -> bytes | None:
        """The one value of a header. Raises InvalidRequest (invalid_http) when it was sent twice."""
        if len(self.fields) != len(self.scope["headers"]) and sum(key == name for key, _ in self.scope["headers"]) > 1:
            raise InvalidRequest(f"the header {name.decode()} was sent twice", code="invalid_http")
        return self.fields.get(name)

    def query(self) -> dict[str, str]:
        """What stands after the path; of a name that comes twice, the last."""
        return dict(parse_qsl(self.scope["query_string"].decode("latin-1"), keep_blank_values=True))

    async def read_body(self) -> bytes:
        """The JSON body. Raises RequestTooLarge, RequestTimeout, LengthRequired, UnsupportedMediaType, ClientLeft."""
        self._check_body_headers()
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        body: bytes = message["body"]
        return body

    async def answer(self, status: int, body: bytes, content_type: bytes = JSON) -> None:
        """The whole response."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [(b"content-type", content_type), length, *self.headers])
        await self._write(body, is_last=True)

    async def answer_json(self, value: Any, status: int = 200) -> None:
        await self.answer(status, encode(value))

    async def stream(self, values: Iterable[Any]) -> None:
        """More of a stream, in the dialect's framing."""
        if not self.status:
            await self._start_stream()
        data = self.dialect.frame(values)
        self.num_sent += len(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_stream(self, values: Iterable[Any]) -> None:
        """The last values of a stream that went well."""
        await self._start_stream()
        await self._write(self.dialect.frame(values) + self.dialect.end, is_last=True)

    async def fail(self, error: TriposError) -> None:
        """The error contract: a response, or the last event of a stream that has begun."""
        self.code = error.code
        if self.is_over:
            return
        if self.status:
            last = self.encode_failure(error) if self.encode_failure else [self._encode_error(error)]
            await self._write(self.dialect.frame(last), is_last=True)
            return
        if error.retry_after_s is not None or error.status in (429, 503):
            # Drawn, so that they do not all come back at once.
            wait_s = (error.retry_after_s or 1.0) * random.uniform(1.0, 1.5)
            self.headers.append((b"retry-after", str(max(1, round(wait_s))).encode()))
            self.headers.append((b"retry-after-ms", str(max(1, round(wait_s * 1e3))).encode()))
        if error.status >= 400:
            self.headers.append((b"x-should-retry", b"true" if error.is_retryable else b"false"))
        await self.answer_json(self._encode_error(error), error.status)

    def _encode_error(self, error: TriposError) -> dict[str, Any]:
        return self.dialect.encode_error(error, self.request_id)

    async def _start_stream(self) -> None:
        """The headers, once."""
        if not self.status:
            no_buffer = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
            await self._start(200, [(b"content-type", self.dialect.stream_type), *no_buffer, *self.headers])

    async def _start(self, status: int, headers: Headers) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _write(self, data: bytes, *, is_last: bool) -> None:
        self.num_sent += len(data)
        self.is_over = self.is_over or is_last
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})

    def _read_request_id(self) -> str:
        given = self.fields.get(b"x-request-id")
        return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else new_request_id()

    def _check_body_headers(self) -> None:
        fields = self.fields
        if b"content-length" not in fields and b"transfer-encoding" not in fields:
            raise LengthRequired("send a Content-Length, or a chunked body")
        if self.header(b"content-encoding") not in (None, b"identity"):
            raise UnsupportedMediaType("a compressed body is not accepted: leave Content-Encoding out")
        given = self.header(b"content-type")
        if given == JSON:
            return
        kind, _, rest = (given or b"").partition(b";")
        charset = rest.strip().lower().replace(b'"', b"")
        if kind.strip().lower() != JSON or charset not in (b"", b"charset=utf-8"):
            raise UnsupportedMediaType("send Content-Type: application/json")
