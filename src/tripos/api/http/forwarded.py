"""The client behind trusted proxies: the address from which it, or the nearest untrusted proxy, connected."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Proxies:
    """`trusted`: addresses and networks; unix for peers on a socket of the file system."""

    def __init__(self, trusted: Iterable[str] = ()) -> None:
        given = frozenset(trusted)
        self._has_unix = "unix" in given
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(each) for each in given - {"unix"})

    def __bool__(self) -> bool:
        return self._has_unix or bool(self._networks)

    def trusts(self, peer: str) -> bool:
        """`peer`: an address, "" for a peer on a socket of the file system."""
        if not peer:
            return self._has_unix
        address = _address(peer)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str, forwarded_for: bytes | None) -> str:
        """The client of a request. Each proxy appends its peer to X-Forwarded-For, so the list is read from the end, as
        long as the proxy that appended an entry is trusted. An entry that is not an address ends the list.
        """
        client = peer
        for entry in reversed((forwarded_for or b"").split(b",")):
            address = _address(entry.strip().decode("latin-1"))
            if address is None or not self.trusts(client):
                break
            client = str(address)
        return client


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Of 10.0.0.1, 10.0.0.1:4711, fe80::1 or [fe80::1]:4711."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
