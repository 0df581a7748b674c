"""Routes and how a request finds its own: by method and path, exactly or by a pattern with parameters."""

from __future__ import annotations

import difflib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from tripos.api.auth import Scope
from tripos.api.http.exchange import JSON, Exchange
from tripos.api.http.wire_format import OPENAI, WireFormat
from tripos.api.not_implemented import find_family, not_implemented
from tripos.errors import MethodNotAllowed, NotFound
from tripos.service import Service
from tripos.wire.fields import Table
from tripos.wire.openapi import Operation

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")

Endpoint = Callable[[Exchange, Service], Awaitable[None]]


@dataclass(frozen=True)
class Route:
    """One line of the route table. `path` may hold {name}, which takes one segment, and {name:path}, which takes the
    rest; both become `exchange.path_params`. `fields`: of a JSON body, `nested`: of the objects in it.
    """

    method: str
    path: str
    endpoint: Endpoint
    doc: str
    wire_format: WireFormat = OPENAI
    fields: Table | None = None
    nested: Mapping[str, Table] = field(default_factory=dict)
    body_type: bytes = JSON  # the Content-Type of a body
    is_public: bool = False
    scope: Scope = "generate"  # that a key must have
    needs_models: bool = True  # refused while the server's first models load
    is_quiet: bool = False  # not logged when all is well

    @property
    def operation(self) -> Operation:
        """The route as the OpenAPI document has it."""
        stream = self.wire_format.stream_type.partition(b";")[0].decode()
        return Operation(
            method=self.method,
            path=_PARAMETER.sub(r"{\1}", self.path),
            doc=self.doc,
            fields=self.fields,
            nested=dict(self.nested),
            body_type=self.body_type.decode(),
            stream_type=stream if self.fields and "stream" in self.fields else "",
            example_error=self.wire_format.encode_error,
            is_public=self.is_public,
            is_strict=self.scope == "admin",
        )


class Router:
    """The routes of a table. HEAD takes the route of GET."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.exact: dict[tuple[str, str], Route] = {}  # by method and decoded path, for paths without parameters
        self._patterns: list[tuple[re.Pattern[str], Route]] = []
        self._paths: list[str] = []
        for route in routes:
            self._paths.append(_PARAMETER.sub(r"{\1}", route.path))
            self._patterns.append((_pattern(route.path), route))
            if "{" not in route.path:
                self.exact[route.method, route.path] = route
                if route.method == "GET":
                    self.exact["HEAD", route.path] = route

    def find(self, exchange: Exchange) -> Route:
        """The route of a path with parameters, or of an endpoint that is not implemented.

        Sets `path_params` and `wire_format` of the exchange, and the header Allow. Raises NotFound, MethodNotAllowed.
        """
        method, path = exchange.head.method, exchange.head.decoded_path.removesuffix("/") or "/"
        if method not in METHODS:
            raise _not_allowed(exchange, METHODS, f"no path takes {method[:16]}")
        allowed: list[str] = []
        for pattern, route in self._patterns:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            exchange.wire_format = route.wire_format
            methods = ("GET", "HEAD") if route.method == "GET" else (route.method,)
            if method in methods:
                exchange.path_params = match.groupdict()
                return route
            allowed += methods
        if (family := find_family(path)) is not None:
            wire_format, instead = family
            return Route(method, "", not_implemented(instead), instead, wire_format)
        if allowed:
            raise _not_allowed(exchange, allowed, f"this path takes {', '.join(allowed)}")
        near = difflib.get_close_matches(path[:128], self._paths, n=1)
        hint = f"did you mean {near[0]}?" if near else "see /openapi.json"
        raise NotFound(f"no endpoint has this path: {hint}")


def _pattern(path: str) -> re.Pattern[str]:
    """{name} takes one segment, {name:path} everything."""
    text, end = "", 0
    for match in _PARAMETER.finditer(path):
        text += re.escape(path[end : match.start()]) + f"(?P<{match[1]}>{'.*' if match[2] else '[^/]+'})"
        end = match.end()
    return re.compile(text + re.escape(path[end:]))


def _not_allowed(exchange: Exchange, methods: Iterable[str], message: str) -> MethodNotAllowed:
    exchange.add_header(b"allow: %b\r\n" % ", ".join(methods).encode())
    return MethodNotAllowed(message)
