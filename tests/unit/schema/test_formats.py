"""Days and times that there are, and no others."""

from __future__ import annotations

import calendar
import json

import pytest

from tripos.grammar.limits import admit, try_out
from tripos.grammar.matcher import Grammar, Vocabulary
from tripos.types import Constraint

VOCABULARY = Vocabulary([bytes([i]) for i in range(256)] + [b"</s>"], [256], [256])


def compiled(**schema: object) -> Grammar:
    return try_out(VOCABULARY, admit(Constraint(kind="json_schema", source=json.dumps({"type": "string", **schema}))))


def accepts(grammar: Grammar, text: str) -> bool:
    return grammar.accepts(list(f'"{text}"'.encode()))


@pytest.mark.parametrize(("name", "rest"), [("date", ""), ("date-time", "T12:00:00Z")])
def test_a_month_has_the_days_of_its_year(name: str, rest: str) -> None:
    grammar = compiled(format=name)
    for year in (1, 4, 100, 400, 1900, 1999, 2000, 2023, 2024, 2100, 2400, 9996, 9999):
        for month in range(14):
            num_days = calendar.monthrange(year, month)[1] if 1 <= month <= 12 else 0
            for day in (0, 1, 28, 29, 30, 31, 32):
                text = f"{year:04}-{month:02}-{day:02}{rest}"
                assert accepts(grammar, text) == (1 <= day <= num_days), text


def test_a_day_has_its_hours() -> None:
    grammar = compiled(format="time")
    for text in ("00:00:00Z", "23:59:59.125+23:59", "12:30:00z", "01:02:03-00:00"):
        assert accepts(grammar, text), text
    for text in ("24:00:00Z", "12:60:00Z", "12:00:60Z", "12:00:00", "12:00Z", "12:00:00+24:00", "1:00:00Z"):
        assert not accepts(grammar, text), text


def test_a_format_and_a_pattern_both_hold() -> None:
    grammar = compiled(format="date", pattern="^2024-")
    assert accepts(grammar, "2024-02-29")
    assert not accepts(grammar, "2023-01-01")
    assert not accepts(grammar, "2024-02-30")


def test_a_format_of_texts_says_nothing_about_others() -> None:
    source = json.dumps({"type": ["string", "integer"], "format": "date"})
    grammar = try_out(VOCABULARY, admit(Constraint(kind="json_schema", source=source)))
    assert accepts(grammar, "2024-02-29")
    assert grammar.accepts(list(b"12"))


def test_a_hostname_has_an_end() -> None:
    grammar = compiled(format="hostname")
    assert accepts(grammar, ".".join(["a" * 63] * 3 + ["a" * 61]))
    assert not accepts(grammar, ".".join(["a" * 63] * 4))
