"""Settings as flags: names and help come from config, which also parses the values."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from tripos import config
from tripos.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., Any])
Flags = tuple[str, ...] | bool

ADMIN_SETTINGS = tuple(name for name in config.flags(config.ModelOptions) if name not in ("name", "adapters"))
MODEL_SETTINGS = (*ADMIN_SETTINGS, "memory")
SERVER_SETTINGS = ("name", "adapters", *(name for name in config.flags(config.ServerOptions) if name != "memory"))

config_file = click.option("--config", "file", metavar="FILE", default="", help="The service file (./tripos.toml).")


def settings(*names: str) -> Callable[[Command], Command]:
    """Adds the flags of the named settings."""

    def add(command: Command) -> Command:
        for name in reversed(names):
            rule = config.settings()[name]
            doc = rule["doc"]
            if rule["choices"]:
                doc += f" One of {', '.join(rule['choices'])}."
            metavar = {"named_paths": "NAME=PATH", "names": "NAME,..."}.get(rule["kind"], rule["kind"].upper())
            kind: dict[str, Any] = {"metavar": metavar, "multiple": True}
            if rule["kind"] == "switch":
                kind = {"is_flag": True}
            command = click.option(config.flag(name), name, help=doc, **kind)(command)
        return command

    return add


def given(flags: dict[str, Flags]) -> dict[str, str]:
    """The settings that were given, as text. Raises ConfigError when one was given twice."""
    found = {}
    for name, values in flags.items():
        if name == "adapters" and isinstance(values, tuple):
            values = (os.pathsep.join(values),) if values else ()
        if isinstance(values, tuple) and len(values) > 1:
            raise ConfigError(f"{config.flag(name)} was given {len(values)} times")
        if values:
            found[name] = values[0] if isinstance(values, tuple) else "true"
    return found


def server_url(options: config.ServerOptions) -> str:
    """The URL of a server with these settings, for a client on this machine."""
    if options.unix_socket:
        return f"unix:{options.unix_socket}"
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::", "localhost") else options.host
    scheme = "https" if options.tls_cert else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{options.port}"


def require_utf8(text: str, where: str) -> None:
    """Raises ConfigError for a text that is not valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{where} is not valid UTF-8") from None
