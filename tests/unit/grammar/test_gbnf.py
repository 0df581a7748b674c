"""GBNF as Lark: what it accepts, and the errors that name the line."""

from __future__ import annotations

import pytest

from tests.unit.engine.test_constrained import VOCABULARY
from tripos.errors import GrammarProblem
from tripos.grammar.gbnf import gbnf_to_lark
from tripos.grammar.matcher import lark_grammar

# After the grammar of JSON that llama.cpp's users know, shortened.
JSON = r"""
root   ::= object   # a comment
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
    string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""


@pytest.mark.parametrize(
    ("grammar", "good", "bad"),
    [
        (JSON, ['{"a": [1, -2.5, {"b": "\\u00e9"}], "c": true}', "{}", '{"a":\n\t"é"}'], ['{"a"}', "[]", '{"a": 01}']),
        ('root ::= "a" root | "b"', ["aab", "b"], ["aa", ""]),
        ('root ::= root "a" | "b"', ["baa"], ["ab"]),
        ('root ::= ws "é" [à-ü]+ .\nws ::= [ \\t]*', ["  éàa", "éü\n"], ["é"]),
        ('root ::= ("")* "a"', ["a"], [""]),
        ('root ::= "x"{2,3} [^x]{2} "y"{1,}', ["xxaay", "xxxaayyy"], ["xaay", "xxxxaay"]),
        ('root ::= "a" |\n  "b"\n', ["a", "b"], ["c"]),
        ('root ::= [-a/\\]]+', ["-a/]"], ["b"]),
        ('root ::= "\\x41\\u00e9\\U0001F600\\n"', ["Aé😀\n"], ["A"]),
        ('fooBar ::= "a"\nfoo-bar ::= "b"\nroot ::= fooBar foo-bar', ["ab"], ["ba"]),
        ("root ::= n\nn ::= [0-9] n | [0-9]", ["123"], [""]),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_a_grammar_accepts_what_gbnf_means(grammar: str, good: list[str], bad: list[str]) -> None:
    compiled = VOCABULARY.compile(lark_grammar(gbnf_to_lark(grammar)))
    for text in good:
        assert compiled.accepts(list(text.encode())), text
    for text in bad:
        assert not compiled.accepts(list(text.encode())), text


@pytest.mark.parametrize(
    ("grammar", "cause"),
    [
        ("", "empty"),
        ("  # only a comment\n", "empty"),
        ('x ::= "a"', "no rule named root"),
        ("root ::= foo", "'foo', which is not defined"),
        ('root ::= "a', "line 1"),
        ('\n\nroot ::= ("a"', "line 3 of the grammar: a group is not closed"),
        ('root ::= "a")', "is not allowed here"),
        ('root ::= "a"\n"b"', "line 2"),
        ('root ::= "a"\nroot ::= "b"', "defined twice"),
        ("root ::= [z-a]", "ends before it begins"),
        ("root ::= []", "empty"),
        ('root ::= "a"{3,2}', "maximum below its minimum"),
        ('root ::= "\\q"', "not an escape"),
        ('root ::= "\\ud800"', "not a Unicode character"),
        ('root ::= "a"{70000}', "too complex"),
        ("root ::= " + "(" * 100 + '"a"' + ")" * 100, "too complex"),
        ("root ::= " + "(" * 60_000, "too complex"),
    ],
    ids=lambda value: value[:30],
)
def test_a_wrong_grammar_is_refused_with_its_cause(grammar: str, cause: str) -> None:
    with pytest.raises(GrammarProblem, match=cause):
        gbnf_to_lark(grammar)
