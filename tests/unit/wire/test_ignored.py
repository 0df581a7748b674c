"""The header that names what is not heeded: short, printable, each name once."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos.wire.ignored import MAX_HEADER_BYTES, Ignored, header_value


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (["verbosity"], "verbosity"),
        (["a", "b", "a"], "a, b"),
        (["tools[].function.x"], "tools[].function.x"),
        (["chat_template_kwargs.$ref"], "chat_template_kwargs.$ref"),
        (["a, b", "c\r\nx: y"], "a%2C%20b, c%0D%0Ax:%20y"),
        (["é"], "%C3%A9"),
    ],
)
def test_names_are_escaped_and_told_once(names: list[str], value: str) -> None:
    assert header_value(map(Ignored, names)) == value


@given(st.lists(st.text(min_size=1, max_size=64), max_size=300))
def test_the_header_is_short_printable_and_complete(names: list[str]) -> None:
    value = header_value(map(Ignored, names))
    assert len(value) <= MAX_HEADER_BYTES
    assert value.isascii()
    assert value.isprintable()
    told = value.split(", ") if value else []
    num_left = int(told.pop()[1:]) if told and told[-1].startswith("+") else 0
    unique = list(dict.fromkeys(names))
    assert len(unique) == num_left + len(told)
    assert [unquote(each) for each in told] == unique[: len(told)]


def test_names_without_room_are_counted() -> None:
    value = header_value(Ignored(f"field_{i}") for i in range(1000))
    assert value.startswith("field_0, field_1, ")
    left = int(value.rpartition("+")[2])
    assert left == 1000 - (len(value.split(", ")) - 1)
