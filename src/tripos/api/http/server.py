"""Runs the app on a socket: start, signals, graceful drain, stop.

Owns the listening socket and uvicorn's settings. The port is open before the models are there: /livez answers,
everything that needs a model gets 503. SIGTERM or SIGINT drains: /readyz and new requests get 503 at once, those in
flight may finish; then their streams end with an error event. A second signal stops now. SIGHUP reads the
configuration again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Iterator
from functools import partial
from typing import Protocol, cast

import uvicorn

from tripos.api.app import App
from tripos.api.auth import Keys, read_keys
from tripos.api.http.access_log import AccessLog
from tripos.api.http.connection import Connection
from tripos.api.http.connection_limit import ConnectionLimit
from tripos.api.http.cors import Cors
from tripos.api.http.forwarded import Proxies
from tripos.api.http.hosts import allowed_hosts
from tripos.api.http.loopback import is_loopback
from tripos.api.http.tls import Certificate
from tripos.errors import EnvironmentProblem, TriposError
from tripos.repository import ModelRepository
from tripos.service import Service

log = logging.getLogger(__name__)

BACKLOG = 512
SEND_BUFFER_BYTES = 128 * 1024  # what a client that does not read may hold in the kernel
ERROR_EVENT_S = 2.0  # for the last events of streams that were cut off

Load = Callable[[], Awaitable[None]]  # brings a service its first models


class Options(Protocol):
    """The settings of the HTTP door (config.ServerOptions)."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def api_key_file(self) -> str: ...
    @property
    def drain_s(self) -> float: ...
    @property
    def max_connections(self) -> int: ...
    @property
    def max_peer_connections(self) -> int: ...
    @property
    def access_log(self) -> str: ...
    @property
    def unix_socket(self) -> str: ...
    @property
    def tls_cert(self) -> str: ...
    @property
    def tls_key(self) -> str: ...
    @property
    def allowed_hosts(self) -> tuple[str, ...]: ...
    @property
    def cors_origins(self) -> tuple[str, ...]: ...
    @property
    def trusted_proxies(self) -> tuple[str, ...]: ...
    @property
    def keep_alive_s(self) -> float: ...


def serve(
    service: Service,
    options: Options,
    on_ready: Callable[[str], None] | None = None,
    load: Load | None = None,
    repository: ModelRepository | None = None,
) -> bool:
    """Serve until a signal, then drain. `load` brings the models of `repository`, once the port is open; `on_ready` is
    given the address once requests are answered. Returns whether the models were loaded: if not, a thread still loads
    them.

    Raises EnvironmentProblem (address in use, no permission), ConfigError (API keys), and what `load` raises.
    """
    keys = read_keys(options.api_key_file) if options.api_key_file else Keys()
    certificate = Certificate(options.tls_cert, options.tls_key) if options.tls_cert else None
    proxies = Proxies(options.trusted_proxies)
    with _listening(options) as listener:
        is_local = not options.unix_socket and is_loopback(listener.getsockname()[0])
        hosts = allowed_hosts(options.allowed_hosts, is_local)
        limit = ConnectionLimit(options.max_connections, options.max_peer_connections, proxies)
        cors, access = Cors(options.cors_origins), cast("AccessLog", options.access_log)
        app = App(service, keys, hosts, cors, proxies, access, certificate, repository)
        door = Door(service, app, listener, options.drain_s, limit, options.keep_alive_s, load)
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(_run_alone(door, on_ready))


async def _run_alone(door: Door, on_ready: Callable[[str], None] | None) -> bool:
    """Runs in an event loop of our own, which does not track async generators: whoever opens one closes it."""
    sys.set_asyncgen_hooks(firstiter=None)

    def ready(address: str) -> None:
        gc.collect()
        gc.freeze()  # objects that live as long as the server: walking them made a full collection 25 ms long
        if on_ready is not None:
            on_ready(address)

    return await door.run(ready, with_signals=True)


@contextlib.contextmanager
def _listening(options: Options) -> Iterator[socket.socket]:
    """A bound socket; a socket in the file system is removed at the end."""
    if not options.unix_socket:
        with listen(options.host, options.port) as listener:
            yield listener
        return
    with listen_on_path(options.unix_socket) as listener:
        inode = os.stat(options.unix_socket).st_ino
        try:
            yield listener
        finally:
            with contextlib.suppress(OSError):  # another process's socket is there now, or none
                if os.stat(options.unix_socket).st_ino == inode:
                    os.unlink(options.unix_socket)


