"""Which pages may ask from a browser: the answers to its preflights, and the lines that let a page read ours.

Source: the Fetch standard, CORS protocol. Credentials of the browser are never let in: keys are sent as headers.
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
        """Header lines of an answer, nothing for pages that are not let in."""
        if origin is None or not self._origins:
            return b""
        if b"*" in self._origins:
            return b"access-control-allow-origin: *\r\naccess-control-expose-headers: %b\r\n" % _EXPOSED
        if origin not in self._origins:
            return b"vary: origin\r\n"
        line = b"vary: origin\r\naccess-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\n"
        return line % (origin, _EXPOSED)

    def preflight(self, origin: bytes | None, method: bytes | None) -> bytes:
        """Header lines of the answer to OPTIONS that asks before a request of `method`; nothing: it is no such question
        of a page that is let in."""
        lines = self.lines(origin)
        if method is None or b"access-control-allow-origin" not in lines:
            return b""
        return lines + (
            b"access-control-allow-methods: GET, POST, DELETE\r\n"
            b"access-control-allow-headers: authorization, content-type, x-api-key, anthropic-version, anthropic-beta, "
            b"x-request-id, *\r\n"
            b"access-control-max-age: %d\r\n" % MAX_AGE_S
        )
