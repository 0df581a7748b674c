"""A client's connection: requests in, one after the other, each to the ASGI application, and its answer out.

Owns time and flow: how long a head or a body may take, how long an unread answer is kept, what happens when the client
leaves: the task that works for it is cancelled. Framing is framing.py's, the number of connections gate.py's.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, cast

from starlette.types import ASGIApp, Message, Scope
from uvicorn.config import Config
from uvicorn.server import ServerState

from tripos.api import access_log
from tripos.api.exchange import new_request_id
from tripos.api.framing import Body, Head, HeadReader
from tripos.api.gate import Gate
from tripos.errors import Overloaded, RequestTimeout, TriposError
from tripos.wire.json import encode
from tripos.wire.openai.errors import encode_error

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
NEVER = float("inf")

_STATUS_LINES = {each.value: f"HTTP/1.1 {each.value} {each.phrase}\r\n".encode() for each in HTTPStatus}


class Connection(asyncio.Protocol):
    """Made by uvicorn's server for each client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        gate: Gate,
    ) -> None:
        self._app = cast("ASGIApp", config.loaded_app)
        self._server_state = server_state
        self.loop = _loop or asyncio.get_running_loop()
        self._gate = gate
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made
        self.peer = ""
        self._buffer = bytearray()  # read, and not yet understood
        self._reader = HeadReader()
        self._body: Body | None = None  # that is being read
        self._turn: Turn | None = None  # that is being answered
        self._unsent: list[bytes] = []  # written since the loop last turned
        self._room: asyncio.Future[None] | None = None  # set while the client does not read
        self._is_ending = False  # what still comes is not read
        self._num_discarded = 0
        self._num_unsent = 0  # when the client's reading was looked at last
        self._read_began_s = 0.0
        self._read_deadline_s = NEVER
        self._write_deadline_s = NEVER

    # -- what the transport says ----------------------------------------------------------------------------------
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=MAX_UNSENT_BYTES)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else ""
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # it wants shutdown() only
        self._read_deadline_s = self.loop.time() + HEAD_S
        if not self._gate.enter(self):
            if self._gate.refuse(self):
                self._refuse(Overloaded("too many connections: try again later", retry_after_s=1.0))
            else:
                self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_ending:
            self._num_discarded += len(data)
            if self._num_discarded > MAX_DISCARD_BYTES:
                self.transport.abort()
            return
        if self._turn is None and not self._buffer:
            self._read_deadline_s = self.loop.time() + HEAD_S
        self._buffer += data
        self._advance()

    def eof_received(self) -> None:
        """A client that closes its side has left; the transport closes ours."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._gate.leave(self)
        self._server_state.connections.discard(self)
        self.resume_writing()
        if self._turn is not None:
            self._turn.leave()

    def pause_writing(self) -> None:
        self._room = self.loop.create_future()
        self._num_unsent = self.transport.get_write_buffer_size()
        self._write_deadline_s = self.loop.time() + STALL_S

    def resume_writing(self) -> None:
        self._write_deadline_s = NEVER
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    # -- what others say ------------------------------------------------------------------------------------------
    def shutdown(self) -> None:
        """The server closes: an answer that is being made is the last."""
        if self._turn is None:
            self._end()
            return
        self._turn.keeps_alive = False
        task = self._turn.task
        if task is not None:  # whom the server cancels when its patience is over
            self._server_state.tasks.add(task)
            task.add_done_callback(self._server_state.tasks.discard)

    def expire(self, now_s: float) -> None:
        """End what has waited too long. `now_s`: of the loop's clock."""
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
            elif self._buffer:
                self._refuse(RequestTimeout(f"the request's head did not come within {HEAD_S:.0f} s"))
            elif not self.transport.get_write_buffer_size():
                self._end()

    def write(self, data: bytes, *, is_last: bool) -> None:
        """Part of an answer. What is written in one turn of the loop, say of one engine step, is sent at once."""
        unsent = self._unsent
        if is_last or len(unsent) == MAX_UNSENT_PARTS:
            unsent.append(data)
            self._flush()
        else:
            if not unsent:
                self.loop.call_soon(self._flush)
            unsent.append(data)

    def _flush(self) -> None:
        unsent = self._unsent
        if unsent:
            self.transport.write(unsent[0] if len(unsent) == 1 else b"".join(unsent))
            unsent.clear()

    async def drain(self) -> None:
        """Until the client has read enough. It may leave instead; its turn knows."""
        if self._room is not None:
            await asyncio.shield(self._room)

    @property
    def is_full(self) -> bool:
        """Whether the client must read before more is written."""
        return self._room is not None

    @property
    def is_unfinished(self) -> bool:
        """Whether there is a rest of the request that nobody will read."""
        return self._body is not None or self._is_ending

    def date_fields(self) -> list[tuple[bytes, bytes]]:
        """uvicorn renews them each second."""
        return self._server_state.default_headers

    def close_turn(self, keeps_alive: bool) -> None:
        """The answer is written: on to the next request, or the end."""
        self._turn = None
        if self.is_unfinished or not keeps_alive:
            self._end(lingers=self.is_unfinished)
            return
        now_s = self.loop.time()
        self._read_deadline_s = now_s + (HEAD_S if self._buffer else IDLE_S)
        if self._buffer:
            self.transport.resume_reading()
            self.loop.call_soon(self._advance)

    # -- the machine ----------------------------------------------------------------------------------------------
    def _advance(self) -> None:
        """Understand as much of the buffer as may be understood now."""
        if self.transport.is_closing() or self._is_ending:
            return
        try:
            while True:
                if self._body is None:
                    if self._turn is not None:  # its answer comes first
                        if len(self._buffer) > MAX_AHEAD_BYTES:
                            self.transport.pause_reading()
                        return
                    head = self._reader.read(self._buffer)
                    if head is None:
                        return
                    self._begin(head)
                body, turn = self._body, self._turn
                if body is None or turn is None or not body.feed(self._buffer):
                    return
                self._body = None
                self._read_deadline_s = NEVER
                turn.take_body(body.data)
        except TriposError as error:
            self._refuse(error)

    def _begin(self, head: Head) -> None:
        """A request's head is there: from here on somebody works for it."""
        if head.length:
            self._read_began_s = self.loop.time()
            self._read_deadline_s = self._read_began_s + BODY_GRACE_S
        self._body = Body(head.length)
        self._turn = turn = Turn(self, head)
        run = cast("Any", self._app(turn.scope, turn.receive, turn.send))
        turn.task = self.loop.create_task(run)

    def _expire_body(self, body: Body, now_s: float) -> None:
        allowed_s = min(BODY_GRACE_S + body.num_bytes / MIN_BODY_BYTES_PER_S, MAX_BODY_S)
        if now_s < self._read_began_s + allowed_s:
            self._read_deadline_s = self._read_began_s + allowed_s
        else:
            self._refuse(RequestTimeout(f"only {body.num_bytes} bytes of the body came in {allowed_s:.0f} s"))

    def _refuse(self, error: TriposError) -> None:
        """No more is read. The request whose body it is gets the error; one without a turn is answered here."""
        self._is_ending = True
        self._buffer.clear()
        if self._turn is not None:
            self._turn.fail_body(error)
            return
        request_id = new_request_id()
        body = encode(encode_error(error))
        retry = b"" if error.retry_after_s is None else b"retry-after: %d\r\n" % max(1, round(error.retry_after_s))
        head = (
            b"%bcontent-type: application/json\r\nx-request-id: %b\r\n%bcontent-length: %d\r\nconnection: close\r\n\r\n"
        )
        line = _STATUS_LINES[error.status]
        self.transport.write(head % (line, request_id.encode(), retry, len(body)) + body)
        access_log.write_refusal(request_id, error, len(body))
        self._end(lingers=True)

    def _end(self, *, lingers: bool = False) -> None:
        """Close; first hear a client out that is still sending, lest the reset of an early close hide the answer."""
        if self.transport.is_closing():
            return
        self._flush()
        self._is_ending = True
        self._num_unsent = self.transport.get_write_buffer_size()
        self._read_deadline_s = self.loop.time() + LINGER_S
        if lingers:
            self.transport.resume_reading()
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


