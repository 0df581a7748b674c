"""What msgspec takes of a body, looking at each field would have taken too; what it refuses gets its words there."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos.errors import InvalidRequest
from tripos.wire.fields import Field, Found, check, read, read_json, table
from tripos.wire.ignored import Ignored
from tripos.wire.json import parse

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
    Field("met", "string", "", use="met"),
    Field("noted", "string", "", use="ignored", nothing=("usual", True)),
    Field("seed", "integer", "", low=0, high=9, nothing=(-1,)),
    Field("must", "integer", "", required=True),
)
EDGES: list[Any] = [
    True, -2, -1, 0, 5, 6, 2**63 - 1, 2**63, -(2**63) - 1, 10**400, 1e-9, 1e-10, 1.0, 1.0001, 5.0, "", "a", "c",
    "é" * 4, "é" * 5, "x" * 8, "x" * 9, [], [1, 2], [1, 2, 3], {}, {"a": 1}, {"a": 1, "b": 2},
]  # fmt: skip
VALUES = st.sampled_from([None, *EDGES]) | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


def kept(body: Any) -> dict[str, Any]:
    """The fields that say something and are honoured, by the table alone."""
    known = {
        name: value for name, value in body.items() if name in TABLE and TABLE[name].use in ("honoured", "refused")
    }
    return {name: value for name, value in known.items() if not TABLE[name].says_nothing(value)}


def allowed(body: Any) -> bool:
    """What the table says, field by field."""
    try:
        for name, value in kept(body).items():
            check(value, TABLE[name], name)
    except InvalidRequest:
        return False
    return body.get("must") is not None


@given(st.dictionaries(st.sampled_from([*TABLE, "unknown"]), VALUES, max_size=4), st.booleans())
def test_a_body_is_read_exactly_when_every_field_is_allowed(body: dict[str, Any], is_complete: bool) -> None:
    body = {"must": 1, **body} if is_complete else body
    if allowed(body):
        assert read(body, TABLE) == kept(body)
    else:
        with pytest.raises(InvalidRequest):
            read(body, TABLE)


@pytest.mark.parametrize("name", list(TABLE))
def test_every_edge_of_every_field_has_one_verdict(name: str) -> None:
    for value in EDGES:
        body = {"must": 1, name: value}
        if allowed(body):
            assert read(body, TABLE).get(name) == kept(body).get(name)
        else:
            with pytest.raises(InvalidRequest) as caught:
                read(body, TABLE)
            assert caught.value.param == name


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_only_objects_are_read(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="must be an object") as caught:
        read(value, TABLE)
    assert caught.value.code == "invalid_type"


def verdict(reads: Callable[[], Found]) -> Any:
    try:
        found = reads()
        return found, found.ignored
    except InvalidRequest as problem:
        return problem.message, problem.code, problem.param


@given(st.dictionaries(st.sampled_from([*TABLE, "unknown"]), VALUES, max_size=4), st.booleans())
def test_one_pass_over_a_body_finds_what_two_find(body: dict[str, Any], escapes: bool) -> None:
    data = json.dumps({"must": 1, **body}, ensure_ascii=escapes).encode(errors="surrogatepass")
    assert verdict(lambda: read_json(data, TABLE)) == verdict(lambda: read(parse(data), TABLE, ignored=[]))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"must": 1, "must": 2}', "invalid_json"),
        (b'{"must": 1, "what": {"a": 1, "a": 2}}', "invalid_json"),
        (b'{"must": 1, "what": {"a": 1, "\\u0061": 2}}', "invalid_json"),
        (b'{"must": 1, "what": ["\\u003a", {"a": 1, "a": 2}]}', "invalid_json"),
        (b'{"must": 1, "unknown": NaN}', "invalid_json"),
        (b'{"must": 1, "unknown": "\xff"}', "invalid_encoding"),
        (b'{"must": 1, "unknown": "\\ud800"}', "invalid_encoding"),
        (b'\xef\xbb\xbf{"must": 1}', "invalid_encoding"),
        (b'{"must": 1} {}', "invalid_json"),
        (b'{"must": null}', "missing_field"),
        (b'{"must": 1, "what": ' + b"[" * 65 + b"]" * 65 + b"}", "invalid_json"),
        (b'{"must": 1, "what": [' + b"1," * 100_000 + b"1]}", "invalid_json"),
        (b"[]", "invalid_type"),
        (b"", "invalid_json"),
    ],
)
def test_one_pass_takes_nothing_that_two_refuse(data: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_json(data, TABLE)
    assert caught.value.code == code


def test_usual_bodies_need_no_second_look() -> None:
    body = {
        "flag": True,
        "count": 5,
        "share": 1,
        "name": "xx",
        "kind": "a",
        "text": "a: b\n",
        "must": 1,
        "what": {"a": 1},
    }
    assert TABLE.decode(json.dumps(body).encode()) == body


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({}, []),
        ({"color": "red", "noted": "x"}, [("color", "unknown"), ("noted", "advisory")]),
        ({"color": 0}, [("color", "unknown")]),
        ({"color": None, "shade": "", "flags": {}, "list2": [], "off": False}, []),
        ({"noted": "usual", "met": "whatever"}, []),
        ({"noted": True}, []),
        ({"noted": False}, [("noted", "advisory")]),
        ({"noted": 1}, [("noted", "advisory")]),
        ({"never": [], "seed": -1}, []),
        ({"x" * 100: 1}, [("x" * 64, "unknown")]),
    ],
)
def test_what_is_not_heeded_is_named_with_its_group(fields: dict[str, Any], ignored: list[tuple[str, str]]) -> None:
    found = read_json(json.dumps({"must": 1, **fields}).encode(), TABLE)
    assert dict(found) == {"must": 1}
    assert [(each.name, each.group) for each in found.ignored] == ignored


def test_objects_inside_add_to_the_names_of_their_body() -> None:
    inner = table(Field("size", "integer", ""))
    outer = table(Field("box", "object", ""), Field("list", "array", ""))
    found = read_json(b'{"box": {"size": 1, "color": 2}, "list": [{"color": 3}]}', outer)
    assert found.inner("box", inner) == {"size": 1}
    read(found["list"][0], inner, "list[0]", found.ignored)
    assert found.ignored == [Ignored("box.color"), Ignored("list[].color")]
    assert found.inner("absent", inner) == {}


def test_further_keys_of_an_echo_mean_nothing() -> None:
    assert read({"must": 1, "provider_specific_fields": {"x": 1}}, TABLE, "messages[0]") == {"must": 1}


def test_who_must_know_every_field_refuses_the_first_unknown_one() -> None:
    found = read_json(b'{"must": 1, "noted": "x", "color": 1, "shade": 2}', TABLE)
    with pytest.raises(InvalidRequest, match="color") as caught:
        found.refuse_unknown()
    assert (caught.value.code, caught.value.param) == ("unknown_field", "color")
    read_json(b'{"must": 1, "noted": "x"}', TABLE).refuse_unknown()
