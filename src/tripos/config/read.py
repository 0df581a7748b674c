"""Flags, then environment, then defaults: which value of a setting holds."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar

from tripos.config.options import (
    DEFAULT_MODEL,
    NATIVE_VARIABLES,
    PREFIX,
    ModelOptions,
    ServerOptions,
    ServiceOptions,
    flag,
    settings,
    variable,
)
from tripos.config.values import parse, shown
from tripos.errors import ConfigError

Options = TypeVar("Options", ModelOptions, ServerOptions)


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings that the environment gives. A variable with our prefix that we do not know is an error.

    Raises ConfigError.
    """
    known = {variable(name): name for name in settings()}
    values = {}
    for key, text in environment.items():
        if not key.startswith(PREFIX) or key in NATIVE_VARIABLES:
            continue
        if key not in known:
            near = difflib.get_close_matches(key, [*known, *NATIVE_VARIABLES], n=1, cutoff=0)
            raise ConfigError(f"{shown(key)} is not a setting of Tripos: did you mean {near[0]}?")
        values[known[key]] = parse(known[key], text, key)
    return values


def read_options(sources: tuple[str, ...], flags: Mapping[str, str], environment: Mapping[str, str]) -> ServiceOptions:
    """Options from flags, then environment, then defaults. `flags` holds what was given, as text.

    Raises ConfigError when a value is wrong or values contradict each other.
    """
    values = read_environment(environment)
    values |= {name: parse(name, text, flag(name)) for name, text in flags.items()}
    sources = sources or (DEFAULT_MODEL,)
    if values.get("name") and len(sources) > 1:
        raise ConfigError(f"--name names one model, {len(sources)} were given: leave it out")
    model = _fill(ModelOptions(), values)
    server = _fill(ServerOptions(), values)
    if not is_loopback(server.host) and not server.api_key_file and not server.i_accept_no_auth:
        raise ConfigError(
            f"--host {server.host} lets other machines in without a key: "
            "give --api-key-file, or --i-accept-no-auth if that is meant"
        )
    return ServiceOptions(models=tuple(replace(model, source=source) for source in sources), server=server)


def _fill(options: Options, values: Mapping[str, Any]) -> Options:
    mine = {each.name for each in fields(options)}
    return replace(options, **{name: value for name, value in values.items() if name in mine})


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address. Names other than localhost count as reachable."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
