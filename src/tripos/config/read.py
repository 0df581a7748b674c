"""The value of each setting and its source: flags, then environment, then tripos.toml, then defaults."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from tripos.config.door import check_door
from tripos.config.file import NAME_RULE, ServiceFile, is_name, read_file
from tripos.config.options import (
    DEFAULT_MODEL,
    NATIVE_VARIABLES,
    PREFIX,
    ModelOptions,
    RouteOptions,
    ServerOptions,
    ServiceOptions,
    flag,
    flags,
    rules,
    settings,
    stage_name,
    variable,
)
from tripos.config.values import check, hint, parse, written
from tripos.errors import ConfigError, shown

# Variables that Kubernetes sets in every container of a namespace with a Service called tripos or tripos-...:
# NAME_SERVICE_HOST, NAME_SERVICE_PORT, NAME_SERVICE_PORT_HTTP, NAME_PORT (a URL) and NAME_PORT_8000_TCP with _ADDR, ...
_SERVICE_KEY = re.compile(
    rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)", re.ASCII
)
_SERVICE_URL_KEY, _SERVICE_URL = re.compile(rf"{PREFIX}(\w+_)?PORT", re.ASCII), re.compile(r"(tcp|udp|sctp)://")


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings that the environment gives. An unknown variable with the prefix is an error; those with which
    Kubernetes describes a Service of that name are ignored with a warning.

    Raises ConfigError.
    """
    known = {variable(name): name for name in settings()}
    values = {}
    ours = {key: text for key, text in environment.items() if key.startswith(PREFIX) and key not in NATIVE_VARIABLES}
    foreign = [key for key, text in ours.items() if _describes_service(key, text)]
    if foreign:
        more = f" and {len(foreign) - 1} more variables describe" if len(foreign) > 1 else " describes"
        warnings.warn(
            f"{min(foreign)}{more} a Kubernetes Service and set nothing here: "
            "enableServiceLinks: false in the pod's spec leaves them out",
            stacklevel=2,
        )
    for key, text in ours.items():
        if key in foreign:
            continue
        if key not in known:
            meant = hint(key, [*known, *NATIVE_VARIABLES])
            raise ConfigError(f"variable {shown(key)} is not a setting of Tripos{meant}")
        values[known[key]] = parse(known[key], text, key)
    return values


def _describes_service(key: str, text: str) -> bool:
    return bool(_SERVICE_KEY.fullmatch(key) or (_SERVICE_URL_KEY.fullmatch(key) and _SERVICE_URL.match(text)))


def read_options(
    sources: tuple[str, ...], given: Mapping[str, str], environment: Mapping[str, str], file: str = ""
) -> ServiceOptions:
    """Options from flags, then environment, then `file` ("": none), then defaults. `given` holds the flags, as text.
    `sources` of the command line stand in for the file's models and routes.

    Raises ConfigError when a value is wrong or values contradict each other.
    """
    read = read_file(file) if file else ServiceFile("", {}, {}, {}, {})
    origins = dict(read.origins)
    values = read_environment(environment)
    origins |= {name: f"variable {variable(name)}" for name in values}
    values |= {name: parse(name, text, flag(name)) for name, text in given.items()}
    origins |= {name: f"flag {flag(name)}" for name in given}
    server = replace(ServerOptions(), **{**read.server, **_of(ServerOptions, values)})
    check_door(server)
    models = _models(sources, values, read)
    routes = (
        () if sources else tuple(_with_deadline(route, server.max_call_s, origins) for route in read.routes.values())
    )
    is_default = not sources and not read.models
    _check_names(models, routes, origins)
    for model in models:
        if len(model.adapters) > model.num_adapters:
            raise ConfigError(f"{len(model.adapters)} adapters are named, max_adapters allows {model.max_adapters}")
    return ServiceOptions(
        models=models, routes=routes, server=server, origins=origins, file=file, is_default=is_default
    )


def _with_deadline(route: RouteOptions, max_call_s: float, origins: Mapping[str, str]) -> RouteOptions:
    if f"routes.{route.name}.need.deadline_s" in origins:
        return route
    return replace(route, need=replace(route.need, deadline_s=max_call_s))


