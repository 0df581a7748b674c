"""The names that this server answers to. That a request has exactly one well-formed Host, framing.py sees to.

A web page whose name was rebound to a loopback address still sends its own name: that is what the list stops.
"""

from __future__ import annotations

from tripos.errors import InvalidRequest

LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


class MisdirectedHost(InvalidRequest):
    status = 421
    code = "misdirected_host"


def check_host(host: bytes | None, allowed: frozenset[bytes] | None) -> None:
    """Raises MisdirectedHost. `allowed` None: any name will do; `host` None: HTTP/1.0 need not send one."""
    if host is None or allowed is None:
        return
    name = host.lower()
    before, colon, _ = name.rpartition(b":")
    if name not in allowed and not (colon and before in allowed):
        raise MisdirectedHost("this server does not answer to the name in the Host header")
