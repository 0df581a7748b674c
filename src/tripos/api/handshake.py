"""A client's connection until TLS is spoken on it; then a Connection goes on.

It takes its place at the gate when it is accepted: who connects and says nothing holds a descriptor as everybody else
does, and for no longer than a request's head may take.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from typing import Any

from uvicorn.config import Config
from uvicorn.server import ServerState

from tripos.api.gate import Gate
from tripos.api.protocol import HEAD_S, Connection


class Handshake(asyncio.Protocol):
    """Made by uvicorn's server for each client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        gate: Gate,
        context: ssl.SSLContext,
        idle_s: float | None = None,
    ) -> None:
        self._loop = _loop or asyncio.get_running_loop()
        self._connection = _Behind(config, server_state, app_state, self._loop, gate=gate, idle_s=idle_s)
        self._connection.handshake = self
        self._server_state = server_state
        self._gate = gate
        self._context = context
        self._task: asyncio.Task[None] | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if isinstance(peer, tuple) else ""
        try:
            # The transport would begin to read, and what it read would be lost: so it gives its socket away and ends.
            accepted = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        except OSError:  # no descriptor is left
            return
        finally:
            transport.close()
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # it wants shutdown() only
        if not self._gate.enter(self):
            self._gate.wait_outside(self)
        self._task = self._loop.create_task(self._shake_hands(accepted))

    async def _shake_hands(self, accepted: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):  # it is no TLS, too slow, or gone; SSLError is one
                await self._loop.connect_accepted_socket(
                    lambda: self._connection, accepted, ssl=self._context, ssl_handshake_timeout=HEAD_S
                )
        finally:
            self.end()

    def end(self) -> None:
        """Leave the place, to the Connection or nobody. Idempotent."""
        self._gate.leave(self)
        self._server_state.connections.discard(self)

    def expire(self, now_s: float) -> None:
        """The handshake has a deadline of its own."""

    def abort(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def shutdown(self) -> None:
        """The server closes."""
        self.abort()


class _Behind(Connection):
    """A Connection that takes the place of its handshake."""

    handshake: Handshake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.handshake.end()
        super().connection_made(transport)
