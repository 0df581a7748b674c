"""Whether a JSON value follows a schema, checked without the grammar that constrained it.

Knows the keywords that reading.py lets through, except `pattern`, `format` and the values behind them: regular
expressions are the grammar's part, whose matching is linear in the text.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

from tripos.schema.numbers import exact
from tripos.schema.parts import resolve

_BOUNDS = {
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
}
_MAX_DIGITS = 4000  # of an int: Python reads no more
_SMALLEST = "1e-400000"  # stands for all that is smaller
_MAX_EXPONENT = 400  # of a number that is checked for multiples; a double ends at 308

_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "number": (int, float, Decimal),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}


def text_violation(schema: Any, text: str) -> str | None:
    """Why a text is not JSON that follows `schema`; None when it is."""
    try:
        value = json.loads(text, parse_float=_digits, parse_int=_whole, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        return f"it is not JSON ({problem})"
    return violation(schema, value)


def violation(schema: Any, value: Any) -> str | None:
    """Where a value does not follow a schema from reading.py; None when it does."""
    return next(_Checker(schema).violations(schema, value, "$"), None)


def _digits(text: str) -> Decimal:
    """The number as written, not the nearest double."""
    try:
        return Decimal(text)
    except InvalidOperation:  # its exponent is too large
        mantissa, _, exponent = text.lower().partition("e")
        far = Decimal(_SMALLEST if exponent.startswith("-") else "Infinity")
        return far.copy_sign(Decimal(mantissa)) if Decimal(mantissa) else Decimal(0)


def _whole(text: str) -> int | Decimal:
    return int(text) if len(text) < _MAX_DIGITS else Decimal(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


class _Checker:
    def __init__(self, root: Any) -> None:
        self._root = root

    def violations(self, schema: Any, value: Any, path: str) -> Iterator[str]:
        if isinstance(schema, bool):
            if not schema:
                yield f"{path} must not be there"
            return
        yield from self._of_any(schema, value, path)
        if isinstance(value, dict):
            yield from self._of_object(schema, value, path)
        elif isinstance(value, list):
            yield from self._of_array(schema, value, path)
        elif isinstance(value, str):
            yield from _outside(len(value), schema, "Length", f"{path} characters")
        elif isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            yield from _of_number(schema, value, path)

    def _matches(self, schema: Any, value: Any) -> bool:
        return next(self.violations(schema, value, "$"), None) is None

    def _of_any(self, schema: dict[str, Any], value: Any, path: str) -> Iterator[str]:
        if "$ref" in schema:
            yield from self.violations(resolve(self._root, schema["$ref"]), value, path)
        names = schema.get("type")
        if names is not None and not any(_is_type(value, n) for n in (names if isinstance(names, list) else [names])):
            yield f"{path} is not of type {names}"
        if "enum" in schema and not any(_equal(value, each) for each in schema["enum"]):
            yield f"{path} is none of the values of enum"
        if "const" in schema and not _equal(value, schema["const"]):
            yield f"{path} is not the value of const"
        for part in schema.get("allOf", ()):
            yield from self.violations(part, value, path)
        if "anyOf" in schema and not any(self._matches(part, value) for part in schema["anyOf"]):
            yield f"{path} matches nothing of anyOf"
        if "oneOf" in schema and not any(self._matches(part, value) for part in schema["oneOf"]):
            yield f"{path} matches nothing of oneOf"  # the schema was refused if two could match

    def _of_object(self, schema: dict[str, Any], value: dict[str, Any], path: str) -> Iterator[str]:
        yield from _outside(len(value), schema, "Properties", f"{path} properties")
        for name in schema.get("required", ()):
            if name not in value:
                yield f"{path} lacks {name!r}"
        properties = schema.get("properties", {})
        rest = schema.get("additionalProperties", True)
        for name, member in value.items():
            if name in properties:
                yield from self.violations(properties[name], member, f"{path}.{name}")
            elif not schema.get("patternProperties"):
                yield from self.violations(rest, member, f"{path}.{name}")

    def _of_array(self, schema: dict[str, Any], value: list[Any], path: str) -> Iterator[str]:
        yield from _outside(len(value), schema, "Items", f"{path} items")
        items = schema.get("items", True)
        heads, rest = schema.get("prefixItems", []), items
        if isinstance(items, list):
            heads, rest = items, schema.get("additionalItems", True)
        for i, member in enumerate(value):
            yield from self.violations(heads[i] if i < len(heads) else rest, member, f"{path}[{i}]")


def _of_number(schema: dict[str, Any], value: float | Decimal, path: str) -> Iterator[str]:
    number = exact(value)
    for name, holds in _BOUNDS.items():
        if name in schema and not holds(number, exact(schema[name])):
            yield f"{path} is {str(value)[:40]}, against {name} {schema[name]}"
    if "multipleOf" in schema and not _is_multiple(number, schema["multipleOf"]):
        yield f"{path} is no multiple of {schema['multipleOf']}"


def _is_multiple(value: Decimal, divisor: float) -> bool:
    is_near = value.is_finite() and abs(value.adjusted()) < _MAX_EXPONENT
    return is_near and Fraction(value) % Fraction(exact(divisor)) == 0


def _outside(count: int, schema: dict[str, Any], suffix: str, what: str) -> Iterator[str]:
    low, high = schema.get(f"min{suffix}", 0), schema.get(f"max{suffix}", count)
    if not low <= count <= high:
        yield f"{what}: {count}, not between {low} and {high}"


def _is_type(value: Any, name: str) -> bool:
    if name == "integer":
        is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
        return is_number and exact(value) == exact(value).to_integral_value()
    return isinstance(value, _TYPES[name]) and (name in ("boolean",) or not isinstance(value, bool))


def _equal(a: Any, b: Any) -> bool:
    """JSON equality: 1 equals 1.0, true does not equal 1. Decimals are compared as written: 0.1 is one tenth."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float | Decimal) and isinstance(b, int | float | Decimal):
        return exact(a) == exact(b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)
