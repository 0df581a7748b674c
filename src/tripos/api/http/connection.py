"""A client's connection: requests in, one after the other, each to the application, and its response out.

Owns time and flow: how long a head or a body may take, how long an unread response is kept, what happens when the
client leaves: the work for it is cancelled. framing.py and body.py read requests, exchange.py writes responses,
connection_limit.py counts connections.
"""

from __future__ import annotations

import asyncio
import ssl
from random import getrandbits
from typing import Any, cast

from uvicorn.config import Config
from uvicorn.server import ServerState

from tripos.api.http.body import Body
from tripos.api.http.connection_limit import ConnectionLimit
from tripos.api.http.exchange import STATUS_LINES, Application, Exchange
from tripos.api.http.framing import Head, HeadReader
from tripos.api.http.work import Work
from tripos.errors import Overloaded, RequestTimeout, TriposError
from tripos.wire.errors import encode_openai_error
from tripos.wire.json import encode

HEAD_S = 10.0  # for a request's head, from its first byte
IDLE_S = 15.0  # between requests
BODY_GRACE_S = 10.0
MIN_BODY_BYTES_PER_S = 1024
MAX_BODY_S = 120.0
STALL_S = 30.0  # without a byte of the answer read, then it is cut off
LINGER_S = 2.0  # for a client that is still sending when it is refused: closing at once would hide the answer
MAX_DISCARD_BYTES = 16 * 2**20  # meanwhile
MAX_UNSENT_BYTES = 128 * 1024  # per connection, here; the kernel holds as much (server.SEND_BUFFER_BYTES)
MAX_UNSENT_PARTS = 64  # kept until the loop turns
MAX_AHEAD_BYTES = 64 * 1024  # of requests sent before the answer to the last
PROBE_S = 1.0  # for the head of a probe, when the limit on connections is reached
PROBES = frozenset({"/livez", "/readyz", "/health", "/metrics"})  # paths that are answered then, too
NEVER = float("inf")


_dates: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")  # what uvicorn renews each second, and its line


