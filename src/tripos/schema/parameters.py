"""JSON Schemas of tools' parameters: what is no schema is refused with its path; what only people read is left out."""

from __future__ import annotations

from typing import Any

from tripos.errors import InvalidRequest, shown

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # name → schema
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_ONES = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
# What JSON Schema (drafts 7 to 2020-12) lets a schema demand. Every other keyword says something to people.
_DEMANDING = frozenset((
    *_MAPS, *_LISTS, *_ONES, "type", "enum", "const", "required", "format", "multipleOf", "maximum", "exclusiveMaximum",
    "minimum", "exclusiveMinimum", "maxLength", "minLength", "pattern", "maxItems", "minItems", "uniqueItems",
    "maxContains", "minContains", "maxProperties", "minProperties", "dependentRequired", "dependencies",
    "additionalItems", "unevaluatedItems", "unevaluatedProperties", "$ref", "$dynamicRef", "$recursiveRef", "$anchor",
    "$dynamicAnchor",
))  # fmt: skip
# A format demands nothing unless both sides agree on it: on these.
_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
_COMPOSING = frozenset(
    ("$ref", "allOf", "anyOf", "oneOf", "not", "if", "patternProperties", "unevaluatedProperties", "dependentSchemas")
)


def check_parameters(schema: Any, path: str) -> None:
    """An object whose parts are schemas and whose types exist. Raises InvalidRequest (invalid_schema)."""
    if not isinstance(schema, dict):
        raise _wrong(path, "must be a JSON Schema, an object")
    _check_type(schema, path)
    for name in _MAPS:
        inner = schema.get(name, {})
        if not isinstance(inner, dict):
            raise _wrong(f"{path}.{name}", "must be an object")
        for key, value in inner.items():
            _check_inner(value, f"{path}.{name}.{key[:64]}")
    for name in _LISTS:
        inner = schema.get(name, [])
        if not isinstance(inner, list):
            raise _wrong(f"{path}.{name}", "must be an array")
        for i, value in enumerate(inner):
            _check_inner(value, f"{path}.{name}[{i}]")
    for name in _ONES:
        if name in schema and not (name == "items" and isinstance(schema[name], list)):
            _check_inner(schema[name], f"{path}.{name}")
    required = schema.get("required", [])
    if not isinstance(required, list) or not all(isinstance(each, str) for each in required):
        raise _wrong(f"{path}.required", "must be an array of strings")
    if "enum" in schema and not (isinstance(schema["enum"], list) and schema["enum"]):
        raise _wrong(f"{path}.enum", "must be an array that is not empty")


def _check_inner(schema: Any, path: str) -> None:
    if not isinstance(schema, bool):  # true allows anything, false nothing
        check_parameters(schema, path)


def _check_type(schema: dict[str, Any], path: str) -> None:
    kind = schema.get("type", "object")
    for each in kind if isinstance(kind, list) else [kind]:
        if each not in TYPES:
            given = shown(each) if isinstance(each, str) else "no string"
            raise _wrong(f"{path}.type", f"is {given}, not one of {', '.join(TYPES)}")


def _wrong(path: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{path} {problem}", code="invalid_schema", param=path)


def bare(schema: Any) -> Any:
    """A checked schema without what only people read; objects that list their properties have no others."""
    if not isinstance(schema, dict):
        return schema
    result: dict[str, Any] = {}
    for name, value in schema.items():
        if name not in _DEMANDING or (name == "format" and value not in _FORMATS):
            continue
        if name in _MAPS:
            result[name] = {key: bare(each) for key, each in value.items()}
        elif isinstance(value, list) and name in (*_LISTS, "items"):
            result[name] = [_as_it_is(each) for each in value]
        else:
            result[name] = bare(value) if name in _ONES else value
    if "properties" in result and not _COMPOSING & result.keys():
        result.setdefault("additionalProperties", False)
    return result


def _as_it_is(schema: Any) -> Any:
    """A part of a composition, which other parts may add properties to."""
    closed = bare(schema)
    if isinstance(closed, dict) and "additionalProperties" not in schema:
        closed.pop("additionalProperties", None)
    return closed
