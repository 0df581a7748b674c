"""What msgspec takes of a body, looking at each field would have taken too; what it refuses gets its words there."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos.errors import InvalidRequest
from tripos.wire.fields import Field, check, read, table

TABLE = table(
    Field("flag", "boolean", ""),
    Field("count", "integer", "", low=-1, high=5),
    Field("any_count", "integer", ""),
    Field("share", "number", "", low=1e-9, high=1),
    Field("number", "number", ""),
    Field("name", "string", "", max_bytes=8),
    Field("text", "string", ""),
    Field("kind", "string", "", choices=("a", "b")),
    Field("few", "array", "", max_items=2),
    Field("map", "object", "", max_items=1),
    Field("list", "array", ""),
    Field("what", "any", ""),
    Field("never", "any", "", use="refused"),
    Field("must", "integer", "", required=True),
)
EDGES: list[Any] = [
    True, -2, -1, 0, 5, 6, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 1e-9, 1e-10, 1.0, 1.0001, 5.0, "", "a", "c",
    "é" * 4, "é" * 5, "x" * 8, "x" * 9, [], [1, 2], [1, 2, 3], {}, {"a": 1}, {"a": 1, "b": 2},
]  # fmt: skip
VALUES = st.sampled_from([None, *EDGES]) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


def allowed(body: Any) -> bool:
    """What the table says, field by field."""
    try:
        for name, value in body.items():
            if value is not None:
                check(value, TABLE[name], name)
    except (InvalidRequest, KeyError):
        return False
    return body.get("must") is not None


@given(st.dictionaries(st.sampled_from([*TABLE, "unknown"]), VALUES, max_size=4), st.booleans())
def test_a_body_is_read_exactly_when_every_field_is_allowed(body: dict[str, Any], is_complete: bool) -> None:
    body = {"must": 1, **body} if is_complete else body
    if allowed(body):
        assert read(body, TABLE) == {name: value for name, value in body.items() if value is not None}
    else:
        with pytest.raises(InvalidRequest):
            read(body, TABLE)


@pytest.mark.parametrize("name", list(TABLE))
def test_every_edge_of_every_field_has_one_verdict(name: str) -> None:
    for value in EDGES:
        body = {"must": 1, name: value}
        if allowed(body):
            assert read(body, TABLE)[name] == value
        else:
            with pytest.raises(InvalidRequest) as caught:
                read(body, TABLE)
            assert caught.value.param == name


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_only_objects_are_read(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be an object") as caught:
        read(value, TABLE)
    assert caught.value.code == "invalid_type"


def test_usual_bodies_need_no_second_look() -> None:
    msgspec.convert({"flag": True, "count": 5, "share": 1, "name": "xx", "kind": "a", "must": 1}, TABLE.form)