class Connection(asyncio.Protocol):
    """Made by uvicorn's server for each client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limit: ConnectionLimit,
        idle_s: float | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`idle_s`: a client may be idle for so long between requests; None: IDLE_S. `tls`: what is spoken first."""
        self.app = cast("Application", config.loaded_app)
        self._server_state = server_state
        self.loop = _loop or asyncio.get_running_loop()
        self._limit = limit
        self._idle_s = IDLE_S if idle_s is None else idle_s
        self._tls = tls
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self.peer = ""
        self._buffer = bytearray()  # read, and not yet understood
        self._reader = HeadReader()
        self._body: Body | None = None  # that is being read
        self._exchange: Exchange | None = None  # that is being answered
        self._unsent: list[bytes] = []  # written since the loop last turned
        self.is_full = False  # the client must read before more is written, as _writable says:
        self._writable: asyncio.Future[None] | None = None
        self._is_probe_only = False  # the limit was reached: only probes are answered
        self._is_ending = False  # what still comes is not read
        self._num_discarded = 0
        self._num_unsent = 0  # when the client's reading was looked at last
        self._read_began_s = 0.0
        self._read_deadline_s = NEVER
        self._write_deadline_s = NEVER

    # -- what the transport says --------------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # it wants shutdown() only
        self._read_deadline_s = self.loop.time() + HEAD_S
        if not self._limit.admit(self):
            self._is_probe_only = True
            self._read_deadline_s = self.loop.time() + PROBE_S
            self._limit.admit_probe(self)
        if self._tls is not None:  # counted by the limit already
            Work(self.loop, self._speak_tls(self._tls)).start()  # at once: what comes first is for TLS

    async def _speak_tls(self, context: ssl.SSLContext) -> None:
        """Starts TLS on the connection. One whose handshake fails is closed without a response."""
        raw = self.transport
        try:
            transport = await self.loop.start_tls(raw, self, context, server_side=True, ssl_handshake_timeout=HEAD_S)
        except OSError:  # TLS's own errors, a reset, a handshake that takes too long
            transport = None
        if transport is None:
            raw.abort()
            self.connection_lost(None)
            return
        self.transport = transport
        transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        self._read_deadline_s = self.loop.time() + (PROBE_S if self._is_probe_only else HEAD_S)

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            self._num_discarded += len(data)
            if self._num_discarded > MAX_DISCARD_BYTES:
                self.transport.abort()
            return
        if self._exchange is None and not self._buffer and not self._is_probe_only:
            self._read_deadline_s = self.loop.time() + HEAD_S
        self._buffer += data
        self._advance()

    def eof_received(self) -> None:
        """A client that closes its side has left; the transport closes ours."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._limit.release(self)
        self._unsent.clear()
        self._server_state.connections.discard(self)
        self.resume_writing()
        if self._exchange is not None:
            self._exchange.leave()

    def pause_writing(self) -> None:
        self.is_full, self._writable = True, self.loop.create_future()
        self._num_unsent = self.transport.get_write_buffer_size()
        self._write_deadline_s = self.loop.time() + STALL_S

    def resume_writing(self) -> None:
        self._write_deadline_s = NEVER
        self.is_full = False
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            writable.set_result(None)

    # -- what the server and the exchange say -------------------------------------------------------------------------
    def shutdown(self) -> None:
        """The server closes: the response that is being made is the last."""
        if self._exchange is None:
            self._end()
            return
        self._exchange.keeps_alive = False
        work = self._exchange.work
        if work is not None and (task := work.task) is not None:  # uvicorn cancels it after its shutdown timeout
            self._server_state.tasks.add(task)
            task.add_done_callback(self._server_state.tasks.discard)

    def expire(self, now_s: float) -> None:
        """Ends what has waited too long. `now_s`: of the loop's clock."""
        if now_s >= self._write_deadline_s:
            self._write_deadline_s = now_s + STALL_S
            if not self._is_being_read():
                self.transport.abort()
        elif now_s >= self._read_deadline_s:
            self._read_deadline_s = now_s + LINGER_S
            if self._is_ending:
                self._end_at_last()
            elif self._body is not None:
                self._expire_body(self._body, now_s)
            elif self._is_probe_only:
                self._refuse(_too_many())
            elif self._buffer:
                self._refuse(RequestTimeout(f"the request's head did not come within {HEAD_S:.0f} s"))
            elif not self.transport.get_write_buffer_size():
                self._end()

    def abort(self) -> None:
        self.transport.abort()

    def write(self, data: bytes) -> None:
        """Part of a response. What is written in one turn of the loop, such as one engine step, is sent at once."""
        unsent = self._unsent
        unsent.append(data)
        if len(unsent) == 1:
            self.loop.call_soon(self._flush)
        elif len(unsent) > MAX_UNSENT_PARTS:
            self._flush()

    def _flush(self) -> None:
        unsent = self._unsent
        if unsent and self.transport.is_closing():  # the client has left; uvloop would raise
            unsent.clear()
        elif unsent:
            self.transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))
            unsent.clear()

    def finish(self, data: bytes, keeps_alive: bool) -> None:
        """The last part of a response; then the next request is read, or the connection ends."""
        self._unsent.append(data)
        self._flush()
        self._exchange = None
        transport = self.transport
        if transport.is_closing():
            return
        if self._body is not None or self._is_ending or not keeps_alive:
            self._end(lingers=self.is_unfinished)
            return
        now_s = self.loop.time()
        self._read_deadline_s = now_s + (HEAD_S if self._buffer else self._idle_s)
        if self._buffer:
            transport.resume_reading()
            self.loop.call_soon(self._advance)

    async def drain(self) -> None:
        """Until the client has read enough. It may leave instead: then its exchange says so."""
        if self._writable is not None:
            await asyncio.shield(self._writable)

    @property
    def is_unfinished(self) -> bool:
        """Whether a rest of the request will not be read."""
        return self._body is not None or self._is_ending

    @property
    def date_line(self) -> bytes:
        global _dates
        fields = self._server_state.default_headers
        if _dates[0] is not fields:
            _dates = fields, b"".join([b"%b: %b\r\n" % field for field in fields])
        return _dates[1]

    # -- reading requests ---------------------------------------------------------------------------------------------
    def _advance(self) -> None:
        """Reads as much of the buffer as may be read now."""
        if self.transport.is_closing() or self._is_ending:
            return
        try:
            if self._body is not None:
                self._feed(self._body)
            elif self._exchange is None:
                head = self._reader.read(self._buffer)
                if head is not None:
                    if self._is_probe_only and (head.decoded_path not in PROBES or head.method not in ("GET", "HEAD")):
                        raise _too_many()
                    self._begin(head)
            if self._exchange is not None and self._body is None and len(self._buffer) > MAX_AHEAD_BYTES:
                self.transport.pause_reading()  # its answer comes first
        except TriposError as error:
            self._refuse(error)

    def _begin(self, head: Head) -> None:
        """A request's head is complete: the application begins, with what there is of the body."""
        self._exchange = exchange = Exchange(self, head)
        if self._is_probe_only:
            exchange.keeps_alive = False
        buffer, length = self._buffer, head.length
        if 0 <= length <= len(buffer):
            exchange.body = bytes(buffer[:length])
            del buffer[:length]
            self._read_deadline_s = NEVER
        else:
            self._body = body = Body(length)
            self._read_began_s = self.loop.time()
            self._read_deadline_s = self._read_began_s + BODY_GRACE_S
            try:
                self._feed(body)
            except TriposError as error:
                self._refuse(error)
        exchange.work = work = Work(self.loop, self.app(exchange))
        work.start()

    def _feed(self, body: Body) -> None:
        """Raises InvalidRequest, RequestTooLarge."""
        if self._exchange is not None and body.feed(self._buffer):
            self._body = None
            self._read_deadline_s = NEVER
            self._exchange.take_body(body.data)

    def _expire_body(self, body: Body, now_s: float) -> None:
        allowed_s = min(BODY_GRACE_S + body.num_bytes / MIN_BODY_BYTES_PER_S, MAX_BODY_S)
        if now_s < self._read_began_s + allowed_s:
            self._read_deadline_s = self._read_began_s + allowed_s
        else:
            self._refuse(RequestTimeout(f"only {body.num_bytes} bytes of the body came in {allowed_s:.0f} s"))

    def _refuse(self, error: TriposError) -> None:
        """Nothing more is read. An open exchange gets the error; without one the error is sent from here."""
        self._is_ending = True
        self._buffer.clear()
        if self._exchange is not None:
            self._exchange.fail_body(error)
            return
        if self.transport.is_closing():
            return
        request_id = f"req-{getrandbits(96):024x}"
        body = encode(encode_openai_error(error))
        retry = b"" if error.retry_after_s is None else b"retry-after: %d\r\n" % max(1, round(error.retry_after_s))
        head = (
            b"%bcontent-type: application/json\r\nx-request-id: %b\r\n%bcontent-length: %d\r\nconnection: close\r\n\r\n"
        )
        line = STATUS_LINES[error.status]
        self.transport.write(head % (line, request_id.encode(), retry, len(body)) + body)
        self.app.note_refusal(self.peer, request_id, error, len(body))
        self._end(lingers=True)

    def _end(self, *, lingers: bool = False) -> None:
        """Closes the connection. `lingers`: first reads what the client still sends, since the reset of an early close
        would hide the response.
        """
        if self.transport.is_closing():
            return
        self._flush()
        self._is_ending = True
        self._num_unsent = self.transport.get_write_buffer_size()
        self._read_deadline_s = self.loop.time() + LINGER_S
        if lingers:
            self.transport.resume_reading()
            if self.transport.can_write_eof():  # TLS cannot: its client learns of the end when we close
                self.transport.write_eof()
        else:
            self.transport.close()

    def _end_at_last(self) -> None:
        if not self.transport.get_write_buffer_size():
            self.transport.close()
        elif not self._is_being_read():
            self.transport.abort()

    def _is_being_read(self) -> bool:
        """Whether the client took any of the unsent bytes since the last look."""
        before, self._num_unsent = self._num_unsent, self.transport.get_write_buffer_size()
        return self._num_unsent < before


def _too_many() -> Overloaded:
    return Overloaded("too many connections: try again later", retry_after_s=1.0)
