"""How many connections are let in, in all and of one peer, and the clock that ends those that keep nobody's time.

Beyond that number a few wait outside, in places that are kept for probes: whoever asks for something else is refused.
One look per half second at all connections, instead of a timer for each request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from collections import Counter
from typing import Protocol

from tripos.api.http.forwarded import Proxies
from tripos.errors import EnvironmentProblem

RESERVED_FDS = 64  # for files, sockets that are being refused, and what the models open
MIN_FDS = 64  # fewer, and a server with its models has none left for clients
MAX_OUTSIDE = 32  # connections that may be a probe's, or are being told why not
SWEEP_S = 0.5


class Expiring(Protocol):
    """A connection as the gate sees it."""

    peer: str

    def expire(self, now_s: float) -> None:
        """End what has waited too long. `now_s`: of the loop's clock."""

    def abort(self) -> None:
        """End it now, without a word."""


class Gate:
    """`max_peer_connections` counts per address; this machine's own and those of trusted `proxies` are only counted in
    all."""

    def __init__(
        self, max_connections: int = 1024, max_peer_connections: int = 128, proxies: Proxies | None = None
    ) -> None:
        self._proxies = proxies or Proxies()
        self.max_connections = min(max_connections, _free_fds(max_connections))
        self._max_peer_connections = max_peer_connections
        self._peers: Counter[str] = Counter()
        self._inside: set[Expiring] = set()
        self._outside: dict[Expiring, None] = {}  # the oldest first

    @property
    def num_inside(self) -> int:
        return len(self._inside)

    def enter(self, connection: Expiring) -> bool:
        """False: too many are inside."""
        peer = connection.peer
        is_full = len(self._inside) >= self.max_connections
        if is_full or (self._peers[peer] >= self._max_peer_connections and not self._is_exempt(peer)):
            if not self._peers[peer]:
                del self._peers[peer]
            return False
        self._peers[peer] += 1
        self._inside.add(connection)
        return True

    def wait_outside(self, connection: Expiring) -> None:
        """For one that was not let in. When there are too many the oldest goes: a probe speaks at once."""
        if len(self._outside) >= MAX_OUTSIDE:
            oldest = next(iter(self._outside))
            del self._outside[oldest]
            oldest.abort()
        self._outside[connection] = None

    def _is_exempt(self, peer: str) -> bool:
        return is_loopback(peer) or self._proxies.trusts(peer)

    def leave(self, connection: Expiring) -> None:
        """Idempotent."""
        self._outside.pop(connection, None)
        if connection in self._inside:
            self._inside.discard(connection)
            self._peers[connection.peer] -= 1
            if not self._peers[connection.peer]:
                del self._peers[connection.peer]

    async def sweep(self) -> None:
        """For as long as the door is open."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = loop.time()
            for connection in (*self._inside, *self._outside):
                connection.expire(now_s)


def check_descriptors() -> None:
    """Raises EnvironmentProblem when this process may open so few files that a server would fail at odd places."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_FDS:
        raise EnvironmentProblem(
            f"this process may open {hard} files, a server needs {MIN_FDS} and one more for each client: "
            "raise the limit (ulimit -n, LimitNOFILE= in a systemd unit)"
        )


def _free_fds(wanted: int) -> int:
    """How many connections this process may hold; its limit on descriptors is raised towards what is wanted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_FDS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else max(soft - RESERVED_FDS, soft // 2)


def is_loopback(peer: str) -> bool:
    """Whether a peer is on this machine."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return True  # a socket of this machine's file system
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
