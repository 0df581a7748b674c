"""Patterns mean what ECMA 262 says, or are refused: what matches was taken from JavaScript's own expressions."""

from __future__ import annotations

import json

import pytest

from tripos.grammar.limits import admit, try_out
from tripos.grammar.matcher import Grammar, Vocabulary
from tripos.schema.ecma262 import MAX_DEPTH, PatternProblem, translated
from tripos.types import Constraint

VOCABULARY = Vocabulary([bytes([i]) for i in range(256)] + [b"</s>"], [256], [256])


def compiled(pattern: str) -> Grammar:
    schema = json.dumps({"type": "string", "pattern": pattern})
    return try_out(VOCABULARY, admit(Constraint(kind="json_schema", source=schema)))


@pytest.mark.parametrize(
    ("pattern", "matches", "others"),
    [
        ("^[[a]b]$", ["[b]", "ab]"], ["[b", "b]", "ab"]),
        ("^[^[]$", ["a", "]"], ["["]),
        ("^[^]$", ["a", "\n", "😀"], ["", "ab"]),
        ("^[a&&b]+$", ["a&b"], ["c", ""]),
        ("^[+--]+$", ["+", ",", "-"], ["a"]),
        (r"^[\w-]+$", ["a-b", "_9"], ["é", "a b"]),
        (r"^[^\W_]$", ["a", "9"], ["_", "é"]),
        (r"^[\]\\]$", ["]", "\\"], ["["]),
        ("^a.b$", ["axb", "a😀b", "a\x85b"], ["a\nb", "a\rb", "a\u2028b", "a\u2029b", "ab"]),
        (r"^\s$", [" ", "\t", "\v", "\ufeff", "\xa0", "\u2028", "\u3000"], ["\x85", "\x1c", "\u200b", "a"]),
        (r"^\S$", ["\x85", "\u200b", "a"], ["\ufeff", "\xa0", "\n"]),
        (r"^\d\D$", ["1a", "1\u0663"], ["\u0663a", "11"]),
        (r"^\w\W$", ["aé", "_-"], ["éa", "aa"]),
        (r"^\cA\0\x41\u0042\u{43}$", ["\x01\0ABC"], ["ABC"]),
        (r"^\ud83d\ude00+$", ["😀", "😀😀"], ["\u263a"]),
        (r"^\p{L}\P{Lu}$", ["éa", "Aß"], ["1a", "aA"]),
        (r"^\/\-\$$", ["/-$"], ["/-"]),
        ("^a{,2}{$", ["a{,2}{"], ["aa", "a"]),
        ("]}", ["x]}y"], ["]"]),
        ("a+?b*?c??", ["xa", "ab"], ["b"]),
        ("^(?:a|(?<n>b))+$", ["ab", "ba"], ["", "c"]),
        ("a|^b|c$", ["xa", "bx", "xc"], ["xb", "cx"]),
        ("(^a|b$)", ["ax", "xb"], ["xa", "bx"]),
        ("^$", [""], ["a"]),
        ("", ["", "a"], []),
        ("(?i)^ab$", ["AB", "ab"], ["a"]),
    ],
)
def test_a_pattern_matches_what_javascript_matches(pattern: str, matches: list[str], others: list[str]) -> None:
    grammar = compiled(pattern)
    taken = [
        text for text in (*matches, *others) if grammar.accepts(list(json.dumps(text, ensure_ascii=False).encode()))
    ]
    assert taken == matches


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("(?=a)", "look-around"), ("(?<!a)b", "look-around"), (r"(a)\1", "back-reference"), (r"\k<n>", "reference"),
        (r"a\b", "edge of a word"), ("a^b", "no text can begin"), ("a$b", "no text can begin"),
        ("(^a)?", "left out"), ("(a$)*", "left out"), ("(a$|b)c", "no text can begin"),
    ],
)  # fmt: skip
def test_what_no_mask_can_hold_is_told_apart_from_what_is_wrong(pattern: str, cause: str) -> None:
    with pytest.raises(PatternProblem, match=cause) as caught:
        translated(pattern)
    assert caught.value.is_unsupported


@pytest.mark.parametrize(
    ("pattern", "cause"),
    [
        ("(", "is not closed"), ("a)", "closes no group"), ("[a", "is not closed"), ("[b-a]", "ends before it begins"),
        ("a{2,1}", "maximum below its minimum"), ("a**", "'*' at position 2 of 'a**' has nothing to repeat"),
        ("(?>a)", "begins no group"), ("(?s:a)", "begins no group"), (r"\z", "not an escape"), (r"\e", "not an escape"),
        ("\\", "not an escape"), (r"\ud800", "not a Unicode character"), (r"\u{110000}", "not a Unicode character"),
        ("^+", "to repeat"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_place(pattern: str, cause: str) -> None:
    with pytest.raises(PatternProblem) as caught:
        translated(pattern)
    assert cause in str(caught.value)
    assert not caught.value.is_unsupported


def test_groups_have_a_depth() -> None:
    assert translated("(" * MAX_DEPTH + "a" + ")" * MAX_DEPTH)
    with pytest.raises(PatternProblem) as caught:
        translated("(" * 100_000)
    assert caught.value.is_deep
