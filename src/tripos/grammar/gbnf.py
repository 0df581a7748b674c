"""GBNF, the grammars of llama.cpp, rewritten as Lark.

A rule that refers to no rule, directly or not, back to itself becomes a Lark terminal: one regular expression instead
of a parse per character. Names are numbered, so that what is one name in GBNF stays one in Lark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tripos.errors import GrammarProblem

MAX_DEPTH = 64
MAX_REPEAT = 1 << 16

_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\#[^\n]*)|(?P<line>\r?\n)|(?P<rule>[A-Za-z0-9_-]+)(?=[ \t]*::=)|(?P<define>::=)
    |(?P<name>[A-Za-z0-9_-]+)|(?P<text>"(?:[^"\\\n]|\\.)*")|(?P<set>\[(?:[^\]\\\n]|\\.)*\])
    |(?P<repeat>[*+?]|\{[ ]*\d+[ ]*(?:,[ ]*\d*[ ]*)?\})|(?P<mark>[|().])""",
    re.VERBOSE,
)
_CHAR = re.compile(r"\\x[0-9A-Fa-f]{2}|\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}|\\[nrt\"\\\[\]]|[^\\]", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def gbnf_to_lark(source: str) -> str:
    """The grammar as Lark source. Raises GrammarProblem naming the line."""
    rules = _Parser(source).rules()
    if "root" not in rules:
        raise GrammarProblem("the grammar has no rule named root")
    used = {name: set(_names(body)) for name, body in rules.items()}
    for name, names in used.items():
        if missing := sorted(names - rules.keys()):
            raise GrammarProblem(f"rule {name!r} refers to {missing[0]!r}, which is not defined")
    terminals = _terminals(used)
    lark = {name: f"T{i}" if name in terminals else f"r{i}" for i, name in enumerate(rules)}
    lines = [f"start: {lark['root']}"]
    for name, body in rules.items():
        lines.append(f"{lark[name]}: " + "".join(lark[part.name] if isinstance(part, _Name) else part for part in body))
    return "\n".join(lines) + "\n"


class _Name:
    """A reference to a rule, between pieces of Lark source."""

    def __init__(self, name: str) -> None:
        self.name = name


_Body = list[str | _Name]


def _names(body: _Body) -> Iterator[str]:
    return (part.name for part in body if isinstance(part, _Name))


def _terminals(used: dict[str, set[str]]) -> set[str]:
    """The rules that refer to no rule back to themselves, without the root."""
    terminals: set[str] = set()
    while more := {n for n, names in used.items() if n not in terminals and n != "root" and names <= terminals}:
        terminals |= more
    return terminals


class _Parser:
    def __init__(self, source: str) -> None:
        self._tokens = list(_tokens(source))
        self._at = 0

    def rules(self) -> dict[str, _Body]:
        rules: dict[str, _Body] = {}
        while self._kind() != "end":
            if self._kind() == "line":
                self._at += 1
                continue
            name = self._take("rule", "a rule: name ::= ...")
            self._take("define", "::=")
            if name in rules:
                raise self._problem(f"rule {name!r} is defined twice")
            rules[name] = self._alternatives(0)
            if self._kind() not in ("line", "end"):
                raise self._problem(f"{self._text()!r} is not allowed here")
        if not rules:
            raise GrammarProblem("the grammar is empty")
        return rules

    def _alternatives(self, depth: int) -> _Body:
        if depth > MAX_DEPTH:
            raise GrammarProblem(
                f"the grammar is too complex: groups are nested deeper than {MAX_DEPTH}", code="grammar_too_complex"
            )
        body = self._sequence(depth)
        while self._text() == "|":
            self._at += 1
            self._skip_lines()
            body += [" | ", *self._sequence(depth)]
        return body

    def _sequence(self, depth: int) -> _Body:
        body: _Body = []
        if depth == 0 and not body:
            self._skip_lines()
        while (part := self._part(depth)) is not None:
            if self._kind() == "repeat":
                part.append(_repeat(self._text(), self._problem))
                self._at += 1
            body += [" ", *part]
        return body or [' ""']

    def _part(self, depth: int) -> _Body | None:
        if depth:
            self._skip_lines()
        kind, text = self._kind(), self._text()
        if kind == "text":
            chars = "".join(map(_in_regex, self._chars(text[1:-1])))
            part: _Body = [f"/{chars}/" if chars else '""']
        elif kind == "set":
            part = [self._set(text[1:-1])]
        elif kind == "name":
            part = [_Name(text)]
        elif text == ".":
            part = ["/(.|\\n)/"]
        elif text == "(":
            self._at += 1
            inner = self._alternatives(depth + 1)
            self._skip_lines()
            if self._text() != ")":
                raise self._problem("a group is not closed")
            part = ["(", *inner, ")"]
        else:
            return None
        self._at += 1
        return part

    def _set(self, text: str) -> str:
        is_negated = text.startswith("^")
        chars = self._chars(text[is_negated:])
        if not chars:
            raise self._problem("a set of characters is empty")
        pieces, at = [], 0
        while at < len(chars):
            if at + 2 < len(chars) and chars[at + 1] == "-":
                if chars[at] > chars[at + 2]:
                    raise self._problem("a range of characters ends before it begins")
                pieces.append(f"{_in_regex(chars[at])}-{_in_regex(chars[at + 2])}")
                at += 3
            else:
                pieces.append(_in_regex(chars[at]))
                at += 1
        return f"/[{'^' if is_negated else ''}{''.join(pieces)}]/"

    def _chars(self, text: str) -> list[str]:
        chars, at = [], 0
        while at < len(text):
            match = _CHAR.match(text, at)
            if match is None:
                raise self._problem(f"{text[at : at + 2]!r} is not an escape of GBNF")
            piece = match[0]
            if piece[0] != "\\":
                chars.append(piece)
            elif piece[1] in "xuU":
                code = int(piece[2:], 16)
                if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                    raise self._problem(f"{piece} is not a Unicode character")
                chars.append(chr(code))
            else:
                chars.append(_ESCAPES.get(piece[1], piece[1]))
            at = match.end()
        return chars

    def _skip_lines(self) -> None:
        while self._kind() == "line":
            self._at += 1

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _text(self) -> str:
        return self._tokens[self._at][1]

    def _take(self, kind: str, requested: str) -> str:
        if self._kind() != kind:
            raise self._problem(f"expected {requested}, found {self._text()[:40]!r}")
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _problem(self, cause: str) -> GrammarProblem:
        return GrammarProblem(f"line {self._tokens[self._at][2]} of the grammar: {cause}")


def _tokens(source: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and line of each token; the last is of kind "end"."""
    at, line = 0, 1
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            raise GrammarProblem(f"line {line} of the grammar: {source[at : at + 20]!r} cannot be read")
        kind = match.lastgroup or ""
        if kind != "space":
            yield kind, match[0], line
        line += match[0].count("\n")
        at = match.end()
    yield "end", "", line


def _repeat(text: str, problem: type[GrammarProblem] | object) -> str:
    if text in "*+?":
        return text
    low, _, high = text[1:-1].replace(" ", "").partition(",")
    if max(int(low), int(high or 0)) > MAX_REPEAT:
        raise GrammarProblem(
            f"the grammar is too complex: {text} repeats more than {MAX_REPEAT} times", code="grammar_too_complex"
        )
    if high and int(high) < int(low):
        raise GrammarProblem(f"the repetition {text} has a maximum below its minimum")
    return "{" + low + ("," if "," in text else "") + high + "}"


def _in_regex(char: str) -> str:
    """A character inside /.../ and /[...]/."""
    return char if char.isascii() and char.isalnum() else f"\\x{{{ord(char):x}}}"
