"""The Host header: exactly one, well formed, and of a name that this server answers to.

A web page whose name was rebound to a loopback address still sends its own name: that is what the list stops.
"""

from __future__ import annotations

import re

from tripos.errors import InvalidRequest

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_HOST = re.compile(rb"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")


class MisdirectedHost(InvalidRequest):
    status = 421
    code = "misdirected_host"


def check_host(headers: list[tuple[bytes, bytes]], http_version: str, allowed: frozenset[str] | None) -> None:
    """Raises InvalidRequest (invalid_host), MisdirectedHost. `allowed` None: any name will do."""
    hosts = [value for name, value in headers if name == b"host"]
    if not hosts and http_version == "1.0":
        return
    if len(hosts) != 1:
        raise InvalidRequest(f"{len(hosts)} Host headers were sent, it must be one", code="invalid_host")
    match = _HOST.fullmatch(hosts[0])
    if match is None:
        raise InvalidRequest("the Host header is not a name with an optional port", code="invalid_host")
    if allowed is not None and match[1].decode().lower() not in allowed:
        raise MisdirectedHost("this server does not answer to the name in the Host header")
