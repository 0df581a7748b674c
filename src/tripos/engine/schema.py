"""JSON Schema: the keywords that are enforced, every other one refused by name, and limits on size.

`read_schema` turns a client's text into the schema that is compiled: checked, without annotations. Whatever passes here
is either enforced by the grammar or refused by its compiler; nothing is ignored in silence.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from tripos.engine.pattern import dangling_quantifier
from tripos.errors import InvalidRequest

MAX_DEPTH = 64
MAX_NODES = 20_000  # values of any kind
MAX_ENUM = 5_000
MAX_COUNT = 1 << 16  # of characters, items or properties that a schema may count
MAX_DIGITS = 15  # of a number, which every double has
MAX_DIVISOR_DECIMALS = 9  # of multipleOf

_TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
# keyword: what its value is
_KEYWORDS = {
    "$ref": "ref",
    "type": "type",
    "enum": "enum",
    "const": "value",
    "anyOf": "schemas",
    "oneOf": "schemas",
    "allOf": "schemas",
    "properties": "map",
    "patternProperties": "map",
    "$defs": "map",
    "definitions": "map",
    "additionalProperties": "schema",
    "items": "items",
    "prefixItems": "schemas",
    "additionalItems": "schema",
    "required": "names",
    "minProperties": "count",
    "maxProperties": "count",
    "minItems": "count",
    "maxItems": "count",
    "minLength": "count",
    "maxLength": "count",
    "pattern": "pattern",
    "format": "text",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "divisor",
}
# Say something about a value and demand nothing of it.
_ANNOTATIONS = frozenset({
    "$comment", "title", "description", "default", "example", "examples", "deprecated", "readOnly", "writeOnly",
    "contentEncoding", "contentMediaType", "discriminator",
})  # fmt: skip
_DRAFTS = ("draft-06", "draft-07", "draft/2019-09", "draft/2020-12")


class SchemaProblem(InvalidRequest):
    code = "invalid_schema"


def read_schema(source: str) -> Any:
    """The schema to compile. Raises SchemaProblem (invalid_schema, unsupported_schema, grammar_too_complex)."""
    try:
        schema = json.loads(source, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except RecursionError:
        raise _too_complex(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as problem:
        raise SchemaProblem(f"the schema is not JSON: {problem}") from None
    return check_schema(schema)


def check_schema(schema: Any) -> Any:
    """As read_schema, of a value."""
    _check_size(schema)
    if not isinstance(schema, dict):
        raise SchemaProblem(f"the schema is {json.dumps(schema)[:40]}: it must be an object")
    return _Reader(schema).read(schema, "schema")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _check_size(schema: Any) -> None:
    level, num_nodes = [schema], 0
    for _ in range(MAX_DEPTH + 1):
        num_nodes += len(level)
        if num_nodes > MAX_NODES:
            raise _too_complex(f"it has more than {MAX_NODES} values")
        for value in level:
            if isinstance(value, float) and not math.isfinite(value):
                raise SchemaProblem("the schema holds a number that is too large")
        level = [part for value in level for part in _parts(value)]
        if not level:
            return
    raise _too_complex(f"it is nested deeper than {MAX_DEPTH} levels")


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


class _Reader:
    """Walks the places where a schema may stand; what stands elsewhere (enum, const) is data."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root

    def read(self, schema: Any, path: str) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise SchemaProblem(f"{path} is {json.dumps(schema)[:40]}: a schema is an object, true or false")
        return {
            keyword: self._value(keyword, value, schema, path)
            for keyword, value in schema.items()
            if not self._is_annotation(keyword, value, path)
        }

    def _is_annotation(self, keyword: str, value: Any, path: str) -> bool:
        if keyword in _KEYWORDS:
            return False
        if keyword == "$schema" and path == "schema":
            if not any(draft in str(value) for draft in _DRAFTS):
                raise _unsupported("$schema", path, f"it names {str(value)[:80]!r}, known are {', '.join(_DRAFTS)}")
            return True
        if keyword in _ANNOTATIONS or (keyword == "$id" and path == "schema"):
            return True
        raise _unsupported(keyword, path, "leave it out, or express it with the keywords that are")

    def _value(self, keyword: str, value: Any, schema: dict[str, Any], path: str) -> Any:
        kind, at = _KEYWORDS[keyword], f"{path}.{keyword}"
        if kind == "schema":
            return self.read(value, at)
        if kind == "schemas" or (kind == "items" and isinstance(value, list)):
            if not isinstance(value, list) or (not value and kind == "schemas"):
                raise SchemaProblem(f"{at} must be a list of schemas, at least one")
            if keyword == "oneOf":  # the compiler looks into its parts, to see that no two can match
                value = [self._referred(part) for part in value]
            return [self.read(part, f"{at}[{i}]") for i, part in enumerate(value)]
        if kind == "items":
            return self.read(value, at)
        if kind == "map":
            if not isinstance(value, dict):
                raise SchemaProblem(f"{at} must be an object of schemas")
            if keyword == "patternProperties":
                for name in value:
                    _check_pattern(name, at)
            return {name: self.read(part, f"{at}.{name[:40]}") for name, part in value.items()}
        if kind == "ref":
            self._check_ref(value, at)
        else:
            _check_value(kind, value, at)
        return int(value) if kind == "count" else value

    def _referred(self, part: Any) -> Any:
        """What a part that is nothing but a reference refers to."""
        for _ in range(MAX_DEPTH):
            ref = part.get("$ref") if isinstance(part, dict) and part.keys() - _ANNOTATIONS == {"$ref"} else None
            target = resolve(self._root, ref) if isinstance(ref, str) and ref.startswith("#/") else None
            if target is None:
                break
            part = target
        return part

    def _check_ref(self, ref: Any, at: str) -> None:
        """A reference must lead to a schema in this one, and not only to itself."""
        seen = set()
        while True:
            if not isinstance(ref, str):
                raise SchemaProblem(f"{at} must be a text")
            if ref != "#" and not ref.startswith("#/"):
                raise _unsupported("$ref", at, f"{ref[:80]!r} is not of the form #/... into this schema")
            if ref in seen:
                raise _unsupported("$ref", at, f"{ref[:80]!r} leads only to itself")
            seen.add(ref)
            target = resolve(self._root, ref)
            if target is None:
                raise _unsupported("$ref", at, f"there is nothing at {ref[:80]!r}")
            if not isinstance(target, dict) or "$ref" not in target:
                return
            ref = target["$ref"]


