"""The application: every request through the same steps, then to its endpoint.

Host, route, key, endpoint, error contract, one log line. The routes are a table (routes.py). No other middleware.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import time
from typing import Any

from starlette.routing import Match
from starlette.routing import Route as Path
from starlette.types import Receive, Scope, Send

from tripos.api.admin import check_local
from tripos.api.auth import Keys
from tripos.api.elsewhere import elsewhere
from tripos.api.http import access_log
from tripos.api.http.cors import Cors
from tripos.api.http.exchange import ClientLeft, Exchange
from tripos.api.http.forwarded import Proxies
from tripos.api.http.hosts import LOOPBACK, check_host
from tripos.api.http.tls import Certificate
from tripos.api.reread import reread
from tripos.api.routes import ROUTES, Route
from tripos.api.stored import ResponseStore
from tripos.errors import (
    EngineFailed,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    RequestFailed,
    TriposError,
    reraise_stop,
)
from tripos.repository import ModelRepository
from tripos.service import RETRY_S, Service

log = logging.getLogger(__name__)

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class App:
    """`hosts`: names that this server answers to; None: any. `cors`: whose pages may ask. `proxies`: who speak for
    others. `certificate`: what the door shows, to be read again. `repository`: who loads the service's models."""

    def __init__(
        self,
        service: Service,
        keys: Keys | None = None,
        hosts: frozenset[bytes] | None = LOOPBACK,
        cors: Cors | None = None,
        proxies: Proxies | None = None,
        access: access_log.Wanted = "on",
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
        self._stored = ResponseStore()
        self._exact = {(route.method, route.path): route for route in ROUTES if "{" not in route.path}
        self._paths_known = {route.path for route in ROUTES}
        self._paths = [(Path(route.path, _unused, methods=[route.method]), route) for route in ROUTES]

    async def __call__(self, exchange: Exchange) -> None:
        began_s = time.monotonic()
        exchange.stored, exchange.reread, exchange.repository = self._stored, self.reread, self.repository
        route: Route | None = None
        try:
            if self.proxies:
                exchange.client = self.proxies.client(exchange.peer, exchange.joined(b"x-forwarded-for"))
            if self.cors and self._answers_preflight(exchange):
                return
            route = self._route(exchange)
            await self._admit(exchange, route).endpoint(exchange, self.service)
        except TriposError as error:
            if error.status == 500:
                log.error("request %s failed: %s", exchange.request_id, error.code)
            exchange.fail(error)
        except ClientLeft:
            exchange.close_log()
        except asyncio.CancelledError:
            if exchange.has_left:
                exchange.close_log()
            else:  # the server's patience is over
                exchange.fail(Overloaded("the server was stopped", code="draining", retry_after_s=RETRY_S))
                raise
        except BaseException as error:
            reraise_stop(error)
            log.exception("request %s: this is a bug in Tripos", exchange.request_id)
            exchange.fail(RequestFailed(f"this request failed inside: {type(error).__name__}"))
        finally:
            self._note(exchange, route, time.monotonic() - began_s)

    async def reread(self) -> dict[str, Any]:
        """Keys, certificate and service file, at once for every connection: a report. Raises TriposError."""
        return await reread(self.repository, self.keys, self.certificate)

    async def stop(self) -> None:
        """End what changes the models, and then every model. Idempotent."""
        if self.repository is not None:
            await self.repository.stop()
        await self.service.stop()

    def note_refusal(self, peer: str, request_id: str, error: TriposError, num_sent: int) -> None:
        """A request that could not be read as far as its path, and was answered by the connection."""
        self.service.metrics.http.count("", "", error.status)
        if self._access != "off":
            access_log.write_refusal(peer, request_id, error, num_sent)

    def _note(self, exchange: Exchange, route: Route | None, seconds: float) -> None:
        method, status = exchange.head.method, exchange.status
        path = route.path if route is not None and route.path in self._paths_known else ""
        self.service.metrics.http.count(method if method in METHODS else "", path, status)
        is_quiet = route is not None and route.is_quiet and status == 200
        if self._access == "all" or (self._access == "on" and not is_quiet):
            access_log.write(exchange, seconds)

    def _answers_preflight(self, exchange: Exchange) -> bool:
        """Lets pages of known origins read the answer. True: the request only asked whether they may."""
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
        """Where a request goes. Raises TriposError."""
        head = exchange.head
        path = head.decoded_path.removesuffix("/") or "/"
        exact = self._exact.get(("GET" if head.method == "HEAD" else head.method, path))
        if exact is None or not exact.is_public:  # probes of an orchestrator come under our address
            check_host(exchange.fields.get(b"host"), self.hosts)
        route = exact or self._find(exchange, path)
        dialect = exchange.dialect = route.dialect
        if dialect.id_header:
            exchange.add_header(b"%b: %b\r\n" % (dialect.id_header, exchange.request_id.encode()))
        return route

    def _admit(self, exchange: Exchange, route: Route) -> Route:
        """Raises Unauthorized, PermissionDenied, EngineFailed (model_loading)."""
        if not route.is_public:
            exchange.principal = self.keys.principal(exchange.head.fields, route.scope)
            if route.scope == "admin" and not self.keys:
                check_local(exchange)
        if route.needs_models and self.service.is_loading:
            raise EngineFailed("the models are loading", code="model_loading", retry_after_s=RETRY_S)
        return route

    def _find(self, exchange: Exchange, decoded_path: str) -> Route:
        """The route of a path without its last slash. Raises NotFound, MethodNotAllowed."""
        method = exchange.head.method
        if method not in METHODS:
            exchange.add_header(b"allow: %b\r\n" % ", ".join(METHODS).encode())
            raise MethodNotAllowed(f"no path takes {method[:16]}")
        allowed: list[str] = []
        for path, route in self._paths:
            match, found = path.matches({"type": "http", "method": method, "path": decoded_path})
            if match is not Match.NONE:
                exchange.dialect = route.dialect
            if match is Match.FULL:
                exchange.path_name = found["path_params"].get("name", "")
                return route
            if match is Match.PARTIAL:
                allowed += sorted(path.methods or ())
        if (known := elsewhere(method, decoded_path)) is not None:
            return known
        if allowed:
            exchange.add_header(b"allow: %b\r\n" % ", ".join(allowed).encode())
            raise MethodNotAllowed(f"this path takes {', '.join(allowed)}")
        near = difflib.get_close_matches(decoded_path[:128], [route.operation.path for route in ROUTES], n=1)
        hint = f"did you mean {near[0]}?" if near else "see /openapi.json"
        raise NotFound(f"there is nothing at this path: {hint}")


async def _unused(scope: Scope, receive: Receive, send: Send) -> None:
    """starlette's Route wants an application; only its matching is used."""
