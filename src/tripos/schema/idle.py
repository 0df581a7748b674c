"""Keywords that say nothing as they stand: their value is what leaving them out means, so they are left out."""

from __future__ import annotations

from typing import Any

# Say something about a value and demand nothing of it.
ANNOTATIONS = frozenset({
    "$comment", "title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly",
    "contentEncoding", "contentMediaType", "discriminator",
})  # fmt: skip


def says_nothing(keyword: str, schema: dict[str, Any]) -> bool:
    """Whether `schema` means the same without `keyword`, which it has."""
    value = schema[keyword]
    if keyword == "uniqueItems":
        return value is False
    if keyword == "propertyNames":
        return _is_anything(value) or _without_annotations(value) == {"type": "string"}
    if keyword in ("unevaluatedProperties", "unevaluatedItems"):
        return _is_anything(value)
    if keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        return isinstance(value, dict) and all(each == [] or _is_anything(each) for each in value.values())
    if keyword == "not":
        return value is False
    if keyword == "contains":
        return schema.get("minContains") == 0 and "maxContains" not in schema
    if keyword in ("minContains", "maxContains"):
        return "contains" not in schema or says_nothing("contains", schema)
    if keyword == "if":
        return not {"then", "else"} & schema.keys() or all(
            _is_anything(schema[each]) for each in ("then", "else") if each in schema
        )
    if keyword in ("then", "else"):
        return "if" not in schema or _is_anything(value)
    if keyword == "nullable":  # OpenAPI's, before it had null as a type
        return value is False
    if keyword == "format":
        return not _may_be("string", schema)
    if keyword in ("minProperties", "maxProperties"):
        return _holds_anyway(keyword, schema)
    return False


def _holds_anyway(keyword: str, schema: dict[str, Any]) -> bool:
    value, required = schema[keyword], schema.get("required", ())
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if keyword == "minProperties":
        return value == 0 or (
            isinstance(required, list) and value == int(value) and value <= len(set(map(str, required)))
        )
    is_closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    properties = schema.get("properties", {})
    return is_closed and isinstance(properties, dict) and value == int(value) and value >= len(properties)


def _may_be(name: str, schema: dict[str, Any]) -> bool:
    names = schema.get("type", name)
    return name in (names if isinstance(names, list) else [names])


def _is_anything(schema: Any) -> bool:
    return schema is True or _without_annotations(schema) == {}


def _without_annotations(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    return {name: value for name, value in schema.items() if name not in ANNOTATIONS}
