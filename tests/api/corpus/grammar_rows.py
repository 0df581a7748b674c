"""Section 3.7: schemas, grammars, regular expressions (G)."""

from __future__ import annotations

from typing import Any

from tests.api.corpus.row import Ask, Row, chat, completion, row

COMPLEX, INVALID, UNSUPPORTED = "400 grammar_too_complex", "400 invalid_schema", "400 unsupported_schema"
GRAMMAR = "400 invalid_grammar"


def schema(value: Any) -> Ask:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": value, "strict": True}}
    return chat(response_format=form, max_tokens=4)


def pattern(text: str) -> Ask:
    return completion(structured_outputs={"regex": text})


def grammar(text: str) -> Ask:
    return completion(structured_outputs={"grammar": text})


def deep(depth: int) -> Any:
    value: Any = {"type": "string"}
    for _ in range(depth):
        value = {"type": "object", "properties": {"a": value}}
    return value


def deep_text(depth: int) -> str:
    return '{"type":"object","properties":{"a":' * depth + '{"type":"string"}' + "}}" * depth


def doubling(n: int) -> Any:
    """2^n paths through n definitions."""
    refs = {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(n)}
    return {"$ref": "#/$defs/d0", "$defs": {**refs, f"d{n}": {"type": "null"}}}


def properties(n: int) -> Any:
    return {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(n)}}


def of(value: Any, outcome: str, *, id: str, what: str, deviates: str = "") -> Row:
    return row(id, what, schema(value), outcome, feature="grammar", deviates=deviates)


def regex(text: str, outcome: str, *, id: str, what: str, deviates: str = "") -> Row:
    return row(id, what, pattern(text), outcome, feature="grammar", deviates=deviates)


def cfg(text: str, outcome: str, *, id: str, what: str, deviates: str = "") -> Row:
    return row(id, what, grammar(text), outcome, feature="grammar", deviates=deviates)


ROWS: list[Row] = [
    *(of(value, INVALID, id="G01", what=f"schema {value!r}") for value in ("", False, [], 0)),
    *(of(deep(depth), "400 invalid_json", id="G02", what=f"depth {depth}", deviates="the depth of a body (J04) comes first") for depth in (65, 300)),
    *(row("G02", f"depth {depth}, as text", completion(structured_outputs={"json": deep_text(depth)}), COMPLEX, feature="grammar") for depth in (65, 300, 1200)),
    of({"$ref": "#"}, UNSUPPORTED, id="G03", what="refers to itself"),
    *(of({"$ref": ref}, UNSUPPORTED, id="G03", what=f"refers to {ref}") for ref in ("#/absent", "https://a.example/s.json", "file:///etc/passwd")),
    of({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"}, "c": {"$ref": "#/$defs/a"}}}, UNSUPPORTED, id="G04", what="refers in a circle", deviates="as a schema that refers to itself: it is not large, it has no meaning"),
    of(doubling(20), "200", id="G04", what="2^20 paths"),
    of({"enum": [f"v{i}" for i in range(90_000)]}, COMPLEX, id="G05", what="90,000 choices"),
    of({"enum": []}, INVALID, id="G05", what="no choice"),
    of({"enum": ["a", "a"]}, "200", id="G05", what="a choice twice", deviates="JSON Schema allows it since draft 6"),
    of({"enum": ["x" * 2**20]}, COMPLEX, id="G05", what="a choice of 1 MB"),
    of(properties(20_000), COMPLEX, id="G06", what="20,000 properties"),
    of({"type": "object", "properties": {}, "required": ["a"]}, "200", id="G06", what="requires what it has not"),
    *(of(value, INVALID, id="G07", what=what) for what, value in (("minimum above maximum", {"type": "integer", "minimum": 2, "maximum": 1}), ("minItems above maxItems", {"type": "array", "items": {"type": "null"}, "minItems": 2, "maxItems": 1}), ("multipleOf 0", {"type": "integer", "multipleOf": 0}), ("two types at once", {"allOf": [{"type": "string"}, {"type": "null"}]}))),
    of({"type": "string", "minLength": 10**9}, COMPLEX, id="G08", what="a billion characters"),
    of({"type": "array", "items": {"type": "null"}, "maxItems": 10**18}, COMPLEX, id="G08", what="10^18 items"),
    of({"type": "string", "minLength": -1}, INVALID, id="G08", what="negative length"),
    *(of({"type": "string", "pattern": text}, INVALID, id="G09", what=f"pattern {text}") for text in ("^+[a-z]$", "(((", "a|*")),
    *(of({"type": "string", "pattern": text}, UNSUPPORTED, id="G09", what=f"pattern {text}") for text in ("(?<=a)b", r"(a)\1")),
    of({"type": "object", "patternProperties": {"^+[a-z]$": {"type": "null"}}}, INVALID, id="G09", what="an anchor repeated in a name"),
    *(regex(text, GRAMMAR, id="G09", what=f"regex {text}") for text in ("^+[a-z]$", "(((", "(?<=a)b", r"(a)\1")),
    cfg('start: /^+[a-z]/', GRAMMAR, id="G09", what="an anchor repeated in Lark"),
    regex("(" * 20_000 + ")" * 20_000, COMPLEX, id="G10", what="20,000 parentheses"),
    regex("((a{0,1000}){0,1000}){0,1000}", "200", id="G11", what="nested repetition"),
    regex("a{1,1000000000}", "200", id="G11", what="a billion repetitions"),
    regex("(a|a)*(a|a)*b", "200", id="G12", what="ambiguous repetition"),
    regex("(.*a.{20})", "200", id="G12", what="a long look back"),
    regex("|".join(["abcdefg"] * 130_000), COMPLEX, id="G13", what="1 MB of alternatives"),
    of({"type": "string", "format": "made-up"}, UNSUPPORTED, id="G14", what="unknown format"),
    of({"type": "string", "madeUp": 1}, UNSUPPORTED, id="G14", what="unknown keyword"),
    of({"$schema": "https://json-schema.org/draft-04/schema#", "type": "string"}, UNSUPPORTED, id="G14", what="an old draft"),
    *(cfg(text, GRAMMAR, id="G15", what=what) for what, text in (("empty", ""), ("undefined symbol", "root ::= absent"), ("no root", "a ::= \"x\""))),
    *(cfg("root ::= " + "(" * depth + '"a"' + ")" * depth, COMPLEX, id="G15", what=f"{depth} groups") for depth in (100, 60_000)),
    *(cfg(text, "200", id="G15", what=what, deviates="an Earley parser takes it in its stride") for what, text in (("left recursion", 'root ::= root "a" | "a"'), ("empty repeated", "root ::= (\"\")*"))),
    regex("[\U0010fff0-\U0010ffff]{5}", "200", id="G16", what="characters at the end of Unicode"),
    row("G17", "stop and min_tokens against a grammar", completion(structured_outputs={"regex": "ab"}, stop="a", min_tokens=9), "400 invalid_value", feature="grammar"),
    of({"type": "object", "properties": {'a"\n\\': {"type": "null"}, "\0": {"type": "null"}}}, "200", id="G20", what="strange names"),
]  # fmt: skip
