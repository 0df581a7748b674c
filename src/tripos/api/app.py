"""The application: every request takes the same steps: host, route, key, endpoint, error contract, one log line.

The routes are a table (routes.py). There is no other middleware.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from tripos.api.admin import check_local
from tripos.api.auth import Keys
from tripos.api.http import access_log
from tripos.api.http.cors import Cors
from tripos.api.http.exchange import ClientLeft, Exchange
from tripos.api.http.forwarded import Proxies
from tripos.api.http.hosts import LOOPBACK, check_host
from tripos.api.http.tls import Certificate
from tripos.api.reread import reread
from tripos.api.routes import ROUTES
from tripos.api.routing import METHODS, Route, Router
from tripos.api.stored import ResponseStore
from tripos.errors import EngineFailed, Overloaded, RequestFailed, TriposError, reraise_stop
from tripos.repository import ModelRepository
from tripos.service import RETRY_S, Service

log = logging.getLogger(__name__)

MAX_KNOWN_HOSTS = 64


class App:
    """`hosts`: names that this server answers to; None: any. `cors`: origins whose pages may send requests. `proxies`:
    trusted to name their clients. `certificate`: of the server, to be read again. `repository`: of the models.
    """

    def __init__(
        self,
        service: Service,
        keys: Keys | None = None,
        hosts: frozenset[bytes] | None = LOOPBACK,
        cors: Cors | None = None,
        proxies: Proxies | None = None,
        access: access_log.AccessLog = "on",
        certificate: Certificate | None = None,
        repository: ModelRepository | None = None,
    ) -> None:
        self.service = service
        self.repository = repository
        self._access = access
        self.keys = keys or Keys()
        self.hosts = hosts
        self.cors = cors or Cors()
        self.proxies = proxies or Proxies()
        self.certificate = certificate
        self.stored = ResponseStore()
        self._router = Router(ROUTES)
        self._known_hosts: set[bytes | None] = set()  # Host headers that passed
        self._has_proxies, self._has_cors = bool(self.proxies), bool(self.cors)

    async def __call__(self, exchange: Exchange) -> None:
        began_s = time.monotonic()
        route: Route | None = None
        try:
            if self._has_proxies:
                exchange.client = self.proxies.client(exchange.peer, exchange.joined(b"x-forwarded-for"))
            if self._has_cors and self._answers_preflight(exchange):
                return
            route = self._route(exchange)
            self._admit(exchange, route)
            await route.endpoint(exchange, self.service)
        except TriposError as error:
            if error.status == 500:
                log.error("request %s failed: %s", exchange.request_id, error.code)
            exchange.fail(error)
        except ClientLeft:
            exchange.close_log()
        except asyncio.CancelledError:
            if exchange.has_left:
                exchange.close_log()
            else:  # by the server, which stops
                exchange.fail(Overloaded("the server was stopped", code="draining", retry_after_s=RETRY_S))
                raise
        except BaseException as error:
            reraise_stop(error)
            log.exception("request %s: this is a bug in Tripos", exchange.request_id)
            exchange.fail(RequestFailed(f"this request failed inside: {type(error).__name__}"))
        finally:
            self._note(exchange, route, time.monotonic() - began_s)

    async def reread(self) -> dict[str, Any]:
        """Reads keys, certificate and service file again, for all connections at once; a report. Raises TriposError."""
        return await reread(self.repository, self.keys, self.certificate)

    async def stop(self) -> None:
        """Stops what changes the models, and then every model. Idempotent."""
        if self.repository is not None:
            await self.repository.stop()
        await self.service.stop()

    def note_refusal(self, peer: str, request_id: str, error: TriposError, num_sent: int) -> None:
        """A request whose head could not be read; the connection has answered it."""
        self.service.metrics.http.count("", "", error.status)
        if self._access != "off":
            access_log.write_refusal(peer, request_id, error, num_sent)

    def _note(self, exchange: Exchange, route: Route | None, seconds: float) -> None:
        """Counts the request and writes its log line."""
        method, status = exchange.head.method, exchange.status
        self.service.metrics.http.count(method if method in METHODS else "", route.path if route else "", status)
        is_quiet = route is not None and route.is_quiet and status == 200
        if self._access == "all" or (self._access == "on" and not is_quiet):
            access_log.write(exchange, seconds)

    def _answers_preflight(self, exchange: Exchange) -> bool:
        """Adds the CORS headers. True: the request was a preflight and is answered."""
        fields, origin = exchange.fields, exchange.fields.get(b"origin")
        if exchange.head.method == "OPTIONS":
            lines = self.cors.preflight(origin, fields.get(b"access-control-request-method"))
            if lines:
                check_host(fields.get(b"host"), self.hosts)
                exchange.add_header(lines)
                exchange.answer(200, b"", b"text/plain")
                return True
        exchange.add_header(self.cors.lines(origin))
        return False

    def _route(self, exchange: Exchange) -> Route:
        """The route of a request. Raises MisdirectedHost, NotFound, MethodNotAllowed."""
        head = exchange.head
        route = self._router.exact.get((head.method, head.decoded_path.removesuffix("/") or "/"))
        host = exchange.fields.get(b"host")
        if host not in self._known_hosts and (route is None or not route.is_public):  # probes come under our address
            check_host(host, self.hosts)
            if len(self._known_hosts) < MAX_KNOWN_HOSTS:
                self._known_hosts.add(host)
        if route is None:
            route = self._router.find(exchange)
        exchange.body_type = route.body_type
        wire_format = exchange.wire_format = route.wire_format
        if wire_format.id_header:
            exchange.add_header(b"%b: %b\r\n" % (wire_format.id_header, exchange.request_id.encode()))
        return route

    def _admit(self, exchange: Exchange, route: Route) -> None:
        """Raises Unauthorized, PermissionDenied, EngineFailed (model_loading)."""
        if not route.is_public:
            if self.keys.are_needed:
                exchange.principal = self.keys.principal(exchange.head.fields, route.scope)
            elif route.scope == "admin":
                check_local(exchange)
        service = self.service
        if not service.is_started and not service.is_draining and route.needs_models:
            raise EngineFailed("the models are loading", code="model_loading", retry_after_s=RETRY_S)
