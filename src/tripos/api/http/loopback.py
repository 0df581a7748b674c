"""Whether only this machine can reach an address."""

from __future__ import annotations


def is_loopback(host: str) -> bool:
    """`host`: an address or a name; of names only localhost counts. "" is False."""
    if host == "localhost":
        return True
    import ipaddress  # not needed for the command line's help

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