class Turn:
    """One request and its answer: the scope, receive and send of an ASGI application.

    The body is handed over whole. When the client leaves, `task` is cancelled and `has_left` says why.
    """

    __slots__ = ("_body", "_chunked", "_connection", "_error", "_head", "_is_asked", "_is_over", "_news", "_start",
                 "has_left", "keeps_alive", "scope", "task")  # fmt: skip

    def __init__(self, connection: Connection, head: Head) -> None:
        self._connection = connection
        self._head = head
        self._body: bytes | None = None
        self._error: TriposError | None = None
        self._news: asyncio.Future[None] | None = None
        self._start: Message | None = None
        self._chunked = False
        self._is_asked = False  # for the body
        self._is_over = False
        self.keeps_alive = head.keeps_alive
        self.has_left = False
        self.task: asyncio.Task[None] | None = None
        self.scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": head.version,
            "method": head.method,
            "scheme": "http",
            "path": head.decoded_path,
            "raw_path": head.path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.fields,
            "client": (connection.peer, 0),
            "server": None,
            "extensions": {"tripos": self},
        }

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The headers by name; of those sent twice, the last."""
        return self._head.found

    # -- for the connection ---------------------------------------------------------------------------------------
    def take_body(self, data: bytes) -> None:
        self._body = data
        self._wake()

    def fail_body(self, error: TriposError) -> None:
        """The body cannot be had: `receive` raises."""
        self._error = error
        self._wake()

    def leave(self) -> None:
        self.has_left = True
        self._wake()
        if self.task is not None:
            self.task.cancel()

    # -- for the application --------------------------------------------------------------------------------------
    async def receive(self) -> Message:
        """The whole body, then word that the client has left. Raises TriposError when the body is not to be had."""
        if self._head.waits and self._body is None and not self._is_over:
            self._head.waits = False
            self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self.has_left:
            if self._error is not None:
                raise self._error
            if self._body is not None and not self._is_asked:
                self._is_asked = True
                return {"type": "http.request", "body": self._body, "more_body": False}
            self._news = self._connection.loop.create_future()
            await self._news
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """A start is kept until its first body, so that both are one write. Waits while the client does not read."""
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self.has_left or self._is_over:
            return
        connection, data = self._connection, message.get("body", b"")
        is_last = not message.get("more_body", False)
        begun = b""
        if self._start is not None:
            begun, self._start = self._encode_start(self._start, is_last), None
        if self._head.method == "HEAD":
            data = b""
        elif self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            if is_last:
                data += b"0\r\n\r\n"
        if begun or data:
            connection.write(begun + data if begun else data, is_last=is_last)
        if is_last:
            self._is_over = True
            connection.close_turn(self.keeps_alive)
        elif connection.is_full:
            await connection.drain()

    def _encode_start(self, message: Message, is_last: bool) -> bytes:
        status, fields = message["status"], message["headers"]
        lines = [_STATUS_LINES[status], *[b"%b: %b\r\n" % field for field in self._connection.date_fields()]]
        has_length = False
        for name, value in fields:
            if name == b"content-length":
                has_length = True
            lines.append(b"%b: %b\r\n" % (name, value))
        if not has_length:
            if self._head.version == "1.1":
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
            else:
                self.keeps_alive = False
        if self._connection.is_unfinished:  # the rest of the body is not read
            self.keeps_alive = False
        if not self.keeps_alive:
            lines.append(b"connection: close\r\n")
        elif self._head.version == "1.0":
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)
