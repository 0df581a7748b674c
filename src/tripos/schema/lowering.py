"""A schema that was read → the schema that is compiled: the same texts, or fewer, in words that the compiler keeps."""

from __future__ import annotations

from typing import Any

from tripos.schema.ecma262 import translated
from tripos.schema.formats import MAX_HOSTNAME, PATTERNS
from tripos.schema.numbers import BOUNDS, as_written, lowered

_ONES = ("additionalProperties", "additionalItems", "items")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems", "items")
_MAPS = ("properties", "$defs", "definitions")


def lower(schema: Any) -> Any:
    """Lower a schema from reading.py."""
    if not isinstance(schema, dict):
        return schema
    found = {name: _lower_part(name, value) for name, value in schema.items()}
    if found.keys() & {*BOUNDS, "multipleOf"}:
        for name in BOUNDS:
            found.pop(name, None)
        found.pop("multipleOf", None)
        numbers = lowered(schema)
        parts = as_written(numbers) if schema.get("type") == "number" else [numbers]
        if len(parts) == 1:
            found.update(parts[0])
        else:
            found["allOf"] = [*found.get("allOf", ()), {"anyOf": [{"type": "number", **part} for part in parts]}]
    if found.get("format") == "hostname":
        found["maxLength"] = min(found.get("maxLength", MAX_HOSTNAME), MAX_HOSTNAME)
    if found.get("format") in PATTERNS:
        pattern = PATTERNS[found.pop("format")]
        if "pattern" in found:
            found["allOf"] = [*found.get("allOf", ()), {"pattern": pattern}]
        else:
            found["pattern"] = pattern
    return found


def _lower_part(name: str, value: Any) -> Any:
    if name in _LISTS and isinstance(value, list):
        return [lower(each) for each in value]
    if name in _ONES:
        return lower(value)
    if name in _MAPS:
        return {key: lower(each) for key, each in value.items()}
    if name == "patternProperties":
        return {translated(key): lower(each) for key, each in value.items()}
    return translated(value) if name == "pattern" else value
