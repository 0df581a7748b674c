"""Which web pages may send requests: answers to preflights, and the headers that let a page read a response.

Source: the Fetch standard, CORS protocol. Browser credentials are never allowed: keys are sent as headers.
"""

from __future__ import annotations

from collections.abc import Iterable

MAX_AGE_S = 600
_EXPOSED = b"x-request-id, retry-after, x-tripos-ignored, x-tripos-model-digest"


class Cors:
    """`origins`: scheme, host and port as browsers send them; * for any."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self._origins = frozenset(origin.rstrip("/").encode() for origin in origins)

    def __bool__(self) -> bool:
        return bool(self._origins)

    def lines(self, origin: bytes | None) -> bytes:
        """Header lines of a response; empty for pages that are not allowed."""
        if origin is None or not self._origins:
            return b""
        if b"*" in self._origins:
            return b"access-control-allow-origin: *\r\naccess-control-expose-headers: %b\r\n" % _EXPOSED
        if origin not in self._origins:
            return b"vary: origin\r\n"
        line = b"vary: origin\r\naccess-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\n"
        return line % (origin, _EXPOSED)

    def preflight(self, origin: bytes | None, method: bytes | None) -> bytes:
        """Header lines of the response to a preflight for `method`; empty for other requests and pages that are not
        allowed.
        """
        lines = self.lines(origin)
        if method is None or b"access-control-allow-origin" not in lines:
            return b""
        return lines + (
            b"access-control-allow-methods: GET, POST, DELETE\r\n"
            b"access-control-allow-headers: authorization, content-type, x-api-key, anthropic-version, anthropic-beta, "
            b"x-request-id, *\r\n"
            b"access-control-max-age: %d\r\n" % MAX_AGE_S
        )