def resolve(root: Any, ref: str) -> Any:
    """What a reference "#/..." points at, None when nothing is there (RFC 6901, in a URI fragment)."""
    from urllib.parse import unquote

    value = root
    for part in unquote(ref).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def _check_value(kind: str, value: Any, at: str) -> None:
    if kind == "type":
        for name in value if isinstance(value, list) else [value]:
            if name not in _TYPES:
                raise SchemaProblem(f"{at} is {json.dumps(name)[:40]}: it must be one of {', '.join(_TYPES)}")
        if value == []:
            raise SchemaProblem(f"{at} is an empty list: nothing can match")
    elif kind == "enum":
        if not isinstance(value, list) or not value:
            raise SchemaProblem(f"{at} must be a list of at least one value")
        if len(value) > MAX_ENUM:
            raise _too_complex(f"{at} lists {len(value)} values, at most {MAX_ENUM} may be")
        _check_digits(value, at)
    elif kind == "value":
        _check_digits(value, at)
    elif kind == "names":
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise SchemaProblem(f"{at} must be a list of names")
    elif kind in ("text", "pattern"):
        if not isinstance(value, str):
            raise SchemaProblem(f"{at} must be a text")
        if kind == "pattern":
            _check_pattern(value, at)
    elif kind == "count":
        if not _is_number(value) or value < 0 or value != int(value):
            raise SchemaProblem(f"{at} is {json.dumps(value)[:40]}: it must be a whole number, at least 0")
        if value > MAX_COUNT:
            raise _too_complex(f"{at} is {value}, at most {MAX_COUNT} is possible")
    elif kind in ("number", "divisor"):
        if not _is_number(value):
            raise SchemaProblem(f"{at} is {json.dumps(value)[:40]}: it must be a number")
        _check_digits(value, at)
        if kind == "divisor":
            _check_divisor(value, at)


def _check_divisor(value: float, at: str) -> None:
    if value <= 0:
        raise SchemaProblem(f"{at} is {value}: it must be larger than 0")
    # The compiler counts in units of the last decimal, in 32 bits: of 5e-10 it takes 3.0000000001 for a multiple.
    if int(Decimal(repr(value)).normalize().as_tuple().exponent) < -MAX_DIVISOR_DECIMALS:
        advice = f"{value!r} has more than {MAX_DIVISOR_DECIMALS} decimals: round it"
        raise _unsupported("multipleOf", at.rpartition(".")[0], advice)


def _check_pattern(pattern: str, at: str) -> None:
    found = dangling_quantifier(pattern)
    if found is not None:
        place, quantifier = found
        raise SchemaProblem(f"{at}: {quantifier!r} at position {place} of {pattern[:80]!r} has nothing to repeat")


def _check_digits(value: Any, at: str) -> None:
    """Numbers with more digits than a double surely keeps would be enforced as their neighbours."""
    if _is_number(value):
        _, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
        if len(digits) > MAX_DIGITS or int(exponent) < -MAX_DIGITS:
            advice = f"{value!r} has more than {MAX_DIGITS} digits or decimals: round it"
            raise _unsupported(at.rpartition(".")[2], at.rpartition(".")[0], advice)
    for part in _parts(value):
        _check_digits(part, at)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unsupported(keyword: str, path: str, advice: str) -> SchemaProblem:
    return SchemaProblem(f"the keyword {keyword!r} in {path} is not supported: {advice}", code="unsupported_schema")


def _too_complex(cause: str) -> SchemaProblem:
    return SchemaProblem(f"the schema is too complex: {cause}", code="grammar_too_complex")
