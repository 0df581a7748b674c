"""Writes the tables of docs/reference anew from those of the code: `python docs/tables.py`.

A table stands between `<!-- fields: METHOD PATH [name] [without METHOD PATH] -->` and `<!-- end -->`; `name` is a field
that holds an object of its own. The routes stand between `<!-- routes -->` and `<!-- end -->`, the settings of a table
of tripos.toml between `<!-- settings: TABLE -->` and `<!-- end -->`.
"""

from __future__ import annotations

import re
from pathlib import Path

from tripos import config
from tripos.api.elsewhere import ELSEWHERE
from tripos.api.routes import ROUTES, Route
from tripos.wire.fields import Field, Table

PAGES = tuple(Path(__file__).parent / "reference" / name for name in ("http-api.md", "settings.md"))
_BLOCK = re.compile(
    r"<!-- (fields: (?P<asked>[^>]+)|settings: (?P<settings>[^>]+)|routes|elsewhere) -->\n.*?<!-- end -->", re.DOTALL
)
_ASKED = re.compile(r"(?P<route>[A-Z]+ \S+)(?: (?P<name>(?!without )\S+))?(?: without (?P<other>[A-Z]+ \S+))?")


def generate(page: str) -> str:
    """The page with every table as the code has it. Raises ValueError for a marker that names nothing."""

    def table_at(match: re.Match[str]) -> str:
        if match["settings"] is not None:
            lines = _settings(match["settings"])
        elif match["asked"] is not None:
            lines = _fields(match["asked"])
        else:
            lines = _routes() if match[1] == "routes" else _elsewhere()
        return "\n".join((f"<!-- {match[1]} -->", *lines, "<!-- end -->"))

    return _BLOCK.sub(table_at, page)


def _routes() -> list[str]:
    rows = []
    for route in ROUTES:
        path = route.operation.path.replace("{name}", "{id}")
        rows.append(f"| `{route.method} {path}` | {route.doc}{'. Public' * route.is_public} |")
    return ["| endpoint | what it does |", "|---|---|", *rows]


def _elsewhere() -> list[str]:
    return ["| path and all below | instead |", "|---|---|", *(f"| `{path}` | {word} |" for path, _, word in ELSEWHERE)]


def _fields(asked: str) -> list[str]:
    match = _ASKED.fullmatch(asked)
    if match is None:
        raise ValueError(f"a table is asked for as {asked!r}")
    table = _table(_route(match["route"]), match["name"])
    without = _table(_route(match["other"]), match["name"]) if match["other"] else {}
    rows = [_row(field) for field in table.values() if field.name not in without]
    return ["| field | value | meaning |", "|---|---|---|", *rows]


def _route(name: str) -> Route:
    for route in ROUTES:
        if f"{route.method} {route.path}" == name:
            return route
    raise ValueError(f"there is no route {name!r}")


def _table(route: Route, name: str | None) -> Table:
    if name is not None:
        return route.nested[name]
    if route.fields is None:
        raise ValueError(f"{route.path} takes no body")
    return route.fields


def _row(field: Field) -> str:
    return f"| `{field.name}` | {_value(field)} | {_meaning(field)} |"


def _settings(table: str) -> list[str]:
    rows = []
    for name, rule in config.tables()[table].items():
        flag = f"`{config.flag(name)}` | `{config.variable(name)}`" if rule["is_flag"] else "in the file only |"
        rows.append(f"| {flag} | `{name}` | {_default(rule)} | {_values(rule)} | {rule['doc']} |")
    return ["| flag | variable | key | default | values | what it does |", "|---|---|---|---|---|---|", *rows]


def _default(rule: config.Rule) -> str:
    default = rule["default"]
    if rule["kind"] == "switch":
        return "true" if default else "false"
    return str(default) if default not in ("", ()) else "none"


def _values(rule: config.Rule) -> str:
    if rule["choices"]:
        return ", ".join(f"`{choice}`" for choice in rule["choices"])
    if rule["kind"] in ("count", "seconds"):
        return f"{rule['low']:g} to {rule['high']:.10g}" + " seconds" * (rule["kind"] == "seconds")
    words = {
        "bytes": "bytes, or with a unit: `512MiB`, `4GiB`, `2GB`",
        "switch": "`true`, `false`",
        "paths": "paths; in a flag or variable with `:` between them",
        "names": "names; in a flag or variable with `,` between them",
        "named_paths": "a table of names and paths; in a flag or variable `NAME=PATH`",
    }
    return words.get(rule["kind"], rule["kind"])


def _value(field: Field) -> str:
    words: list[str] = [field.kind]
    if field.choices:
        words.append("one of " + ", ".join(field.choices))
    if field.low is not None and field.high is not None:
        words.append(f"{_number(field.low)} to {_number(field.high)}")
    if field.max_items is not None:
        words.append(f"up to {field.max_items} items")
    if field.max_bytes is not None:
        words.append(f"up to {field.max_bytes} bytes")
    if field.required:
        words.append("required")
    return ", ".join(words)


def _number(value: float) -> str:
    powers = {2**31 - 1: "2^31-1", 2**63 - 1: "2^63-1"}
    return powers.get(int(value), f"{value:g}")


def _meaning(field: Field) -> str:
    doc = field.doc.rstrip(".")
    if field.use == "refused":
        return f"Refused: {doc}."
    doc = f"{doc[:1].upper()}{doc[1:]}." if doc else ""
    return f"{doc} Accepted and ignored.".strip() if field.use == "ignored" else doc


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(generate(page.read_text(encoding="utf-8")), encoding="utf-8")
