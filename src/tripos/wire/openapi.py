"""The OpenAPI 3.1 document of what is served, made of the tables that decode."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from tripos.errors import InvalidRequest, TriposError
from tripos.wire.fields import EMPTY, Field, Table

_ERROR = InvalidRequest("temperature is 3, outside 0 to 2", code="out_of_range", param="temperature")
_NAMES = re.compile(r"\{(\w+)\}")  # parameters of a path
_KEYS: list[dict[str, list[str]]] = [{"bearer": []}, {"x-api-key": []}]


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. `fields`: of a JSON body; `body_type`: of a body that is not JSON. `stream_type`: the
    content type of its stream, or nothing."""

    method: str
    path: str
    doc: str
    fields: Table | None
    nested: dict[str, Table]
    body_type: str = "application/json"
    stream_type: str
    example_error: Callable[[TriposError, str], dict[str, Any]]
    is_public: bool
    is_strict: bool = False  # refuses fields that nobody knows


def encode_document(operations: Iterable[Operation], version: str) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tripos", "version": version, "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"}},
        "paths": paths,
        "components": {"securitySchemes": schemes},
        "security": [*_KEYS, {}],  # none, where no keys are configured
    }


def _operation(operation: Operation) -> dict[str, Any]:
    encoded: dict[str, Any] = {
        "operationId": _id(operation),
        "summary": operation.doc,
        "responses": _responses(operation),
    }
    if operation.is_public:
        encoded["security"] = []
    if names := _NAMES.findall(operation.path):
        schema: dict[str, Any] = {"type": "string"}
        encoded["parameters"] = [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]
    if operation.body_type != "application/json":
        binary = {"schema": {"type": "string", "format": "binary"}}
        encoded["requestBody"] = {"required": True, "content": {operation.body_type: binary}}
    elif operation.fields is not None:
        schema = encode_table(operation.fields, operation.nested, is_strict=operation.is_strict)
        encoded["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return encoded


def _id(operation: Operation) -> str:
    words = _NAMES.sub(r"by_\1", operation.path).replace(".", "_").strip("/").split("/")
    return "_".join([operation.method.lower(), *filter(None, words)])


def _responses(operation: Operation) -> dict[str, Any]:
    kind = "text/plain" if operation.path == "/metrics" else "application/json"
    content: dict[str, Any] = {kind: {"schema": {"type": "string" if kind == "text/plain" else "object"}}}
    if operation.stream_type:
        content[operation.stream_type] = {"schema": {"type": "string"}}
    example = operation.example_error(_ERROR, "req-0")
    error = {"schema": {"type": "object", "required": list(example)}, "example": example}
    return {
        "200": {"description": operation.doc, "content": content},
        "default": {"description": "An error, with its code", "content": {"application/json": error}},
    }


def encode_table(
    fields: Table, nested: Mapping[str, Table] | None = None, *, is_strict: bool = False
) -> dict[str, Any]:
    """The JSON Schema of an object: what it refuses here is refused by the server too."""
    inner = nested or {}
    properties = {}
    for name, field in fields.items():
        schema = _schema(field)
        if name in inner:
            schema = {**schema, **encode_table(inner[name], is_strict=is_strict), "type": schema["type"]}
        properties[name] = schema
    required = [name for name, field in fields.items() if field.required]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": not is_strict}


def _schema(field: Field) -> dict[str, Any]:
    """null means absent, where a field may be, and so do the values that say nothing."""
    if field.use == "refused":
        silent = [None, *(each for each in EMPTY if field.says_nothing(each)), *field.nothing]
        return {"description": f"Refused: {field.doc}", "x-tripos-use": "refused", "enum": silent}
    schema: dict[str, Any] = {"description": field.doc, "x-tripos-use": field.use}
    if field.use != "honoured":
        return schema
    if field.nothing:
        bounded = _bounds(field)
        return {**schema, "anyOf": [bounded, {"enum": list(field.nothing)}]} if bounded else schema
    return schema | _bounds(field)


def _bounds(field: Field) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    if field.kind != "any":
        schema["type"] = field.kind if field.required else [field.kind, "null"]
    most = {"array": "maxItems", "object": "maxProperties"}
    bounds = {
        "minimum": field.low,
        "maximum": field.high,
        most.get(field.kind, "maxItems"): field.max_items,
        "maxLength": field.max_bytes,
    }
    schema |= {name: bound for name, bound in bounds.items() if bound is not None}
    if field.choices:
        schema["enum"] = list(field.choices) if field.required else [*field.choices, None]
    return schema
