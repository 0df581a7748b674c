"""The host names that this server answers to. framing.py checks that a request has exactly one well-formed Host.

The list stops DNS rebinding: a web page whose name was rebound to a loopback address still sends its own name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from tripos.errors import MisdirectedHost, shown

_PORT = re.compile(rb":[0-9]*\Z")
LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


def allowed_hosts(names: Iterable[str], is_local: bool) -> frozenset[bytes] | None:
    """The names to answer to; None: any. `names`: of the setting; `is_local`: only this machine can connect."""
    given = frozenset(name.lower().encode() for name in names)
    if b"*" in given or not (given or is_local):
        return None
    return LOOPBACK | given


def check_host(host: bytes | None, allowed: frozenset[bytes] | None) -> None:
    """Raises MisdirectedHost. `allowed` None: every name is; `host` None: HTTP/1.0 need not send one."""
    if host is None or allowed is None or host in allowed:
        return
    name = _PORT.sub(b"", host.lower())
    if name not in allowed:
        sent = shown(name.decode("latin-1"))
        raise MisdirectedHost(
            f"the server does not answer to the name {sent} in the Host header: start it with --allowed-hosts, or "
            "let the proxy send an allowed name"
        )
