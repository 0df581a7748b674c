"""Values in messages: numbers that a person can type back, and texts that are short and escaped."""

from __future__ import annotations

import pytest

from tripos.errors import ModelRefused, plain, shown
from tripos.models.config import Family, Fields


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (16777216, "16777216"), (1e12, "1000000000000"), (2.0**53, "9007199254740992"), (1e-6, "0.000001"),
        (1e-9, "0.000000001"), (0.5, "0.5"), (1.001, "1.001"), (-3.0, "-3"), (0, "0"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers_are_written_in_digits(number: float, text: str) -> None:
    assert plain(number) == text


def test_a_range_of_a_model_file_is_written_in_digits() -> None:
    with pytest.raises(ModelRefused, match=r"expected a number from 0\.000001 to 1000000$"):
        Fields({"x": 0}, "config.json", Family()).number("x", 1e-6, 1e6)


def test_shown_values_are_short_and_escaped() -> None:
    assert shown("a\n\u202e" + "b" * 1000) == '"a\\n\\u202e' + "b" * 58 + '..."'
    assert shown(["é"]) == "['\\xe9']"
    assert len(shown(list(range(1000)))) == 64
