"""Values that a JSON Schema of OpenAI's document describes: every enumeration, every alternative, every property."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

MAX_DEPTH = 12  # of references inside each other; schemas that hold themselves end there


class SpecValues:
    """`components` are the document's schemas by name."""

    def __init__(self, components: Mapping[str, Schema]) -> None:
        self._components = components

    def properties(self, schema: Schema) -> dict[str, Schema]:
        """Of an object that may be put together of several."""
        found: dict[str, Schema] = {}
        for part in self._parts(schema):
            found |= part.get("properties", {})
        return found

    def values(self, schema: Schema, depth: int = 0) -> Iterator[Any]:
        """One thing varied at a time; the rest is as small as the schema allows."""
        schema = self._resolved(schema)
        for kind in ("oneOf", "anyOf"):
            for alternative in schema.get(kind, ()):
                yield from self.values(alternative, depth + 1)
        is_union = "properties" not in schema and ("oneOf" in schema or "anyOf" in schema)
        if is_union or depth > MAX_DEPTH:
            return
        if "enum" in schema or "const" in schema:
            yield from schema.get("enum", [schema.get("const")])
            return
        for kind in self._types(schema):
            yield from self._of_type(kind, schema, depth)

    def smallest(self, schema: Schema, depth: int = 0) -> Any:
        """A value with what is required and nothing more."""
        schema = self._resolved(schema)
        for kind in ("oneOf", "anyOf"):
            if schema.get(kind) and "properties" not in schema:
                return self.smallest(schema[kind][0], depth + 1)
        if "enum" in schema or "const" in schema:
            return schema.get("enum", [schema.get("const")])[0]
        kind = next(iter(self._types(schema)), "null")
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return [self.smallest(schema.get("items", {}), depth + 1)] * schema.get("minItems", 0)
        return next(self._of_type(kind, schema, depth))

    def _of_type(self, kind: str, schema: Schema, depth: int) -> Iterator[Any]:
        if kind == "string":
            yield "x" * max(1, schema.get("minLength", 1))
        elif kind in ("integer", "number"):
            bounds = [schema[name] for name in ("minimum", "maximum", "default") if schema.get(name) is not None]
            yield from dict.fromkeys(bounds or [1])
        elif kind == "boolean":
            yield from (False, True)
        elif kind == "null":
            yield None
        elif kind == "array":
            for value in self.values(schema.get("items", {}), depth + 1):
                yield [value] * max(1, schema.get("minItems", 1))
        else:
            yield from self._objects(schema, depth)

    def _objects(self, schema: Schema, depth: int) -> Iterator[Any]:
        least = self._object(schema, depth)
        yield least
        for name, inner in self.properties(schema).items():
            for value in self.values(inner, depth + 1):
                if name not in least or least[name] != value:
                    yield {**least, name: value}
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping) and extra:
            yield {**least, "1": self.smallest(extra, depth + 1)}

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties = self.properties(schema)
        required = {name for part in self._parts(schema) for name in part.get("required", ())}
        return {
            name: self.smallest(inner, depth + 1) if depth <= MAX_DEPTH else None
            for name, inner in properties.items()
            if name in required
        }

    def _resolved(self, schema: Schema) -> Schema:
        """What a reference, or a lone part, stands for."""
        while True:
            if "$ref" in schema:
                schema = self._components[schema["$ref"].rpartition("/")[2]]
            elif len(schema.get("allOf", ())) == 1 and "properties" not in schema:
                schema = schema["allOf"][0]
            else:
                return schema

    def _parts(self, schema: Schema) -> Iterator[Schema]:
        schema = self._resolved(schema)
        yield schema
        for part in schema.get("allOf", ()):
            yield from self._parts(part)

    def _types(self, schema: Schema) -> list[str]:
        kinds = schema.get("type")
        if kinds is None:
            return ["object"] if self.properties(schema) else []
        return [kinds] if isinstance(kinds, str) else list(kinds)
