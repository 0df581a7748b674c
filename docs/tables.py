"""Writes the tables of docs/reference anew from those of the code: `python docs/tables.py`.

A table stands between `<!-- fields: METHOD PATH [name] [without METHOD PATH] -->` and `<!-- end -->`; `name` is a field
that holds an object of its own. The routes stand between `<!-- routes -->` and `<!-- end -->`, the settings of a table
of tripos.toml between `<!-- settings: TABLE -->` and `<!-- end -->`. With `foreign` instead of `fields` the names are
those that other servers have.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path

from tripos import config
from tripos.api.not_implemented import FAMILIES
from tripos.api.routes import ROUTES, Route
from tripos.wire.fields import Field, Table

PAGES = tuple(Path(__file__).parent / "reference" / name for name in ("http-api.md", "settings.md"))
_BLOCK = re.compile(
    r"<!-- ((?P<kind>fields|foreign): (?P<asked>[^>]+)|settings: (?P<settings>[^>]+)|routes|not implemented) -->\n"
    r".*?<!-- end -->",
    re.DOTALL,
)
_ASKED = re.compile(r"(?P<route>[A-Z]+ \S+)(?: (?P<name>(?!without )\S+))?(?: without (?P<other>[A-Z]+ \S+))?")


def generate(page: str) -> str:
    """The page with every table as the code has it. Raises ValueError for a marker that names nothing."""

    def table_at(match: re.Match[str]) -> str:
        if match["settings"] is not None:
            lines = _settings(match["settings"])
        elif match["asked"] is not None:
            lines = _fields(match["asked"], is_foreign=match["kind"] == "foreign")
        else:
            lines = _routes() if match[1] == "routes" else _not_implemented()
        return "\n".join((f"<!-- {match[1]} -->", *lines, "<!-- end -->"))

    return _BLOCK.sub(table_at, page)


def _routes() -> list[str]:
    rows = []
    for route in ROUTES:
        path = route.operation.path.replace("{name}", "{id}")
        rows.append(f"| `{route.method} {path}` | {route.doc}{'. Public' * route.is_public} |")
    return ["| endpoint | what it does |", "|---|---|", *rows]


def _not_implemented() -> list[str]:
    return ["| path and all below | instead |", "|---|---|", *(f"| `{path}` | {word} |" for path, _, word in FAMILIES)]


def _fields(asked: str, *, is_foreign: bool) -> list[str]:
    match = _ASKED.fullmatch(asked)
    if match is None:
        raise ValueError(f"a table is asked for as {asked!r}")
    table = _table(_route(match["route"]), match["name"])
    without = _table(_route(match["other"]), match["name"]) if match["other"] else {}
    fields = [field for field in table.values() if field != without.get(field.name) and field.is_foreign == is_foreign]
    if is_foreign:
        return _foreign(fields)
    return ["| field | value | meaning |", "|---|---|---|", *map(_row, fields)]


def _foreign(fields: list[Field]) -> list[str]:
    """A row for the names that have the same answer."""
    rows = []
    for (use, doc), group in groupby(fields, lambda field: (field.use, field.doc)):
        names = ", ".join(f"`{field.name}`{_silent(field)}" for field in group)
        rows.append(f"| {names} | {'Refused: ' * (use == 'refused')}{doc.rstrip('.')}. |")
    return ["| names | what becomes of them |", "|---|---|", *rows]


def _silent(field: Field) -> str:
    """The values that do nothing."""
    return f" ({', '.join(map(_json, field.nothing))})" if field.nothing else ""


def _json(value: object) -> str:
    return f"`{json.dumps(value)}`" if value != "" else "empty"


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
    if field.nothing:
        words.append("nothing said by " + " or ".join(map(_json, field.nothing)))
    return ", ".join(words)


def _number(value: float) -> str:
    powers = {2**31 - 1: "2^31-1", 2**63 - 1: "2^63-1"}
    return powers.get(int(value), f"{value:g}")


def _meaning(field: Field) -> str:
    doc = field.doc.rstrip(".")
    if field.use == "refused":
        return f"Refused: {doc}."
    doc = f"{doc[:1].upper()}{doc[1:]}." if doc else ""
    endings = {"met": "Accepted: it is so.", "ignored": "Accepted and named."}
    return f"{doc} {endings[field.use]}".strip() if field.use in endings else doc


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(generate(page.read_text(encoding="utf-8")), encoding="utf-8")
