"""Patterns whose quantifiers have something to repeat, and those that do not."""

from __future__ import annotations

import re
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos.schema.pattern import dangling_quantifier


@pytest.mark.parametrize(
    ("pattern", "place", "quantifier"),
    [
        ("^+[a-z]$", 1, "+"),
        ("*a", 0, "*"),
        ("a|?", 2, "?"),
        ("(+a)", 1, "+"),
        ("(?:*)", 3, "*"),
        ("(?P<name>{2})", 9, "{2}"),
        ("a**", 2, "*"),
        ("a+??", 3, "?"),
        ("a{2}{3}", 4, "{3}"),
        ("x$*", 2, "*"),
        (r"\b+x", 2, "+"),
        ("(?i)*", 4, "*"),
        ("[+*]{1,2}+", 9, "+"),
    ],
)
def test_a_quantifier_with_nothing_to_repeat_is_found(pattern: str, place: int, quantifier: str) -> None:
    assert dangling_quantifier(pattern) == (place, quantifier)


@pytest.mark.parametrize(
    "pattern",
    ["", "a+", "a+?", "a{2,}?", "[*+?]", "[]*]+", "[^]+]*", r"\+*", r"\\*", "(a|b)*", "(?:a)?", "(?<n>a)+", "(?=a)b+",
     ".*", "^a*$", "(?i:a)+", "{", "a{x}", "\\", "[a", "é+", "\n*", r"[\]+]*", r"\x{41}*", r"^\u{1234}+$", "(?<$a>x)+"],
)  # fmt: skip
def test_what_repeats_something_is_not(pattern: str) -> None:
    assert dangling_quantifier(pattern) is None


@given(st.text(alphabet="ab|()*+?^$[]\\{}1,2-:", max_size=12))
def test_where_python_finds_nothing_to_repeat_so_do_we(pattern: str) -> None:
    """Python's own dialect agrees on this but for possessive quantifiers, which it has and ECMA-262 has not."""
    message = ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what `[[` may mean one day
            re.compile(pattern)
    except re.error as problem:
        message = problem.msg
    is_quantifier = "{," not in pattern  # of no lower end: Python's, not ECMA-262's
    if is_quantifier and ("nothing to repeat" in message or "multiple repeat" in message):
        assert dangling_quantifier(pattern) is not None
