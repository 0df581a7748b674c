"""uvicorn's connection with bounds that it lacks: size of the head, time to send it, number of connections."""

from __future__ import annotations

import asyncio
import secrets
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tripos.wire.json import encode

MAX_HEAD_BYTES = 24 * 1024  # request line and headers; the app knows the exact limits
HEAD_S = 10.0
LINGER_S = 1.0


class BoundedProtocol(HttpToolsProtocol):
    """Closes connections whose request head is too large or too slow. Errors have the usual body."""

    _num_head_bytes = 0
    _is_head_open = True
    _is_refused = False
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._is_head_open:
            self._num_head_bytes += len(data)
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(HEAD_S, self._head_timed_out)
        super().data_received(data)
        if self._is_head_open and self._num_head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(431, "headers_too_large", f"the request's head is larger than {MAX_HEAD_BYTES} bytes")

    def on_headers_complete(self) -> None:
        self._is_head_open = False
        self._stop_timer()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._is_head_open = True
        self._num_head_bytes = 0

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "invalid_http", "the request is not valid HTTP/1.1")

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self._head_timed_out)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_timed_out(self) -> None:
        self._refuse(408, "request_timeout", f"the request's head did not come within {HEAD_S:.0f} s")

    def _refuse(self, status: int, code: str, message: str) -> None:
        """The error and the end of the connection; only the end when another answer is being written."""
        self._stop_timer()
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
            body = encode({"error": error})
            head = (
                f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: application/json\r\n"
                f"x-request-id: req-{secrets.token_hex(12)}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self._is_refused = True
            self.transport.write(head.encode() + body)
            self.transport.write_eof()
            # Closing with bytes unread resets the connection, and the client would not see why.
            self._head_timer = self.loop.call_later(LINGER_S, self.transport.close)
        else:
            self.transport.close()


_PHRASES = {status: HTTPStatus(status).phrase for status in (400, 408, 431)}
