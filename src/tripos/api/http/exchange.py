"""One HTTP exchange: the request with its bounded body, and the response, written once.

Owns what is the same for every endpoint: request id, headers, JSON and error bodies, the framing of a response. When
the client leaves, the work for it is cancelled. Knows no endpoint.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Iterable, Mapping
from http import HTTPStatus
from random import getrandbits, uniform
from typing import Any, Protocol
from urllib.parse import parse_qsl

from tripos.api.http.framing import Head
from tripos.api.http.wire_format import OPENAI, WireFormat
from tripos.api.http.work import Work
from tripos.api.stored import ResponseStore
from tripos.errors import InvalidRequest, LengthRequired, TriposError, UnsupportedMediaType
from tripos.repository import ModelRepository
from tripos.types import Usage
from tripos.wire.json import encode

JSON = b"application/json"
STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}
# Content types that a web page may send to any server without asking first (Fetch standard, CORS-safelisted).
_SAFELISTED = {b"text/plain", b"multipart/form-data", b"application/x-www-form-urlencoded"}
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_NO_BUFFER = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n" + _NO_BUFFER


class ClientLeft(Exception):
    """The client closed the connection; nobody waits for the answer."""


class Application(Protocol):
    """Answers exchanges (app.App)."""

    stored: ResponseStore
    repository: ModelRepository | None

    def __call__(self, exchange: Exchange) -> Coroutine[Any, Any, None]: ...
    async def reread(self) -> dict[str, Any]: ...
    def note_refusal(self, peer: str, request_id: str, error: TriposError, num_sent: int) -> None: ...


class ClientConnection(Protocol):
    """What an exchange needs of its connection (connection.Connection)."""

    app: Application
    peer: str
    loop: asyncio.AbstractEventLoop
    is_full: bool  # the client must read before more is written

    @property
    def date_line(self) -> bytes:
        """A header line of every response."""

    @property
    def is_unfinished(self) -> bool:
        """Whether a rest of the request will not be read."""

    def write(self, data: bytes) -> None: ...
    def finish(self, data: bytes, keeps_alive: bool) -> None: ...
    async def drain(self) -> None: ...


class Exchange:
    """One request and its response. Attributes have their defaults on the class; a request sets those that differ."""

    body: bytes | None = None  # once it is complete
    work: Work | None = None
    has_left = False  # the client closed the connection: then the work was cancelled
    is_over = False  # the response is complete
    wire_format: WireFormat = OPENAI  # the route's, as body_type
    body_type = JSON
    path_params: Mapping[str, str] = {}  # of the route's path
    encode_failure: Callable[[TriposError], list[Any]] | None = None  # how an error ends a stream, if not as usual
    principal = ""
    model = ""  # for the log: a served name or nothing
    status = 0  # 0: not answered yet
    num_sent = 0  # bytes
    code = ""  # of the error that the client got
    usage: Usage | None = None  # the sum over the calls that finished
    _error: TriposError | None = None  # why the body is missing
    _news: asyncio.Future[None] | None = None
    _is_chunked = False

    def __init__(self, connection: ClientConnection, head: Head) -> None:
        self._connection = connection
        self.client = connection.peer  # behind a trusted proxy: the proxy's client
        self.head = head
        self.fields = fields = head.found  # the headers by name; of those sent twice, the last
        self.keeps_alive = head.keeps_alive
        given = fields.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            self.request_id = given.decode()
        else:
            self.request_id = f"req-{getrandbits(96):024x}"
        self._head_lines = b"x-request-id: %b\r\n" % self.request_id.encode()

    # -- for the connection -------------------------------------------------------------------------------------------
    def take_body(self, data: bytes) -> None:
        self.body = data
        self._wake()

    def fail_body(self, error: TriposError) -> None:
        """The body is missing: `read_body` raises."""
        self._error = error
        self._wake()

    def leave(self) -> None:
        """The client has left."""
        self.has_left = True
        self._wake()
        if self.work is not None:
            self.work.cancel()

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)

    # -- the request --------------------------------------------------------------------------------------------------
    @property
    def peer(self) -> str:
        return self._connection.peer

    @property
    def stored(self) -> ResponseStore:
        return self._connection.app.stored

    @property
    def repository(self) -> ModelRepository | None:
        return self._connection.app.repository

    async def reread(self) -> dict[str, Any]:
        """Reads the server's configuration again (App.reread)."""
        return await self._connection.app.reread()

    def header(self, name: bytes) -> bytes | None:
        """The one value of a header. Raises InvalidRequest (invalid_http) when it was sent twice."""
        sent = self.head.fields
        if len(self.fields) != len(sent) and sum(key == name for key, _ in sent) > 1:
            raise InvalidRequest(f"the header {name.decode()} was sent twice", code="invalid_http")
        return self.fields.get(name)

    def joined(self, name: bytes) -> bytes | None:
        """All values of a header that may come several times, as one list."""
        if len(self.fields) == len(self.head.fields):
            return self.fields.get(name)
        return b",".join(value for key, value in self.head.fields if key == name) or None

    def query(self) -> dict[str, str]:
        """What stands after the path; of a name that comes twice, the last."""
        return dict(parse_qsl(self.head.query.decode("latin-1"), keep_blank_values=True))

    async def read_body(self) -> bytes:
        """The body. Raises RequestTooLarge, RequestTimeout, LengthRequired, UnsupportedMediaType, ClientLeft."""
        fields = self.fields
        if (
            fields.get(b"content-type") != self.body_type
            or b"content-length" not in fields
            or b"content-encoding" in fields
            or len(fields) != len(self.head.fields)
        ):
            self._check_body_headers()
        if self.head.waits and self.body is None:
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self.has_left:
            if self._error is not None:
                raise self._error
            if self.body is not None:
                return self.body
            self._news = self._connection.loop.create_future()
            await self._news
        raise ClientLeft

    def _check_body_headers(self) -> None:
        fields = self.fields
        if b"content-length" not in fields and b"transfer-encoding" not in fields:
            raise LengthRequired("send a Content-Length header, or a chunked body")
        if b"content-encoding" in fields and self.header(b"content-encoding") != b"identity":
            raise UnsupportedMediaType("a compressed body is not accepted: send no Content-Encoding header")
        given = self.header(b"content-type")
        if given == self.body_type:
            return
        kind, _, rest = (given or b"").partition(b";")
        kind, charset = kind.strip().lower(), rest.strip().lower().replace(b'"', b"")
        if self.body_type != JSON:
            if kind != self.body_type or (kind in _SAFELISTED and not self.is_program):
                raise UnsupportedMediaType(f"send Content-Type: {self.body_type.decode()}")
            return
        if kind == JSON and charset in (b"", b"charset=utf-8"):
            return
        if kind == JSON or self.wire_format.needs_type or not self.is_program:
            raise UnsupportedMediaType("send Content-Type: application/json")

    @property
    def is_program(self) -> bool:
        """Whether no web page sent this request. A page may send a body without a JSON content type to any server,
        and the browser does not ask the server first; but it names the page.
        """
        return b"origin" not in self.fields and self.fields.get(b"sec-fetch-site", b"none") == b"none"

    # -- the response -------------------------------------------------------------------------------------------------
    def add_header(self, line: bytes) -> None:
        """Adds to a response that has not begun; `line`: with its CR LF."""
        self._head_lines += line

    def answer(self, status: int, body: bytes, content_type: bytes = JSON) -> None:
        """The whole response."""
        self._write(self._begin(status, content_type, b"content-length: %d\r\n" % len(body)), body, True)

    def answer_json(self, value: Any, status: int = 200) -> None:
        self.answer(status, encode(value))

    def stream(self, values: Iterable[Any], *, is_last: bool = False) -> bool:
        """More of a stream, or its end. Returns whether to `drain` before there is more: the client must read first."""
        data = self.wire_format.frame(values)  # may raise, as long as a response with the error can still be sent
        if is_last:
            data += self.wire_format.end
        head = b""
        if not self.status:
            if self.head.version == "1.1":
                self._is_chunked = True
                head = self._begin(200, self.wire_format.stream_type, _CHUNKED)
            else:
                self.keeps_alive = False
                head = self._begin(200, self.wire_format.stream_type, _NO_BUFFER)
        self._write(head, data, is_last)
        return self._connection.is_full and not self.has_left

    async def drain(self) -> None:
        """Until the client has read enough. It may leave instead."""
        await self._connection.drain()

    def fail(self, error: TriposError) -> None:
        """The error contract: a response, or the last event of a stream that has begun."""
        self.code = error.code
        if self.is_over:
            return
        if self.status:
            last = self.encode_failure(error) if self.encode_failure else [self._encode_error(error)]
            self._write(b"", self.wire_format.frame(last), True)
            return
        if error.retry_after_s is not None or error.status in (429, 503):
            # Random, so that refused clients do not all retry at once.
            wait_s = (error.retry_after_s or 1.0) * uniform(1.0, 1.5)
            wait = max(1, round(wait_s)), max(1, round(wait_s * 1e3))
            self.add_header(b"retry-after: %d\r\nretry-after-ms: %d\r\n" % wait)
        if error.status >= 400:
            self.add_header(b"x-should-retry: %b\r\n" % (b"true" if error.is_retryable else b"false"))
        self.answer_json(self._encode_error(error), error.status)

    def add_usage(self, usage: Usage) -> None:
        """Adds the usage of a call, for the log."""
        if (total := self.usage) is not None:
            usage = Usage(
                prompt_tokens=total.prompt_tokens + usage.prompt_tokens,
                cached_tokens=total.cached_tokens + usage.cached_tokens,
                output_tokens=total.output_tokens + usage.output_tokens,
            )
        self.usage = usage

    def close_log(self) -> None:
        """For the log: the client has left before the response was complete."""
        self.status = self.status or 499
        self.code = self.code or "client_left"

    def _encode_error(self, error: TriposError) -> dict[str, Any]:
        return self.wire_format.encode_error(error, self.request_id)

    def _begin(self, status: int, content_type: bytes, lines: bytes) -> bytes:
        """The head of the response. The connection ends when a rest of the request will not be read."""
        self.status = status
        connection = self._connection
        end = b"\r\n"
        if connection.is_unfinished:
            self.keeps_alive = False
        if not self.keeps_alive:
            end = b"connection: close\r\n\r\n"
        elif self.head.version == "1.0":
            end = b"connection: keep-alive\r\n\r\n"
        return b"%b%bcontent-type: %b\r\n%b%b%b" % (
            STATUS_LINES[status], connection.date_line, content_type, lines, self._head_lines, end,
        )  # fmt: skip

    def _write(self, head: bytes, data: bytes, is_last: bool) -> None:
        """The head of a response goes out with what follows it."""
        self.num_sent += len(data)
        if self.is_over:
            return
        self.is_over = is_last
        if self.has_left:
            return
        if self.head.method == "HEAD":
            data = b""
        elif self._is_chunked:
            if data:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            if is_last:
                data += b"0\r\n\r\n"
        if is_last:
            self._connection.finish(head + data, self.keeps_alive)
        elif head or data:
            self._connection.write(head + data if head else data)
