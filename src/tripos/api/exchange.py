"""One HTTP exchange: the request with its bounded body, and the response, written once.

Owns what is the same for every endpoint: request id, headers, JSON and error bodies, the listener for a client that
leaves. Knows no endpoint.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import secrets
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from tripos.api.dialect import OPENAI, Dialect
from tripos.api.stored import ResponseStore
from tripos.errors import InvalidRequest, RequestTimeout, RequestTooLarge, TriposError
from tripos.wire.json import encode

MAX_BODY_BYTES = 8 * 2**20
BODY_GRACE_S = 10.0
MIN_BODY_BYTES_PER_S = 1024
MAX_BODY_S = 120.0
MAX_DISCARD_BYTES, DISCARD_S = 2 * MAX_BODY_BYTES, 2.0  # of a body that is refused
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


class Exchange:
    """`path_name` is what the route's pattern matched; `principal` is set once the caller is known, `dialect` once the
    route is. `encode_failure`: how an error ends a stream, where that is not as in a response.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send, stored: ResponseStore) -> None:
        self.scope = scope
        self.stored = stored
        self._receive = receive
        self._send = send
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

    def header(self, name: bytes) -> bytes | None:
        """The one value of a header. Raises InvalidRequest (invalid_http) when it was sent twice."""
        found = [value for key, value in self.scope["headers"] if key == name]
        if len(found) > 1:
            raise InvalidRequest(f"the header {name.decode()} was sent twice", code="invalid_http")
        return found[0] if found else None

    async def read_body(self) -> bytes:
        """The JSON body. Raises RequestTooLarge, RequestTimeout, LengthRequired, UnsupportedMediaType, ClientLeft."""
        await self._check_body_headers()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        parts: list[bytes] = []
        num_bytes = 0
        while True:
            allowed_s = min(BODY_GRACE_S + num_bytes / MIN_BODY_BYTES_PER_S, MAX_BODY_S)
            try:
                async with asyncio.timeout_at(began_s + allowed_s):
                    message = await self._receive()
            except TimeoutError:
                self.headers.append((b"connection", b"close"))
                raise RequestTimeout(f"only {num_bytes} bytes of the body came in {allowed_s:.0f} s") from None
            if message["type"] == "http.disconnect":
                raise ClientLeft
            parts.append(message.get("body", b""))
            num_bytes += len(parts[-1])
            if num_bytes > MAX_BODY_BYTES:
                await self._discard()
                raise self._too_large()
            if not message.get("more_body"):
                return b"".join(parts)

    async def work(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run `coroutine`, and cancel it when the client leaves. Raises what it raises, and ClientLeft."""
        task = asyncio.create_task(coroutine)
        listener = asyncio.create_task(self._listen())
        try:
            await asyncio.wait((task, listener), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientLeft
        finally:
            for each in (task, listener):
                each.cancel()
            await asyncio.wait((task, listener))
        task.result()

    async def answer(self, status: int, body: bytes, content_type: bytes = JSON) -> None:
        """The whole response."""
        length = (b"content-length", str(len(body)).encode())
        await self._start(status, [(b"content-type", content_type), length, *self.headers])
        await self._write(body, is_last=True)

    async def answer_json(self, value: Any, status: int = 200) -> None:
        await self.answer(status, encode(value))

    async def stream(self, values: Iterable[Any]) -> None:
        """More of a stream, in the dialect's framing."""
        await self._start_stream()
        await self._write(self.dialect.frame(values), is_last=False)

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

    async def _listen(self) -> None:
        """Returns when the client has left."""
        while True:
            message: Message = await self._receive()
            if message["type"] == "http.disconnect":
                return

    def _read_request_id(self) -> str:
        for key, value in self.scope["headers"]:
            if key == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                return str(value.decode())
        return f"req-{secrets.token_hex(12)}"

    async def _check_body_headers(self) -> None:
        length, coding = self.header(b"content-length"), self.header(b"transfer-encoding")
        if length is None and coding is None:
            raise LengthRequired("send a Content-Length, or a chunked body")
        if length is not None and coding is not None:
            self.headers.append((b"connection", b"close"))
            raise InvalidRequest("Content-Length and Transfer-Encoding were both sent", code="invalid_http")
        if length is not None and int(length) > MAX_BODY_BYTES:
            await self._discard()
            raise self._too_large()
        if self.header(b"content-encoding") not in (None, b"identity"):
            raise UnsupportedMediaType("a compressed body is not accepted: leave Content-Encoding out")
        kind, _, rest = (self.header(b"content-type") or b"").partition(b";")
        charset = rest.strip().lower().replace(b'"', b"")
        if kind.strip().lower() != JSON or charset not in (b"", b"charset=utf-8"):
            raise UnsupportedMediaType("send Content-Type: application/json")

    async def _discard(self) -> None:
        """Read on for a moment: a client that is still sending when we close would not see the answer."""
        if self.header(b"expect") is not None:
            return  # it waits for our word
        num_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S):
                while num_bytes < MAX_DISCARD_BYTES:
                    message = await self._receive()
                    num_bytes += len(message.get("body", b""))
                    if not message.get("more_body"):
                        return

    def _too_large(self) -> RequestTooLarge:
        self.headers.append((b"connection", b"close"))
        return RequestTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
