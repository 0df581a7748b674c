"""The limit on open connections, in total and per client address, and the sweep that ends expired ones.

Beyond the limit a few more connections are accepted for health probes only; any other request on them is refused. The
sweep looks at all connections twice per second, instead of one timer per request.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from typing import Protocol

from tripos.api.http.forwarded import Proxies
from tripos.api.http.loopback import is_loopback
from tripos.errors import EnvironmentProblem

RESERVED_FDS = 64  # for files, sockets that are being refused, and what the models open
MIN_FDS = 64  # with fewer, a server with its models has none left for clients
MAX_PROBES = 32  # connections beyond the limit
SWEEP_S = 0.5


class Expiring(Protocol):
    """What the limit needs of a connection."""

    peer: str

    def expire(self, now_s: float) -> None:
        """Ends what has waited too long. `now_s`: of the loop's clock."""

    def abort(self) -> None:
        """Ends it now, without a response."""


class ConnectionLimit:
    """`max_peer_connections` holds per address, but not for this machine's own connections and those of trusted
    `proxies`, which count in the total only.
    """

    def __init__(
        self, max_connections: int = 1024, max_peer_connections: int = 128, proxies: Proxies | None = None
    ) -> None:
        self._proxies = proxies or Proxies()
        self.max_connections = min(max_connections, _free_fds(max_connections))
        self._max_peer_connections = max_peer_connections
        self._peers: Counter[str] = Counter()
        self._admitted: set[Expiring] = set()
        self._probes: dict[Expiring, None] = {}  # the oldest first

    @property
    def num_admitted(self) -> int:
        return len(self._admitted)

    def admit(self, connection: Expiring) -> bool:
        """Counts a connection; False: the limit is reached."""
        peer = connection.peer
        is_full = len(self._admitted) >= self.max_connections
        if is_full or (self._peers[peer] >= self._max_peer_connections and not self._is_exempt(peer)):
            if not self._peers[peer]:
                del self._peers[peer]
            return False
        self._peers[peer] += 1
        self._admitted.add(connection)
        return True

    def admit_probe(self, connection: Expiring) -> None:
        """Accepts a connection beyond the limit, for a probe; ends the oldest of too many."""
        if len(self._probes) >= MAX_PROBES:
            oldest = next(iter(self._probes))
            del self._probes[oldest]
            oldest.abort()
        self._probes[connection] = None

    def _is_exempt(self, peer: str) -> bool:
        return not peer or is_loopback(peer) or self._proxies.trusts(peer)

    def release(self, connection: Expiring) -> None:
        """Idempotent."""
        self._probes.pop(connection, None)
        if connection in self._admitted:
            self._admitted.discard(connection)
            self._peers[connection.peer] -= 1
            if not self._peers[connection.peer]:
                del self._peers[connection.peer]

    async def sweep(self) -> None:
        """Ends expired connections until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = loop.time()
            for connection in (*self._admitted, *self._probes):
                connection.expire(now_s)


def check_descriptors() -> None:
    """Raises EnvironmentProblem when this process may open too few files for a server."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < MIN_FDS:
        raise EnvironmentProblem(
            f"this process may open {hard} files, a server needs {MIN_FDS}, and one more for each client: "
            "raise the limit (ulimit -n, LimitNOFILE= in a systemd unit)"
        )


def _free_fds(num_connections: int) -> int:
    """How many connections this process may hold, after raising its limit on descriptors as far as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = num_connections + RESERVED_FDS
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return num_connections if soft == resource.RLIM_INFINITY else max(soft - RESERVED_FDS, soft // 2)
