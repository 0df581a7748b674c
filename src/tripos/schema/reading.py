"""JSON Schema: the keywords that are enforced, every other one refused by name, and limits on size.

`read_schema` turns a client's text into the schema that is enforced: checked, without annotations and keywords
without effect. `relax` leaves out what cannot be enforced, and names it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from tripos.errors import SchemaProblem
from tripos.schema.ecma262 import PatternProblem, translated
from tripos.schema.formats import FORMATS
from tripos.schema.idle import ANNOTATIONS, says_nothing
from tripos.schema.numbers import (
    BOUNDS,
    have_multiple,
    inner_bound,
    is_countable,
    is_number,
    is_retained,
    lowered,
)
from tripos.schema.parts import are_disjoint, resolve

MAX_DEPTH = 64
MAX_NODES = 20_000  # values of any kind
MAX_ENUM = 5_000
MAX_COUNT = 1 << 16  # of minItems, maxItems, minProperties, maxProperties and minLength
MAX_LENGTH = (1 << 32) - 1  # of maxLength, in characters; larger values mean the same

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
    "maxLength": "length",
    "pattern": "pattern",
    "format": "format",
    **dict.fromkeys(BOUNDS, "bound"),
    "multipleOf": "divisor",
}
_DRAFTS = ("draft-06", "draft-07", "draft/2019-09", "draft/2020-12")


def read_schema(source: str) -> Any:
    """The schema to compile. Raises SchemaProblem (invalid_schema, unsupported_schema, grammar_too_complex)."""
    try:
        schema = json.loads(source, object_pairs_hook=_distinct, parse_constant=_no_constant)
    except RecursionError:
        raise _too_complex(f"it is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError as problem:
        raise SchemaProblem(f"the schema is not JSON: {problem}") from None
    return check_schema(schema)


def check_schema(schema: Any, path: str = "schema") -> Any:
    """As read_schema, of a value that stands at `path`."""
    _check_size(schema)
    if not isinstance(schema, dict):
        raise SchemaProblem(f"{path} is {json.dumps(schema)[:40]}: it must be an object")
    return _Reader(schema, path).read(schema, path)


def relax(schema: dict[str, Any], path: str) -> tuple[Any, tuple[str, ...]]:
    """The schema without what cannot be enforced, so that it accepts more, and where that stood.

    Raises SchemaProblem for a schema that is too large.
    """
    _check_size(schema)
    ignored: dict[str, None] = {}
    while True:  # a removed part may have been referred to
        found: list[str] = []
        schema = _Reader(schema, path, found).read(schema, path)
        ignored |= dict.fromkeys(found)
        if not found:
            return schema, tuple(ignored)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has the same name twice")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _check_size(schema: Any) -> None:
    level, num_nodes = [schema], 0
    for _ in range(MAX_DEPTH + 1):
        num_nodes += len(level)
        if num_nodes > MAX_NODES:
            raise _too_complex(f"it has more than {MAX_NODES} values of any kind")
        for value in level:
            if isinstance(value, float) and not math.isfinite(value):
                raise SchemaProblem("the schema contains a number that is too large")
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
    """Walks the places where a schema may stand; other values (enum, const) are data."""

    def __init__(self, root: dict[str, Any], path: str, ignored: list[str] | None = None) -> None:
        """`ignored` gets the keywords that are left out because they cannot be enforced; without it they are
        refused."""
        self._root = root
        self._path = path
        self._ignored = ignored
        self._divisors: dict[float, str] = {}

    def read(self, schema: Any, path: str) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise SchemaProblem(f"{path} is {json.dumps(schema)[:40]}: a schema is an object, true or false")
        found: dict[str, Any] = {}
        for keyword in schema:
            try:
                if not self._is_silent(keyword, schema, path):
                    found[keyword] = self._value(keyword, schema[keyword], schema, path)
            except SchemaProblem as problem:
                self._leave_out([keyword], path, problem)
        if self._ignored is not None:
            found = self._widened(found, schema, path)
        names = [name for name in BOUNDS if name in found]
        try:
            lowered(found)
            return found
        except ValueError as problem:
            self._leave_out(names, path, SchemaProblem(f"{path}: {problem}"))
        except OverflowError:
            self._leave_out(names, path, _unsupported(names[0], path, "its bounds lie too close together"))
        return {name: value for name, value in found.items() if name not in names}

    def _leave_out(self, keywords: list[str], path: str, problem: SchemaProblem) -> None:
        if self._ignored is None:
            raise problem
        self._ignored += [f"{path}.{keyword}" for keyword in keywords]

    def _is_silent(self, keyword: str, schema: dict[str, Any], path: str) -> bool:
        if says_nothing(keyword, schema):
            return True
        if keyword in _KEYWORDS:
            return False
        if keyword == "$schema" and path == self._path:
            value = str(schema[keyword])
            if not any(draft in value for draft in _DRAFTS):
                raise _unsupported("$schema", path, f"it names {value[:80]!r}; supported are {', '.join(_DRAFTS)}")
            return True
        if keyword in ANNOTATIONS or (keyword == "$id" and path == self._path):
            return True
        raise _unsupported(keyword, path, "leave it out, or express it with the keywords that are")

    def _widened(self, found: dict[str, Any], schema: dict[str, Any], path: str) -> dict[str, Any]:
        """The schema without keywords that depend on a removed one, or whose use only the compiler could check."""
        names = [f"{path}.{name}" for name in ("oneOf", "patternProperties", "minProperties", "maxProperties")]
        assert self._ignored is not None
        if len(found.get("patternProperties", ())) > 1:  # whether they are disjoint is not told here
            del found["patternProperties"]
            self._ignored.append(names[1])
        if "patternProperties" in schema and "patternProperties" not in found and "additionalProperties" in found:
            found["additionalProperties"] = True
        if "oneOf" in found:
            parts = found.pop("oneOf")
            if not are_disjoint(parts, self._root):
                self._ignored.append(names[0])
            if "anyOf" in found:
                found["allOf"] = [*found.get("allOf", ()), {"anyOf": parts}]
            else:
                found["anyOf"] = parts
        is_optional = bool(found.get("properties", {}).keys() - set(found.get("required", ())))
        for name in ("minProperties", "maxProperties"):
            if name in found and (is_optional or "patternProperties" in found):
                del found[name]
                self._ignored.append(f"{path}.{name}")
        return found

    def _value(self, keyword: str, value: Any, schema: dict[str, Any], path: str) -> Any:
        kind, at = _KEYWORDS[keyword], f"{path}.{keyword}"
        if kind == "schema":
            return self.read(value, at)
        if kind == "schemas" or (kind == "items" and isinstance(value, list)):
            if not isinstance(value, list) or (not value and kind == "schemas"):
                raise SchemaProblem(f"{at} must be a list of at least one schema")
            if keyword == "oneOf":  # the compiler looks into its parts, to see that no two can match
                value = [self._referred(part) for part in value]
            return [self.read(part, f"{at}[{i}]") for i, part in enumerate(value)]
        if kind == "items":
            return self.read(value, at)
        if kind == "map":
            if not isinstance(value, dict):
                raise SchemaProblem(f"{at} must be an object of schemas")
            if keyword == "patternProperties":
                patterns = [_check_pattern(name, "patternProperties", path) for name in value]
                if len(set(patterns)) < len(patterns):
                    raise _unsupported("patternProperties", path, "two of its patterns are the same")
            return {name: self.read(part, f"{at}.{name[:40]}") for name, part in value.items()}
        if kind == "ref":
            self._check_ref(value, path)
        elif kind == "divisor":
            self._check_divisor(value, path)
        elif kind == "bound":
            _check_bound(keyword, value, path)
        elif kind in ("enum", "value"):
            _check_constants(keyword, value, path)
        elif kind == "pattern":
            _check_pattern(value, keyword, path)
        else:
            _check_value(kind, value, at)
        if kind == "length":
            return min(int(value), MAX_LENGTH)
        return int(value) if kind == "count" else value

    def _referred(self, part: Any) -> Any:
        """The target of a part that consists of a reference."""
        for _ in range(MAX_DEPTH):
            ref = part.get("$ref") if isinstance(part, dict) and part.keys() - ANNOTATIONS == {"$ref"} else None
            target = resolve(self._root, ref) if isinstance(ref, str) and ref.startswith("#/") else None
            if target is None:
                break
            part = target
        return part

    def _check_divisor(self, value: Any, path: str) -> None:
        at = f"{path}.multipleOf"
        if not is_number(value):
            raise SchemaProblem(f"{at} is {json.dumps(value)[:40]}: it must be a number")
        if value <= 0:
            raise SchemaProblem(f"{at} is {value}: it must be larger than 0")
        if not is_countable(value):
            raise _unsupported("multipleOf", path, f"multiples of {value!r} cannot be counted exactly: choose another")
        for other, where in self._divisors.items():  # both may hold for one number
            if value != other and not have_multiple(value, other):
                raise _unsupported("multipleOf", path, f"with that in {where}, it has too large a common multiple")
        self._divisors.setdefault(value, path)

    def _check_ref(self, ref: Any, path: str) -> None:
        """Refuse a reference that leads to no schema in this one, or only to itself."""
        at, seen = f"{path}.$ref", set()
        while True:
            if not isinstance(ref, str):
                raise SchemaProblem(f"{at} must be a text")
            if ref != "#" and not ref.startswith("#/"):
                raise _unsupported("$ref", path, f"{ref[:80]!r} is not of the form #/... into this schema")
            if ref in seen:
                raise _unsupported("$ref", path, f"{ref[:80]!r} leads only to itself")
            seen.add(ref)
            target = resolve(self._root, ref)
            if target is None:
                raise _unsupported("$ref", path, f"{ref[:80]!r} points to nothing in this schema")
            if not isinstance(target, dict) or "$ref" not in target:
                return
            ref = target["$ref"]


def _check_value(kind: str, value: Any, at: str) -> None:
    if kind == "type":
        for name in value if isinstance(value, list) else [value]:
            if name not in _TYPES:
                raise SchemaProblem(f"{at} is {json.dumps(name)[:40]}: it must be one of {', '.join(_TYPES)}")
        if value == []:
            raise SchemaProblem(f"{at} is an empty list: nothing can match")
    elif kind == "names":
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise SchemaProblem(f"{at} must be a list of names")
    elif kind == "format":
        if not isinstance(value, str):
            raise SchemaProblem(f"{at} must be a text")
        if value not in FORMATS:
            advice = f"{value[:40]!r} is none of {', '.join(sorted(FORMATS - {'unknown'}))}"
            raise _unsupported("format", at.rpartition(".")[0], advice)
    elif kind in ("count", "length"):
        if not is_number(value) or value < 0 or value != int(value):
            raise SchemaProblem(f"{at} is {json.dumps(value)[:40]}: it must be a whole number, at least 0")
        if value > MAX_COUNT and kind == "count":
            raise _too_complex(f"{at} is {value}, the limit is {MAX_COUNT}")


def _check_constants(keyword: str, value: Any, path: str) -> None:
    if keyword == "enum":
        if not isinstance(value, list) or not value:
            raise SchemaProblem(f"{path}.enum must be a list of at least one value")
        if len(value) > MAX_ENUM:
            raise _too_complex(f"{path}.enum lists {len(value)} values, the limit is {MAX_ENUM}")
    stack = [value]
    while stack:
        part = stack.pop()
        if is_number(part) and not is_retained(part):
            raise _unsupported(keyword, path, f"{part!r} has more digits or decimals than can be represented: round it")
        stack += _parts(part)


def _check_bound(keyword: str, value: Any, path: str) -> None:
    if not is_number(value):
        raise SchemaProblem(f"{path}.{keyword} is {json.dumps(value)[:40]}: it must be a number")
    if inner_bound(keyword, value) is None:
        raise _unsupported(keyword, path, f"{value!r} is too large to be enforced")


def _check_pattern(pattern: Any, keyword: str, path: str) -> str:
    if not isinstance(pattern, str):
        raise SchemaProblem(f"{path}.{keyword} must be a text")
    try:
        return translated(pattern)
    except PatternProblem as problem:
        cause = f"{pattern[:80]!r}: {problem}"
        if problem.is_deep:
            raise _too_complex(f"{path}.{keyword}, {cause}") from None
        if problem.is_unsupported:
            raise _unsupported(keyword, path, cause) from None
        raise SchemaProblem(f"{path}.{keyword}, {cause}") from None


def _unsupported(keyword: str, path: str, advice: str) -> SchemaProblem:
    return SchemaProblem(f"the keyword {keyword!r} in {path} is not supported: {advice}", code="unsupported_schema")


def _too_complex(cause: str) -> SchemaProblem:
    return SchemaProblem(f"the schema is too complex: {cause}", code="grammar_too_complex")
