"""Whom a request comes from, behind proxies that are trusted or not."""

from __future__ import annotations

import pytest

from tripos.api.http.connection_limit import ConnectionLimit
from tripos.api.http.forwarded import Proxies


@pytest.mark.parametrize(
    ("trusted", "peer", "sent", "client"),
    [
        ((), "10.0.0.1", b"203.0.113.7", "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", b"203.0.113.7", "203.0.113.7"),
        (("10.0.0.0/8",), "10.0.0.1", None, "10.0.0.1"),
        (("10.0.0.0/8",), "192.0.2.1", b"203.0.113.7", "192.0.2.1"),  # not through the proxy: its word is nothing
        (("10.0.0.0/8",), "10.0.0.1", b"198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the client made up the first
        (("10.0.0.0/8",), "10.0.0.1", b"203.0.113.7, 10.9.9.9", "203.0.113.7"),  # two proxies
        (("10.0.0.0/8",), "10.0.0.1", b"10.1.1.1, 10.9.9.9", "10.1.1.1"),
        (("10.0.0.0/8",), "10.0.0.1", b"203.0.113.7:4711", "203.0.113.7"),
        (("::1",), "::1", b"[2001:db8::7]:4711", "2001:db8::7"),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", b"203.0.113.7", "203.0.113.7"),
        (("10.0.0.0/8",), "10.0.0.1", b"unknown", "10.0.0.1"),
        (("10.0.0.0/8",), "10.0.0.1", b"203.0.113.7, nonsense\x00", "10.0.0.1"),
        (("unix",), "", b"203.0.113.7", "203.0.113.7"),
        (("10.0.0.0/8",), "", b"203.0.113.7", ""),
    ],
)
def test_only_trusted_proxies_say_who_asks(
    trusted: tuple[str, ...], peer: str, sent: bytes | None, client: str
) -> None:
    assert Proxies(trusted).client(peer, sent) == client


class Peer:
    def __init__(self, peer: str) -> None:
        self.peer = peer

    def expire(self, now_s: float) -> None:
        raise AssertionError


def test_a_trusted_proxy_may_have_many_connections() -> None:
    limit = ConnectionLimit(16, 2, Proxies(("10.0.0.1",)))
    assert [limit.admit(Peer("10.0.0.2")) for _ in range(3)] == [True, True, False]
    assert all(limit.admit(Peer("10.0.0.1")) for _ in range(14))
    assert not limit.admit(Peer("10.0.0.1"))
