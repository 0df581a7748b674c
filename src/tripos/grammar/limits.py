"""The checks of a constraint before its grammar is used: limits on its source, and no keyword that is not enforced.

Runs in the compiling process (compile_process.py): it may take long or end the process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from tripos.errors import GrammarProblem, InvalidRequest, SchemaProblem
from tripos.grammar.gbnf import gbnf_to_lark
from tripos.grammar.matcher import Grammar, Vocabulary, json_grammar, lark_grammar, regex_grammar
from tripos.schema.lowering import lower
from tripos.schema.pattern import dangling_quantifier
from tripos.schema.reading import check_schema, read_schema
from tripos.types import Constraint

MAX_SOURCE_BYTES = 64 << 10
MAX_NESTING = 64  # of brackets in a pattern or grammar

# Tokens of a Lark source, as far as brackets and inline schemas matter.
_LARK = re.compile(
    r"""(?P<text>"(?:\\.|[^"\\\n])*")|(?P<comment>//[^\n]*|\#[^\n]*)|(?P<regex>/(?:\\.|[^/\\\n])+/)
    |(?P<json>%json\b)|(?P<open>[(\[{])|(?P<close>[)\]}])|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
# Texts in the compiler's error messages, and the keyword that each is about.
_KEYWORDS_OF = {
    "oneOf constraints": "oneOf",
    "Unknown format": "format",
    "patternProperty": "patternProperties",
    "multipleOf": "multipleOf",
    "for float range": "minimum, maximum, exclusiveMinimum or exclusiveMaximum",
    "for integer range": "minimum, maximum, exclusiveMinimum or exclusiveMaximum",
    "Properties": "minProperties or maxProperties",
    "regex parse error": "pattern",
}
_UNSUPPORTED = (
    "not supported",
    "Unknown format",
    "not disjoint",
    "too many digits",
    "Failed to generate",
    "maxProperties",
)
_REGEX = re.compile(r"(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|\\.|(?P<open>\()|(?P<close>\))|.", re.DOTALL)


class Admitted(msgspec.Struct, frozen=True):
    """A constraint that passed: what to compile, and the schema that a JSON answer follows, as JSON text.

    `parts`: the schemas inside of it: where each stands, and its grammar.
    """

    text: str
    schema: str | None = None
    parts: tuple[tuple[str, str], ...] = ()


def admit(constraint: Constraint) -> Admitted:
    """Check a constraint. Raises InvalidRequest: invalid_schema, unsupported_schema, invalid_grammar or
    grammar_too_complex."""
    source = constraint.source
    check_source(constraint)
    if constraint.kind == "json_object":
        return _admit_schema({"type": "object"})
    if constraint.kind == "json_schema":
        return _admit_schema(read_schema(source))
    if constraint.kind == "regex":
        _check_nesting(_REGEX, source)
        _check_quantifiers(source, 0)
        return Admitted(regex_grammar(_anchored(source)))
    if constraint.kind == "gbnf":
        return Admitted(lark_grammar(gbnf_to_lark(source)))
    _check_nesting(_LARK, source)
    for match in _LARK.finditer(source):
        if match.lastgroup == "regex":
            _check_quantifiers(match[0][1:-1], match.start() + 1)
    parts: list[tuple[str, str]] = []
    text = lark_grammar("".join(_with_checked_schemas(source, parts)))
    return Admitted(text, parts=tuple(parts))


def check_source(constraint: Constraint) -> None:
    """Check size and encoding of the source; cheap enough for the server's own process."""
    source, param = constraint.source, constraint.param
    size = len(source) if len(source) > MAX_SOURCE_BYTES else len(source.encode(errors="surrogatepass"))
    if size > MAX_SOURCE_BYTES:
        raise GrammarProblem(
            f"the source has {size} bytes, the limit is {MAX_SOURCE_BYTES}",
            code="grammar_too_complex",
            param=param,
        )
    if not source.isascii():
        try:
            source.encode()
        except UnicodeEncodeError:
            raise GrammarProblem("the source contains a lone surrogate, which is not valid text", param=param) from None


