"""tripos.toml: the service file. Every error names the file, the line and the key; an unknown key the nearest one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tripos.config.lines import Key, key_lines
from tripos.config.options import (
    STAGES,
    ModelOptions,
    NeedOptions,
    RouteOptions,
    Rule,
    ServerOptions,
    StageOptions,
    rules,
    stage_name,
)
from tripos.config.values import check, hint
from tripos.errors import ConfigError, shown
from tripos.models.files.opening import open_regular

DEFAULT_FILE = "tripos.toml"
MAX_FILE_BYTES = 1 << 20
MAX_NAME_CHARS = 128
NAME_RULE = f"a name has 1 to {MAX_NAME_CHARS} printable characters"
LATER = ("ttft_s", "tpot_s", "p95_ttft_s", "p95_tpot_s", "max_cost")  # of a need
_SCHEME = re.compile(r"[a-z]+:")


@dataclass(frozen=True)
class ServiceFile:
    """The content of a file: values by field, and the line of each dotted key."""

    path: str
    server: dict[str, Any]
    models: dict[str, dict[str, Any]]
    routes: dict[str, RouteOptions]
    origins: dict[str, str]


def is_name(text: str) -> bool:
    """Whether a text may be the name of a model or a route."""
    return 0 < len(text) <= MAX_NAME_CHARS and text.isprintable()


def find_file(given: str) -> str:
    """The file that was asked for, else ./tripos.toml if there is one, else none ("")."""
    return given or (DEFAULT_FILE if Path(DEFAULT_FILE).exists() else "")


def read_file(path: str) -> ServiceFile:
    """Raises ConfigError."""
    import tomllib

    text = _read(path)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(path, text, str(error)) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deep") from None
    return _Reader(path, key_lines(text)).read(tree)


def _read(path: str) -> str:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the service file cannot be read: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, the limit of a service file")
    try:
        return data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: the service file is not UTF-8: save it as TOML in UTF-8") from None


def _syntax_error(path: str, text: str, reason: str) -> ConfigError:
    place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", reason)
    line = int(place[1]) if place and place[1] else text.rstrip().count("\n") + 1
    return ConfigError(f"{path}:{line}: {reason[: place.start() if place else 200][:200]}")


class _Reader:
    def __init__(self, path: str, lines: Mapping[Key, int]) -> None:
        self._path, self._lines = path, lines
        self._folder = Path(path).parent
        self._origins: dict[str, str] = {}

    def read(self, tree: dict[str, Any]) -> ServiceFile:
        self._check_keys((), tree, ("server", "models", "routes"))
        server = self._values(("server",), self._table(("server",), tree.get("server", {})), ServerOptions)
        models = {name: self._model(name, value) for name, value in self._named("models", tree).items()}
        routes = {name: self._route(name, value) for name, value in self._named("routes", tree).items()}
        return ServiceFile(self._path, server, models, routes, self._origins)

    def _named(self, kind: str, tree: dict[str, Any]) -> dict[str, Any]:
        tables = self._table((kind,), tree.get(kind, {}))
        for name in tables:
            if not is_name(name):
                raise self._error((kind, name), NAME_RULE)
        return tables

    def _model(self, name: str, value: Any) -> dict[str, Any]:
        key = ("models", name)
        self._origins[".".join(key)] = self._where(key)
        table = self._table(key, value)
        if "name" in table:
            raise self._error((*key, "name"), f"the table is the name: write [models.{table['name']}]")
        if "source" not in table:
            raise self._error(key, "source is missing: a directory, a .gguf file, hf:org/name or demo:assistant")
        return self._values(key, table, ModelOptions)

    def _route(self, name: str, value: Any) -> RouteOptions:
        key = ("routes", name)
        self._origins[".".join(key)] = self._where(key)
        table = self._table(key, value)
        self._check_keys(key, table, ("model", "unknown_fields", "stages", "need"))
        if "model" not in table:
            raise self._error(key, "model is missing: name one of [models]")
        own = {name: table[name] for name in rules(RouteOptions) if name in table}
        given = self._values(key, own, RouteOptions)
        if "stages" in table:
            given["stages"] = self._stages((*key, "stages"), table["stages"])
        if "need" in table:
            given["need"] = self._need((*key, "need"), table["need"])
        route = RouteOptions(name=name, **given)
        has_deadline = "deadline" in [stage_name(stage) for stage in route.stages]
        if not has_deadline and f"routes.{name}.need.deadline_s" in self._origins:
            raise self._error((*key, "need", "deadline_s"), 'needs the stage "deadline", which stages leaves out')
        return route

    def _need(self, key: Key, value: Any) -> NeedOptions:
        table = self._table(key, value)
        for name in LATER:
            if name in table:
                reason = f"{name} is not acted upon yet: a need has {', '.join(rules(NeedOptions))}"
                raise self._error((*key, name), reason)
        return NeedOptions(**self._values(key, table, NeedOptions))

    def _stages(self, key: Key, value: Any) -> tuple[StageOptions, ...]:
        if not isinstance(value, list):
            raise self._error(key, 'is not a list such as ["limits", "deadline"]')
        self._origins[".".join(key)] = self._where(key)
        stages = [self._stage((*key, str(i)), each) for i, each in enumerate(value)]
        names = [stage_name(stage) for stage in stages]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise self._error(key, f"lists {twice[0]} twice")
        return tuple(stages)

    def _stage(self, key: Key, value: Any) -> StageOptions:
        table = dict(self._table(key, {"stage": value} if isinstance(value, str) else value))
        name = table.pop("stage", None)
        if not isinstance(name, str):
            raise self._error(key, 'a stage is a name, or a table with a name: {stage = "limits", max_n = 4}')
        if name not in STAGES:
            raise self._error(key, f"{shown(name)} is not a stage{hint(name, STAGES)}")
        return STAGES[name](**self._values(key, table, STAGES[name]))

    def _values(self, key: Key, table: dict[str, Any], struct: type) -> dict[str, Any]:
        """The settings of a table, by field."""
        known: dict[str, Rule] = rules(struct)
        self._check_keys(key, table, known)
        values = {}
        for name, value in table.items():
            rule, here = known[name], (*key, name)
            checked = check(rule, value, f"{self._where(here)}: {name}")
            values[rule["field"]] = self._located(rule, checked)
            self._origins[".".join(here)] = self._where(here)
        return values

    def _located(self, rule: Rule, value: Any) -> Any:
        """Paths are relative to the file that names them."""
        if rule["kind"] == "paths":
            return tuple(str(self._folder / each) for each in value)
        if rule["kind"] == "named_paths":
            return tuple((name, str(self._folder / path)) for name, path in value)
        if rule["kind"] == "path" and value and not _SCHEME.match(value):
            return str(self._folder / value)
        return value

    def _check_keys(self, key: Key, table: dict[str, Any], known: Iterable[str]) -> None:
        known = tuple(known)
        for name in table:
            if name not in known:
                place = f"[{'.'.join(key)}]" if key else "a service file"
                raise self._error((*key, name), f"{shown(name)} is not known in {place}{hint(name, known)}")

    def _table(self, key: Key, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(key, f"{'.'.join(key)} is {shown(value)}, not a table")
        return value

    def _where(self, key: Key) -> str:
        """file:line of a key, or of what holds it."""
        while key and key not in self._lines:
            key = key[:-1]
        return f"{self._path}:{self._lines.get(key, 1)}"

    def _error(self, key: Key, reason: str) -> ConfigError:
        dotted = ".".join(part if len(part) <= 60 else part[:57] + "..." for part in key)
        return ConfigError(f"{self._where(key)}: {dotted}: {reason}")