def listen_on_path(path: str) -> socket.socket:
    """A socket in the file system, for this user and group. One that no process listens on is replaced.

    Raises EnvironmentProblem.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path) and stat.S_ISSOCK(os.stat(path).st_mode) and not _is_answered(path):
            os.unlink(path)
        mask = os.umask(0o117)  # before others could connect
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reasons = {errno.EADDRINUSE: "the path is in use by another process: choose another one"}
        reason = reasons.get(error.errno or 0, error.strerror or str(error))
        raise EnvironmentProblem(f"cannot listen on the socket {path}: {reason}") from None
    listener.setblocking(False)
    return listener


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(1)
        try:
            client.connect(path)
        except ConnectionRefusedError:
            return False
        except OSError:
            return True
        return True


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one. Raises EnvironmentProblem."""
    try:
        # With its protocol named, asyncio turns Nagle's delay off on what it accepts.
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise EnvironmentProblem(f"cannot listen on {host}: {error.strerror}: choose another --host") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        reasons = {
            errno.EADDRINUSE: "another process listens there: stop it, or choose another --port (0: any free one)",
            errno.EACCES: "not permitted: choose a --port above 1023",
            errno.EADDRNOTAVAIL: "this machine has no such address: choose another --host",
        }
        reason = reasons.get(error.errno or 0, error.strerror or type(error).__name__)
        raise EnvironmentProblem(f"cannot listen on {host} port {port}: {reason}") from None
    listener.setblocking(False)
    return listener


class Door:
    """Serves the app on a bound socket while `run` runs."""

    def __init__(
        self,
        service: Service,
        app: App,
        listener: socket.socket,
        drain_s: float = 30.0,
        limit: ConnectionLimit | None = None,
        keep_alive_s: float | None = None,
        load: Load | None = None,
    ) -> None:
        self.service = service
        self._app = app
        self._load = load
        self._listener = listener
        self._drain_s = drain_s
        self.limit = limit or ConnectionLimit()
        self._signals = 0
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._rereading: set[asyncio.Task[None]] = set()  # kept from the garbage collector
        tls = app.certificate.context if app.certificate is not None else None
        config = uvicorn.Config(
            app,  # taken as it is: our connection calls it
            interface="asgi3",
            http=partial(Connection, limit=self.limit, idle_s=keep_alive_s, tls=tls),  # type: ignore[arg-type]  # a class, it says; it only calls it
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            backlog=BACKLOG,
        )
        self._server = _Server(config)

    @property
    def address(self) -> str:
        name = self._listener.getsockname()
        if isinstance(name, str):
            return f"unix:{name}"
        scheme = "http" if self._app.certificate is None else "https"
        host, port = name[:2]
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def stop(self, *, now: bool = False) -> None:
        """Begins to drain; the second time, or with `now`, ends at once."""
        self._signals += 1
        self._stop.set()
        if now or self._signals > 1:
            self._stop_now.set()

    def reread(self) -> None:
        """Reads the configuration again, once the first models are loaded; the log has the result."""
        task = asyncio.get_running_loop().create_task(self._reread())
        self._rereading.add(task)
        task.add_done_callback(self._rereading.discard)

    async def _reread(self) -> None:
        try:
            report = await self._app.reread()
        except TriposError as error:
            log.error("SIGHUP: nothing was changed: %s", error.message)
        else:
            log.info(
                "SIGHUP: %s", "; ".join(f"{key}: {value}" for key, value in report.items() if value) or "no change"
            )

    async def run(self, on_ready: Callable[[str], None] | None = None, *, with_signals: bool = False) -> bool:
        """Answer until `stop`, load and start the models meanwhile; drain, stop the models. Returns whether they were
        loaded: if not, a thread still loads them. Raises what loading raises."""
        loop = asyncio.get_running_loop()
        if with_signals:
            for each in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(each, self.stop)
            loop.add_signal_handler(signal.SIGHUP, self.reread)
        try:
            serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
            sweeping = asyncio.create_task(self.limit.sweep())
            try:
                stopping = asyncio.create_task(self._stop.wait())
                starting = asyncio.create_task(self._start())
                await asyncio.wait((serving, stopping, starting), return_when=asyncio.FIRST_COMPLETED)
                if not starting.done():
                    log.info("stopped while models were loading")
                    self.service.close()
                    return False
                await starting
                if on_ready is not None:
                    on_ready(self.address)
                await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
                await self._drain()
            finally:
                for task in (stopping, starting, *self._rereading):
                    task.cancel()
                await self._app.stop()
                await self._flush()
                self._server.should_exit = True
                await serving
                sweeping.cancel()
                await asyncio.gather(sweeping, stopping, starting, return_exceptions=True)
        finally:
            await self._app.stop()
            if with_signals:
                for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    loop.remove_signal_handler(each)
        log.info("stopped")
        return True

    async def _start(self) -> None:
        if self._load is not None:
            log.info("%s is open, models are loading", self.address)
            await self._load()
        await self.service.start()

    async def _drain(self) -> None:
        num_draining = self.service.num_in_flight
        if num_draining:
            log.info("draining: %d calls in flight have up to %.0f s", num_draining, self._drain_s)
        began_s = time.monotonic()
        draining = asyncio.create_task(self.service.drain(self._drain_s))
        hurry = asyncio.create_task(self._stop_now.wait())
        await asyncio.wait((draining, hurry), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, hurry):
            task.cancel()
        await asyncio.gather(draining, hurry, return_exceptions=True)
        if num_draining:
            num_left, seconds = self.service.num_in_flight, time.monotonic() - began_s
            log.info("stopping after %.1f s of draining, %d calls are cut off", seconds, num_left)

    async def _flush(self) -> None:
        """Waits until the calls that were cut off have sent their error events."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ERROR_EVENT_S):
                await self.service.wait_idle()


class _Server(uvicorn.Server):
    """uvicorn without its own signal handling: Door decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()