def try_out(vocabulary: Vocabulary, admitted: Admitted) -> Grammar:
    """Compile and compute the first mask, the most expensive one. Raises as admit."""
    try:
        return _compiled(vocabulary, admitted.text)
    except GrammarProblem as problem:
        for place, text in admitted.parts:  # which part fails?
            try:
                _compiled(vocabulary, text)
            except GrammarProblem as inner:
                raise _placed(_named(inner, is_schema=True), place) from problem
        raise _named(problem, is_schema=admitted.schema is not None) from problem


def _compiled(vocabulary: Vocabulary, text: str) -> Grammar:
    grammar = vocabulary.compile(text)
    grammar.try_first()
    return grammar


def _placed(problem: InvalidRequest, place: str) -> InvalidRequest:
    return InvalidRequest(f"{place}: {problem.message}", code=problem.code) if place else problem


def _admit_schema(schema: Any) -> Admitted:
    return Admitted(json_grammar(json.dumps(lower(schema), ensure_ascii=False)), json.dumps(schema, ensure_ascii=False))


def _anchored(pattern: str) -> str:
    """The pattern without ^ in front and $ behind: it matches the whole text anyway."""
    if pattern.startswith("^"):
        pattern = pattern[1:]
    if pattern.endswith("$") and (len(pattern) - len(pattern[:-1].rstrip("\\"))) % 2 == 1:
        pattern = pattern[:-1]
    return pattern


def _with_checked_schemas(lark: str, parts: list[tuple[str, str]]) -> Iterator[str]:
    """The source with each inline schema checked and rewritten, under the rules of a schema that stands alone.

    Each is appended to `parts` with its comment, which says where it comes from.
    """
    decoder = json.JSONDecoder()
    at = 0
    while (match := _LARK.match(lark, at)) is not None:
        at = match.end()
        if match.lastgroup != "json":
            yield match[0]
            continue
        start = at + len(lark[at:]) - len(lark[at:].lstrip())
        try:
            schema, at = decoder.raw_decode(lark, start)
        except (ValueError, RecursionError) as problem:
            raise SchemaProblem(f"%json is not followed by valid JSON: {problem}") from None
        lowered = lower(check_schema(schema))
        comment = schema.get("$comment")
        place = comment if isinstance(comment, str) else ""
        parts.append((place, json_grammar(json.dumps(lowered, ensure_ascii=False))))
        options = json.loads(json_grammar("{}"))["grammars"][0]["json_schema"]["x-guidance"]
        yield "%json " + json.dumps({"x-guidance": options, **lowered}, ensure_ascii=False)


def _check_nesting(pieces: re.Pattern[str], source: str) -> None:
    depth = 0
    for match in pieces.finditer(source):
        depth += (match.lastgroup == "open") - (match.lastgroup == "close")
        if depth > MAX_NESTING or (match.lastgroup == "regex" and _nesting(match[0]) > MAX_NESTING):
            raise GrammarProblem(
                f"the grammar is too complex: it is nested deeper than {MAX_NESTING} levels", code="grammar_too_complex"
            )


def _check_quantifiers(pattern: str, start: int) -> None:
    """`start`: where the pattern begins in the source."""
    found = dangling_quantifier(pattern)
    if found is not None:
        place, quantifier = found
        raise GrammarProblem(
            f"the grammar cannot be used: {quantifier!r} at position {start + place} has nothing to repeat"
        )


def _nesting(pattern: str) -> int:
    depth = deepest = 0
    for match in _REGEX.finditer(pattern):
        depth += (match.lastgroup == "open") - (match.lastgroup == "close")
        deepest = max(deepest, depth)
    return deepest


def _named(problem: GrammarProblem, *, is_schema: bool) -> InvalidRequest:
    """The compiler's error with a stable code."""
    message = problem.message
    if problem.code == "grammar_too_complex" or "nested parentheses" in message:
        return GrammarProblem(message, code="grammar_too_complex")
    if not (is_schema or "JSON schema" in message):
        return problem
    message = message.removeprefix("the grammar cannot be used: ")
    keyword = next((keyword for mark, keyword in _KEYWORDS_OF.items() if mark in message), None)
    if keyword is None:
        return SchemaProblem(f"the schema cannot be used: {message}")
    is_unsupported = any(mark in message for mark in _UNSUPPORTED)
    code, verdict = ("unsupported_schema", "is not supported") if is_unsupported else ("invalid_schema", "is wrong")
    return SchemaProblem(f"the keyword {keyword!r} {verdict} as it is used here: {message}", code=code)
