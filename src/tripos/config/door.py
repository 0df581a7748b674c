"""Checks that the settings of the HTTP server agree: access without a key, TLS files, host names and networks."""

from __future__ import annotations

import re

from tripos.api.http.loopback import is_loopback
from tripos.config.options import ServerOptions, flag
from tripos.errors import ConfigError, shown

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.\[\]:_-]+|\*|null")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]|\*")


def check_door(server: ServerOptions) -> None:
    """Raises ConfigError."""
    is_reachable = not server.unix_socket and not is_loopback(server.host)
    if is_reachable and not server.api_key_file and not server.i_accept_no_auth:
        raise ConfigError(
            f"--host {server.host} lets other machines connect without a key: "
            "give --api-key-file, or --i-accept-no-auth if that is meant"
        )
    if server.tls_key and not server.tls_cert:
        raise ConfigError("--tls-key needs --tls-cert: the certificate that it belongs to")
    for name, pattern, example in (
        ("allowed_hosts", _HOST, "a name without port, such as api.example.com"),
        ("cors_origins", _ORIGIN, "an origin, such as https://app.example.com"),
    ):
        for each in getattr(server, name):
            if not pattern.fullmatch(each):
                raise ConfigError(f"{flag(name)}: {shown(each)} is not {example}")
    for each in server.trusted_proxies:
        if each != "unix" and not _is_network(each):
            raise ConfigError(f"{flag('trusted_proxies')}: {shown(each)} is not an address, a network or unix")


def _is_network(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True
