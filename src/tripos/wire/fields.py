"""Fields of a request body as a table: one line per field says its type, its range and what becomes of it.

The same table decodes, documents (docs/reference/http-api.md) and generates the boundary tests. msgspec decodes and
checks a body in one pass, by a type made from the table; only what it does not take, or what is not simply honoured, is
looked at field by field. What is not heeded is named to whoever asks (ignored.py); an echo's further keys mean nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Required, TypedDict

import msgspec

from tripos.errors import InvalidRequest, plain, shown
from tripos.wire.ignored import Ignored
from tripos.wire.json import INT64, decoder, parse

Kind = Literal["boolean", "integer", "number", "string", "array", "object", "any"]
Use = Literal["honoured", "met", "ignored", "refused"]

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
    """One field. Ranges are inclusive; null means absent, as clients send it for what they leave out, and so does each
    of `nothing`: values such as a default, by which a client asks for what is so anyway.

    `use`: `honoured`; `met` (whatever it says is so anyway); `ignored` (accepted and named); `refused`, for the reason
    in `doc`. Of all but the first the empty values (false, "", [], {}) say nothing, and others are not looked at.
    """

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
    nothing: tuple[Any, ...] = ()
    is_foreign: bool = False  # another server's name for something
    asks_empty: bool = False  # even an empty object asks for something

    def says_nothing(self, value: Any) -> bool:
        if value is None:
            return True
        if self.asks_empty:
            return False
        if self.use != "honoured" and is_empty(value) and not (value is False and self._is_on):
            return True
        return any(value == each and (type(value) is bool) == (type(each) is bool) for each in self.nothing)

    @property
    def _is_on(self) -> bool:
        """Whether true is what is so anyway; then false asks for something."""
        return any(each is True for each in self.nothing)


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

    @cached_property
    def watched(self) -> frozenset[str]:
        """Fields of which a value may mean something else than itself."""
        return frozenset(name for name, field in self.items() if field.use != "honoured" or field.nothing)

    @cached_property
    def required(self) -> tuple[str, ...]:
        return tuple(name for name, field in self.items() if field.required)


class Found(dict[str, Any]):
    """The fields of an object that are to be honoured. `ignored` is of the whole body: objects inside add to it."""

    __slots__ = ("ignored", "path")

    def __init__(self, values: dict[str, Any], path: str, ignored: list[Ignored]) -> None:
        super().__init__(values)
        self.path, self.ignored = path, ignored

    def inner(self, name: str, fields: Table) -> Found:
        """The object in field `name`; an empty one for none. Raises as `read` does."""
        return read(self.get(name, {}), fields, at(self.path, name), self.ignored)

    def refuse_unknown(self) -> None:
        """For bodies of which every field must be known. Raises InvalidRequest (unknown_field)."""
        refuse_unknown(self.ignored)


def table(*fields: Field) -> Table:
    return Table((field.name, field) for field in fields)


def _annotation(field: Field) -> Any:
    """The type of a field's values; null means absent."""
    if field.use == "refused":
        return None
    if field.use != "honoured":
        return Any
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


def read_json(body: bytes, fields: Table) -> Found:
    """The fields of a request's body, as `read` gives them. Raises InvalidRequest as `parse` and `read` do."""
    found = fields.decode(body)
    if found is None:
        return read(parse(body), fields, ignored=[])
    return _settle(found, fields, "", [])


def read(value: Any, fields: Table, path: str = "", ignored: list[Ignored] | None = None) -> Found:
    """The fields of an object that say something, checked. What is not heeded is added to `ignored`; without it the
    object is an echo of an earlier answer.

    Raises InvalidRequest: invalid_type, missing_field, invalid_value, out_of_range, too_many_items.
    """
    notes = [] if ignored is None else ignored
    try:
        found = msgspec.convert(value, fields.form)
    except msgspec.ValidationError:
        found = {}
    if not found or len(found) != len(value):
        found = _check_each(value, fields, path, notes)
    return _settle(found, fields, path, notes)


def _check_each(value: Any, fields: Table, path: str, ignored: list[Ignored]) -> dict[str, Any]:
    """The fields that a table has, with values that it takes; those that are unknown are added to `ignored`."""
    if not isinstance(value, dict):
        where = path or "the body"
        raise InvalidRequest(
            f"{where} must be an object, not {kind_of(value)}", code="invalid_type", param=path or None
        )
    found = {}
    for name, each in value.items():
        field = fields.get(name)
        if field is not None:
            if field.use in ("honoured", "refused") and not field.says_nothing(each):
                check(each, field, at(path, name))
            found[name] = each
        elif each is not None and not is_empty(each):
            ignored.append(Ignored(name_of(path, name)))
    return found


def _settle(found: dict[str, Any], fields: Table, path: str, ignored: list[Ignored]) -> Found:
    """Without what says nothing, and what is not heeded. `found`: of the table, and checked."""
    if None in found.values() or not fields.watched.isdisjoint(found):
        watched = fields.watched
        found = {
            name: each
            for name, each in found.items()
            if each is not None and (name not in watched or _is_heeded(fields[name], each, path, ignored))
        }
    for name in fields.required:
        if name not in found:
            where = at(path, name)
            raise InvalidRequest(f"{where} is required", code="missing_field", param=where)
    return Found(found, path, ignored)


def _is_heeded(field: Field, value: Any, path: str, ignored: list[Ignored]) -> bool:
    if field.use == "honoured":
        return not (field.nothing and field.says_nothing(value))
    if field.use == "ignored" and not field.says_nothing(value):
        ignored.append(Ignored(name_of(path, field.name), "advisory"))
    return False


EMPTY: tuple[Any, ...] = (False, "", [], {})


def is_empty(value: Any) -> bool:
    """Whether a value turns something off, or holds nothing. Numbers do not."""
    return not value and type(value) in (bool, str, list, dict)


def refuse_unknown(ignored: Sequence[Ignored]) -> None:
    """Raises InvalidRequest (unknown_field) for the first field that no table has."""
    for each in ignored:
        if each.group == "unknown":
            message = f"{shown(each.name)} is not a known field"
            raise InvalidRequest(message, code="unknown_field", param=each.name)


_PLACE = re.compile(r"\[[0-9]+\]")


def name_of(path: str, name: str) -> str:
    """How a field is named to the client: the same in every place of an array, and short."""
    return at(_PLACE.sub("[]", path), name[:64])


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
        low_text = "-∞" if low is None else plain(low)
        high_text = "∞" if high is None else plain(high)
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
