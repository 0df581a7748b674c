"""Fields of a request body as a table: one line per field says its type, its range and what becomes of it.

The same table decodes, documents (docs/reference/http-api.md) and generates the boundary tests. msgspec decodes and
checks a body in one pass, by a type made from the table; only what it does not take is looked at field by field, for
words to say why.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Required, TypedDict

import msgspec

from tripos.errors import InvalidRequest
from tripos.wire.json import INT64, decoder, parse, shown

Kind = Literal["boolean", "integer", "number", "string", "array", "object", "any"]
Use = Literal["honoured", "ignored", "refused"]

_PYTHON: dict[str, tuple[type, ...]] = {
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}
_FAR = 2.0**53  # numbers beyond are looked at again: an integer would lose digits, and must fit in 64 bits


class Field(msgspec.Struct, frozen=True):
    """One field. Ranges are inclusive; null means absent, as clients send it for what they leave out."""

    name: str
    kind: Kind
    doc: str
    low: float | None = None
    high: float | None = None
    max_items: int | None = None
    max_bytes: int | None = None
    choices: tuple[str, ...] = ()
    required: bool = False
    use: Use = "honoured"


class Table(dict[str, Field]):
    """Fields by name."""

    @cached_property
    def form(self) -> Any:
        """A type that takes what `check` takes, but for texts near their ceiling and numbers without one. What it does
        not know it leaves out.
        """
        annotations = {name: _annotation(field) for name, field in self.items()}
        return TypedDict("Form", annotations, total=False)  # type: ignore[operator]

    @cached_property
    def decode(self) -> Callable[[bytes], dict[str, Any] | None]:
        """A body as `form`; None where it has to be looked at more closely."""
        return decoder(self.form)


def table(*fields: Field) -> Table:
    return Table((field.name, field) for field in fields)


def _annotation(field: Field) -> Any:
    """The type of a field's values; null means absent."""
    if field.use == "refused":
        return None
    return Required[_type(field)] if field.required else _type(field) | None


def _type(field: Field) -> Any:
    limit = msgspec.Meta
    if field.kind == "any":
        return Any
    if field.choices:
        return Literal[field.choices]
    if field.kind == "boolean":
        return bool
    if field.kind == "integer":
        least, most = INT64[0] if field.low is None else field.low, INT64[-1] if field.high is None else field.high
        return Annotated[int, limit(ge=int(least), le=int(most))]
    if field.kind == "number":
        low, high = -_FAR if field.low is None else field.low, _FAR if field.high is None else field.high
        return Annotated[float, limit(ge=low, le=high)]
    if field.kind == "string":
        return str if field.max_bytes is None else Annotated[str, limit(max_length=field.max_bytes // 4)]
    collection: Any = list if field.kind == "array" else dict
    return collection if field.max_items is None else Annotated[collection, limit(max_length=field.max_items)]


def read_json(body: bytes, fields: Table) -> dict[str, Any]:
    """The fields of a request's body, as `read` gives them. Raises InvalidRequest as `parse` and `read` do."""
    found = fields.decode(body)
    return read(parse(body), fields) if found is None or None in found.values() else found


def read(value: Any, fields: Table, path: str = "") -> dict[str, Any]:
    """The fields of an object that are present and not null, checked.

    Raises InvalidRequest: invalid_type, unknown_field, missing_field, invalid_value, out_of_range, too_many_items.
    """
    try:
        found = msgspec.convert(value, fields.form)
    except msgspec.ValidationError:
        found = {}
    if not found or len(found) != len(value):
        _check_each(value, fields, path)
        found = value
    found = {name: each for name, each in found.items() if each is not None}
    missing = next((name for name, field in fields.items() if field.required and name not in found), None)
    if missing is not None:
        where = at(path, missing)
        raise InvalidRequest(f"{where} is required", code="missing_field", param=where)
    return found


def _check_each(value: Any, fields: Table, path: str) -> None:
    """As `read`, but for fields that are missing."""
    if not isinstance(value, dict):
        where = path or "the body"
        raise InvalidRequest(
            f"{where} must be an object, not {kind_of(value)}", code="invalid_type", param=path or None
        )
    for name, each in value.items():
        field = fields.get(name)
        if field is None:
            raise _unknown(name, fields, path)
        if each is not None:
            check(each, field, at(path, name))


def at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def kind_of(value: Any) -> str:
    """The JSON name of a value's type."""
    if value is None:
        return "null"
    return next((kind for kind, types in _PYTHON.items() if type(value) in types), "an unknown type")


def check(value: Any, field: Field, path: str) -> None:
    """One value against its field. Raises as `read` does."""
    if field.use == "refused":
        raise InvalidRequest(f"{path} is not supported: {field.doc}", code="invalid_value", param=path)
    kind = field.kind
    if kind == "any":
        return
    # bool is an int in Python, not in JSON
    if type(value) not in _PYTHON[kind]:
        raise InvalidRequest(f"{path} must be {_a(kind)}, not {kind_of(value)}", code="invalid_type", param=path)
    if kind == "boolean":
        return
    if kind == "integer" or kind == "number":
        _check_range(value, field, path)
    elif kind == "string":
        _check_text(value, field, path)
    elif field.max_items is not None and field.kind in ("array", "object") and len(value) > field.max_items:
        message = f"{path} has {len(value)} items, at most {field.max_items} may be given"
        raise InvalidRequest(message, code="too_many_items", param=path)


def items(values: Sequence[Any], field: Field, path: str) -> None:
    """Each item of an array against `field`."""
    for i, value in enumerate(values):
        check(value, field, f"{path}[{i}]")


def _check_range(value: float, field: Field, path: str) -> None:
    low, high = field.low, field.high
    if (low is not None and value < low) or (high is not None and value > high):
        low_text = "-∞" if low is None else f"{low:g}"
        high_text = "∞" if high is None else f"{high:g}"
        message = f"{path} is {value}, outside {low_text} to {high_text}"
        raise InvalidRequest(message, code="out_of_range", param=path)
    if isinstance(value, int) and value not in INT64:
        raise InvalidRequest(f"{path} does not fit in 64 bits", code="out_of_range", param=path)


def _check_text(value: str, field: Field, path: str) -> None:
    if field.choices and value not in field.choices:
        message = f"{path} is {shown(value)}, not one of {', '.join(field.choices)}"
        raise InvalidRequest(message, code="invalid_value", param=path)
    if field.max_bytes is not None and len(value) > field.max_bytes // 4:
        num_bytes = len(value.encode())
        if num_bytes > field.max_bytes:
            message = f"{path} has {num_bytes} bytes, at most {field.max_bytes} may be given"
            raise InvalidRequest(message, code="out_of_range", param=path)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeio" else f"a {kind}"


def _unknown(name: str, fields: Table, path: str) -> InvalidRequest:
    known = [field.name for field in fields.values() if field.use != "refused"]
    near = difflib.get_close_matches(name[:64], known, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]}?" if near else ""
    where = at(path, name[:64])
    return InvalidRequest(f"{shown(at(path, name))} is not a known field{hint}", code="unknown_field", param=where)
