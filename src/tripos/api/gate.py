"""How many connections are let in, in all and of one peer, and the clock that ends those that keep nobody's time.

One look per half second at all connections, instead of a timer for each request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import resource
from collections import Counter
from typing import Protocol

from tripos.api.forwarded import Proxies

RESERVED_FDS = 64  # for files, sockets that are being refused, and what the models open
MAX_REFUSALS = 32  # connections that are being told why not
SWEEP_S = 0.5


class Expiring(Protocol):
    """A connection as the gate sees it."""

    peer: str

    def expire(self, now_s: float) -> None:
        """End what has waited too long. `now_s`: of the loop's clock."""


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
        self._refused: set[Expiring] = set()

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

    def _is_exempt(self, peer: str) -> bool:
        return is_loopback(peer) or self._proxies.trusts(peer)

    def refuse(self, connection: Expiring) -> bool:
        """Whether there is time to tell it why."""
        if len(self._refused) >= MAX_REFUSALS:
            return False
        self._refused.add(connection)
        return True

    def leave(self, connection: Expiring) -> None:
        """Idempotent."""
        self._refused.discard(connection)
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
            for connection in (*self._inside, *self._refused):
                connection.expire(now_s)


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
