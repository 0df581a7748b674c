"""One HTTP exchange: the request with its bounded body, and the response, written once.

Owns what is the same for every endpoint: request id, headers, JSON and error bodies, the framing of a response. When
the client leaves, the work for it is cancelled. Knows no endpoint.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl

from tripos.api.dialect import OPENAI, Dialect
from tripos.api.http.framing import Head
from tripos.api.http.work import Work
from tripos.api.stored import ResponseStore
from tripos.errors import InvalidRequest, LengthRequired, TriposError, UnsupportedMediaType
from tripos.repository import ModelRepository
from tripos.types import Usage
from tripos.wire.json import encode

JSON = b"application/json"
STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_NO_BUFFER = b"cache-control: no-cache\r\nx-accel-buffering: no\r\n"


class ClientLeft(Exception):
    """The client closed the connection; nobody waits for the answer."""


def new_request_id() -> str:
    """Names a request in headers and logs; no secret."""
    return f"req-{random.getrandbits(96):024x}"


class Line(Protocol):
    """The connection as an exchange sees it (protocol.Connection)."""

    peer: str
    loop: asyncio.AbstractEventLoop

    @property
    def date_line(self) -> bytes:
        """Of every answer."""

    @property
    def is_full(self) -> bool:
        """Whether the client must read before more is written."""

    @property
    def is_unfinished(self) -> bool:
        """Whether there is a rest of the request that nobody will read."""

    def write(self, data: bytes, *, is_last: bool) -> None: ...
    async def drain(self) -> None: ...
    def close_exchange(self, keeps_alive: bool) -> None: ...


class Exchange:
    """`path_name` is what the route's pattern matched; `principal` is set once the caller is known, `dialect` once the
    route is. `encode_failure`: how an error ends a stream, where that is not as in a response.
    """

    __slots__ = (
        "_body", "_error", "_head_lines", "_is_chunked", "_line", "_news", "client", "code", "dialect",
        "encode_failure", "fields", "has_left", "head", "is_over", "keeps_alive", "model", "num_sent", "path_name",
        "principal", "repository", "request_id", "reread", "status", "stored", "usage", "work",
    )  # fmt: skip

    def __init__(self, line: Line, head: Head) -> None:
        self._line = line
        self.client = line.peer  # whom a trusted proxy asks for, else the peer
        self.head = head
        self.fields = head.found  # the headers by name; of those sent twice, the last
        self.keeps_alive = head.keeps_alive
        self.work: Work | None = None
        self.has_left = False  # the client closed the connection: then the work was cancelled
        self._body: bytes | None = None
        self._error: TriposError | None = None  # why the body is not to be had
        self._news: asyncio.Future[None] | None = None
        self._is_chunked = False
        given = head.found.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            self.request_id = given.decode()
        else:
            self.request_id = new_request_id()
        self._head_lines = b"x-request-id: %b\r\n" % self.request_id.encode()
        self.stored: ResponseStore  # the app's, as these:
        self.reread: Callable[[], Awaitable[dict[str, Any]]]
        self.repository: ModelRepository | None
        self.dialect: Dialect = OPENAI
        self.encode_failure: Callable[[TriposError], list[Any]] | None = None
        self.principal = ""
        self.path_name = ""
        self.model = ""  # for the log: a served name or nothing
        self.status = 0  # 0: not answered yet
        self.num_sent = 0
        self.code = ""  # of the error that the client got
        self.usage: Usage | None = None  # of the calls that finished, added up
        self.is_over = False

    # -- for the connection -------------------------------------------------------------------------------------------
    def take_body(self, data: bytes) -> None:
        self._body = data
        self._wake()

    def fail_body(self, error: TriposError) -> None:
        """The body cannot be had: `read_body` raises."""
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
        return self._line.peer

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
        """The JSON body. Raises RequestTooLarge, RequestTimeout, LengthRequired, UnsupportedMediaType, ClientLeft."""
        self._check_body_headers()
        if self.head.waits and self._body is None:
            self.head.waits = False
            self._line.write(b"HTTP/1.1 100 Continue\r\n\r\n", is_last=False)
        while not self.has_left:
            if self._error is not None:
                raise self._error
            if self._body is not None:
                return self._body
            self._news = self._line.loop.create_future()
            await self._news
        raise ClientLeft

    def _check_body_headers(self) -> None:
        fields = self.fields
        if b"content-length" not in fields and b"transfer-encoding" not in fields:
            raise LengthRequired("send a Content-Length, or a chunked body")
        if b"content-encoding" in fields and self.header(b"content-encoding") != b"identity":
            raise UnsupportedMediaType("a compressed body is not accepted: leave Content-Encoding out")
        given = self.header(b"content-type")
        if given == JSON:
            return
        kind, _, rest = (given or b"").partition(b";")
        charset = rest.strip().lower().replace(b'"', b"")
        is_json = kind.strip().lower() == JSON
        if is_json and charset in (b"", b"charset=utf-8"):
            return
        if is_json or self.dialect.needs_type or not self.is_program:
            raise UnsupportedMediaType("send Content-Type: application/json")

    @property
    def is_program(self) -> bool:
        """Whether no web page sent this. A page may send a body that does not say that it is JSON to any server, and
        without being asked about it first; its browser then names the page.
        """
        return b"origin" not in self.fields and self.fields.get(b"sec-fetch-site", b"none") == b"none"

    # -- the response -------------------------------------------------------------------------------------------------
    def add_header(self, line: bytes) -> None:
        """To a response that has not begun; `line`: with its CR LF."""
        self._head_lines += line

    def answer(self, status: int, body: bytes, content_type: bytes = JSON) -> None:
        """The whole response."""
        self.status = status
        self._write(self._begin(content_type, b"content-length: %d\r\n" % len(body)), body, is_last=True)

    def answer_json(self, value: Any, status: int = 200) -> None:
        self.answer(status, encode(value))

    def stream(self, values: Iterable[Any]) -> None:
        """More of a stream, in the dialect's framing. When the line `is_full`, `drain` before there is more."""
        data = self.dialect.frame(values)  # which may raise, while there is still time for an answer that says so
        head = b"" if self.status else self._begin_stream()
        self._write(head, data, is_last=False)

    @property
    def is_full(self) -> bool:
        """Whether the client must read before more is streamed."""
        return self._line.is_full and not self.has_left

    async def drain(self) -> None:
        """Until the client has read enough. It may leave instead."""
        await self._line.drain()

    def end_stream(self, values: Iterable[Any]) -> None:
        """The last values of a stream that went well."""
        data = self.dialect.frame(values) + self.dialect.end
        head = b"" if self.status else self._begin_stream()
        self._write(head, data, is_last=True)

    def fail(self, error: TriposError) -> None:
        """The error contract: a response, or the last event of a stream that has begun."""
        self.code = error.code
        if self.is_over:
            return
        if self.status:
            last = self.encode_failure(error) if self.encode_failure else [self._encode_error(error)]
            self._write(b"", self.dialect.frame(last), is_last=True)
            return
        if error.retry_after_s is not None or error.status in (429, 503):
            # Drawn, so that they do not all come back at once.
            wait_s = (error.retry_after_s or 1.0) * random.uniform(1.0, 1.5)
            wait = max(1, round(wait_s)), max(1, round(wait_s * 1e3))
            self.add_header(b"retry-after: %d\r\nretry-after-ms: %d\r\n" % wait)
        if error.status >= 400:
            self.add_header(b"x-should-retry: %b\r\n" % (b"true" if error.is_retryable else b"false"))
        self.answer_json(self._encode_error(error), error.status)

    def add_usage(self, usage: Usage) -> None:
        """For the log: what a call took."""
        if (sofar := self.usage) is not None:
            usage = Usage(
                prompt_tokens=sofar.prompt_tokens + usage.prompt_tokens,
                cached_tokens=sofar.cached_tokens + usage.cached_tokens,
                output_tokens=sofar.output_tokens + usage.output_tokens,
            )
        self.usage = usage

    def close_log(self) -> None:
        """For the log, when the client has left: nobody waits for the rest."""
        self.status = self.status or 499
        self.code = self.code or "client_left"

    def _encode_error(self, error: TriposError) -> dict[str, Any]:
        return self.dialect.encode_error(error, self.request_id)

    def _begin_stream(self) -> bytes:
        self.status = 200
        if self.head.version == "1.1":
            self._is_chunked = True
            return self._begin(self.dialect.stream_type, b"transfer-encoding: chunked\r\n" + _NO_BUFFER)
        self.keeps_alive = False
        return self._begin(self.dialect.stream_type, _NO_BUFFER)

    def _begin(self, content_type: bytes, lines: bytes) -> bytes:
        """The response's head. The rest of a request that nobody reads ends the connection."""
        line = self._line
        if line.is_unfinished:
            self.keeps_alive = False
        end = b"\r\n"
        if not self.keeps_alive:
            end = b"connection: close\r\n\r\n"
        elif self.head.version == "1.0":
            end = b"connection: keep-alive\r\n\r\n"
        status_line = STATUS_LINES[self.status]
        return b"%b%bcontent-type: %b\r\n%b%b%b" % (
            status_line, line.date_line, content_type, lines, self._head_lines, end,
        )  # fmt: skip

    def _write(self, head: bytes, data: bytes, *, is_last: bool) -> None:
        """A head goes out with what follows it."""
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
        if head or data:
            self._line.write(head + data if head else data, is_last=is_last)
        if is_last:
            self._line.close_exchange(self.keeps_alive)
