"""Parts of a schema: what a reference leads to, and whether two parts can match the same value."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any
from urllib.parse import unquote

_MAX_REFERENCES = 64  # one behind the other
_PLACE = re.compile("0|[1-9][0-9]{0,8}")  # in a list
_MAX_DEPTH = 4  # of properties that tell two objects apart


def resolve(root: Any, ref: str) -> Any:
    """What a reference "#/..." points at, None when nothing is there (RFC 6901, in a URI fragment)."""
    value = root
    for part in unquote(ref).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and _PLACE.fullmatch(part) and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def are_disjoint(parts: list[Any], root: Any) -> bool:
    """Whether it is evident that no value matches two of `parts`, each of which has been read."""
    return all(_are_disjoint(a, b, root, _MAX_DEPTH) for a, b in combinations(parts, 2))


def _are_disjoint(a: Any, b: Any, root: Any, depth: int) -> bool:
    a, b = _target(a, root), _target(b, root)
    if a is False or b is False:
        return True
    if not isinstance(a, dict) or not isinstance(b, dict):
        return False
    if not _types(a) & _types(b):
        return True
    if (mine := _values(a)) is not None and (others := _values(b)) is not None:
        return not any(_is_same(one, other) for one in mine for other in others)
    if depth == 0 or "object" not in _types(a) & _types(b) or len(_types(a) & _types(b)) > 1:
        return False
    both = a.get("properties", {}).keys() & b.get("properties", {}).keys()
    needed = {*a.get("required", ()), *b.get("required", ())}
    return any(_are_disjoint(a["properties"][name], b["properties"][name], root, depth - 1) for name in both & needed)


def _target(schema: Any, root: Any) -> Any:
    for _ in range(_MAX_REFERENCES):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        schema = resolve(root, schema["$ref"])
    return schema


def _types(schema: dict[str, Any]) -> set[str]:
    names = schema.get("type", ["null", "boolean", "number", "string", "array", "object"])
    if "type" not in schema and (values := _values(schema)) is not None:
        names = [_type_of(value) for value in values]
    return {"number" if name == "integer" else name for name in (names if isinstance(names, list) else [names])}


def _values(schema: dict[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return values if isinstance(values, list) else None


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    names = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def _is_same(a: Any, b: Any) -> bool:
    return _type_of(a) == _type_of(b) and bool(a == b)