def _models(sources: tuple[str, ...], values: Mapping[str, Any], read: ServiceFile) -> tuple[ModelOptions, ...]:
    given = _of(ModelOptions, values)
    if sources or not read.models:
        sources = sources or (DEFAULT_MODEL,)
        if given.get("name") and len(sources) > 1:
            raise ConfigError(f"--name names one model, {len(sources)} were given: leave it out")
        if given.get("adapters") and len(sources) > 1:
            raise ConfigError(f"--adapter is for one model, {len(sources)} were given: use a service file")
        return tuple(replace(ModelOptions(), source=source, **given) for source in sources)
    if given.get("adapters") and len(read.models) > 1:
        raise ConfigError(f"--adapter is for one model, {read.path} has {len(read.models)}: name the adapters there")
    if given.get("name"):
        raise ConfigError(f"--name names a MODEL of the command line; {read.path} names its own: leave it out")
    return tuple(replace(ModelOptions(**table, name=name), **given) for name, table in read.models.items())


def _check_names(models: Iterable[ModelOptions], routes: Iterable[RouteOptions], origins: Mapping[str, str]) -> None:
    names = [model.name for model in models]
    served = [name for model in models for name in (model.name, *dict(model.adapters)) if name]
    twice = [name for name in served if served.count(name) > 1]
    if twice:
        raise ConfigError(f"two models or adapters are named {twice[0]}: serve one of them under another name")
    for route in routes:
        here = origins.get(f"routes.{route.name}.model", "")
        if route.model not in names:
            there = hint(route.model, names) or f": there are {', '.join(names)}"
            raise ConfigError(f"{here}: routes.{route.name}.model: no model is named {shown(route.model)}{there}")
        if route.name in served and route.name != route.model:
            raise ConfigError(f"{here}: routes.{route.name} would hide the model of that name: choose another name")


def model_options(name: str, given: Mapping[str, Any], default: ModelOptions, where: str) -> ModelOptions:
    """`default` with the typed values of a request over it. Raises ConfigError (400 for a client)."""
    known = {
        key: rule for key, rule in rules(ModelOptions).items() if key not in ("name", "source", "preload", "adapters")
    }
    values = {}
    for key, value in given.items():
        if key not in known:
            raise ConfigError(f"{where}.{shown(key)} is not a setting of a model{hint(key, known)}")
        values[known[key]["field"]] = check(known[key], value, f"{where}.{key}")
    if name and not is_name(name):
        raise ConfigError(f"name: {shown(name)}: {NAME_RULE}")
    return replace(default, name=name, **values)


def effective(options: ServiceOptions) -> list[tuple[str, str, str]]:
    """(dotted key, value, where it comes from) of every setting that holds."""
    rows = []

    def origin(key: str) -> str:
        return options.origins.get(key, "default")

    def add(key: str, struct: Any, place: str = "") -> None:
        """`place`: the key in the file, where that is another."""
        for name, rule in rules(type(struct)).items():
            where = origin(f"{place or key}.{name}")
            if rule["is_flag"]:
                where = options.origins.get(name, where)
            rows.append((f"{key}.{name}", written(getattr(struct, rule["field"])), where))

    add("server", options.server)
    for model in options.models:
        add(f"models.{model.name or model.source}", model)
    for route in options.routes:
        key = f"routes.{route.name}"
        names = tuple(stage_name(stage) for stage in route.stages)
        for name in ("model", "unknown_fields"):
            rows.append((f"{key}.{name}", written(getattr(route, name)), origin(f"{key}.{name}")))
        rows.append((f"{key}.stages", written(names), origin(f"{key}.stages")))
        for i, stage in enumerate(route.stages):
            add(f"{key}.stages.{names[i]}", stage, f"{key}.stages.{i}")
        add(f"{key}.need", route.need)
    return rows


def _of(struct: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a struct's flags and variables, by field."""
    return {rules(struct)[name]["field"]: value for name, value in values.items() if name in flags(struct)}
