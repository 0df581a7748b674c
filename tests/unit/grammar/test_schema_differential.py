"""Schemas drawn at random: every text that their grammar takes follows them as another library reads them, and what a
reader of the docs expects to be writable is.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from typing import Any

import jsonschema
import pytest

from tests.unit.engine.answering import answers, made_up
from tests.unit.engine.tiny import make_model
from tripos.errors import InvalidRequest
from tripos.grammar.limits import admit, try_out
from tripos.grammar.matcher import Grammar, Vocabulary
from tripos.types import Constraint

VOCABULARY = Vocabulary([bytes([i]) for i in range(256)] + [b"</s>"], [256], [256])
# ECMA 262, and the same in Python.
PATTERNS = {
    "^[[a]b?$": r"^[\[a]b?\Z", "[0-9]{2}": "[0-9]{2}", "^a.?b$": r"^a[^\n\r\u2028\u2029]?b\Z", "x|^y$": r"x|^y\Z",
    r"^\S\s?\d$": r"^[^\s\ufeff](?:[^\S\x1c-\x1f\x85]|\ufeff)?[0-9]\Z",
}  # fmt: skip
STEPS = ("0", "1", "2", "5", "9", "10", "25", "99", "100", "999")


def compiled(schema: Any) -> Grammar:
    return try_out(VOCABULARY, admit(Constraint(kind="json_schema", source=json.dumps(schema))))


def accepts(grammar: Grammar, text: str) -> bool:
    return grammar.accepts(list(text.encode()))


def drawn_number(draw: random.Random) -> float:
    decimals = draw.choice((0, 0, 1, 2, 3, 7, 16))
    value = round(draw.choice((0, 1, 3, 9, 10, 99, 1000, 1e7)) + draw.choice((0, draw.random())), decimals)
    value *= draw.choice((1, 1, -1, 0.01))
    return int(value) if value == int(value) and draw.random() < 0.5 else float(value)


def drawn_range(draw: random.Random) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    low = drawn_number(draw)
    if draw.random() < 0.8:
        schema[draw.choice(("minimum", "exclusiveMinimum"))] = low
    if draw.random() < 0.8:
        high = low + draw.choice((0, 0.01, 0.1, 0.7, 1, 5, 1000)) * draw.choice((1, draw.random()))
        schema[draw.choice(("maximum", "exclusiveMaximum"))] = high
    if draw.random() < 0.3:
        schema["multipleOf"] = draw.choice((0.1, 0.5, 0.25, 0.01, 2, 3, 7, 1.5, 100, 0.05))
    return schema


def near(draw: random.Random, schema: dict[str, Any]) -> list[str]:
    """Numbers at, just beside and between the bounds, written in several ways."""
    bounds = [Decimal(repr(schema[name])) for name in schema if name.endswith("imum")] or [Decimal(0)]
    values = [Decimal(0), *bounds, sum(bounds) / len(bounds)]
    for bound in bounds:
        for places in (0, 1, 2, 3, 8, 14, 17):
            step = Decimal(draw.choice(STEPS)).scaleb(-places)
            values += [bound + step, bound - step, round(bound, places)]
    if "multipleOf" in schema:
        divisor = Decimal(repr(schema["multipleOf"]))
        values += [(value // divisor + k) * divisor for value in list(values) for k in (-1, 0, 1)]
    texts = [f"{value:f}" for value in values]
    return (
        texts
        + [text.rstrip("0").rstrip(".") for text in texts if "." in text]
        + [f"{text}.0" for text in texts if "." not in text]
    )


def is_inside(schema: dict[str, Any], text: str) -> bool:
    value = Decimal(text)
    bound = {name: Decimal(repr(number)) for name, number in schema.items() if name != "type"}
    return (
        value >= bound.get("minimum", value)
        and value <= bound.get("maximum", value)
        and ("exclusiveMinimum" not in bound or value > bound["exclusiveMinimum"])
        and ("exclusiveMaximum" not in bound or value < bound["exclusiveMaximum"])
        and ("multipleOf" not in bound or Fraction(value) % Fraction(bound["multipleOf"]) == 0)
    )


def is_plain(schema: dict[str, Any], text: str) -> bool:
    """Whether a number is written as anybody would: no more digits than it needs, and none beyond the compiler's."""
    _, _, decimals = text.partition(".")
    is_short = len(decimals) < 10 and len(text) < 15 and not decimals.endswith("0")
    return is_short and "allOf" not in schema and schema.get("type") == "number"


@pytest.mark.parametrize("seed", range(3))
def test_a_number_is_taken_where_it_lies_inside_its_bounds_and_nowhere_else(seed: int) -> None:
    draw, met = random.Random(seed), Counter[str]()
    for _ in range(90):
        ranges = [drawn_range(draw) for _ in range(draw.choice((1, 1, 2)))]
        kind = draw.choice(({"type": "number"}, {"type": "integer"}, {}, {"type": ["number", "null"]}))
        schema = {**kind, **ranges[0]} if len(ranges) == 1 else {**kind, "allOf": ranges}
        try:
            grammar = compiled(schema)
        except InvalidRequest as problem:
            met[problem.code] += 1
            continue
        for text in {text for each in ranges for text in near(draw, each)}:
            is_right = all(is_inside(each, text) for each in ranges)
            is_right = is_right and (kind != {"type": "integer"} or Decimal(text) == int(Decimal(text)))
            is_taken = accepts(grammar, text)
            assert is_right or not is_taken, (schema, text)
            assert is_taken or not (is_right and is_plain(schema, text)), (schema, text)
            met[f"{is_right} {is_taken}"] += 1
    assert met["True True"] > 300
    assert met["unsupported_schema"] < 20


@pytest.mark.parametrize(
    ("schema", "texts"),
    [
        ({"multipleOf": 0.1, "minimum": 0.25, "maximum": 0.35}, ["0.3"]),
        ({"multipleOf": 0.1, "exclusiveMinimum": 0.2, "maximum": 0.3}, ["0.3"]),
        ({"multipleOf": 0.1, "maximum": 0.35}, ["0.3", "-7.7"]),
        ({"multipleOf": 0.1, "minimum": 0.3, "maximum": 0.3}, ["0.3"]),
        ({"multipleOf": 0.1, "minimum": 0.7, "exclusiveMaximum": 0.8}, ["0.7"]),
        ({"multipleOf": 0.01, "minimum": 0.29, "maximum": 0.58}, ["0.29", "0.3", "0.35", "0.58"]),
        ({"exclusiveMaximum": 0.9430000000000001, "minimum": 0.933}, ["0.943", "0.94"]),
        ({"multipleOf": 0.05, "minimum": -0.11, "maximum": 12.25}, ["-0.1", "0", "0.05", "12.2", "12.25"]),
        ({"exclusiveMinimum": 0, "maximum": 0.01}, ["0.01", "0.005", "0.000000000000001"]),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, ["0.5", "0.999", "0.0001"]),
        ({"exclusiveMinimum": 0}, ["0.5", "1", "1000000.25"]),
        ({"exclusiveMinimum": 0, "type": "integer"}, ["1", "77"]),
        ({"minimum": -9007199254740991, "maximum": 9007199254740991}, ["-9007199254740991", "0", "9007199254740991"]),
        ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, ["-9000000000000000000", "0", "17"]),
        ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, ["0", "9000000000000000000"]),
        (
            {"type": "number", "minimum": -1.7976931348623157e308, "maximum": 1.7976931348623157e308},
            ["-1.5", "1000000"],
        ),
        ({"minimum": -6.283185307179586, "maximum": 6.283185307179586}, ["6.283185307179586", "-6.28", "0"]),
        ({"minimum": 0.1234567890123456789}, ["0.123456789012346", "1"]),
        ({"minimum": 0, "maximum": 0.95, "type": "number"}, ["0.9", "0.95", "0", "0.1"]),
        ({"const": 3.141592653589793}, ["3.141592653589793"]),
        ({"enum": [9007199254740991, 0.1, 1e-7]}, ["9007199254740991", "0.1", "0.0000001"]),
    ],
    ids=str,
)
def test_what_lies_inside_can_be_written(schema: Any, texts: list[str]) -> None:
    grammar = compiled({"type": "number", **schema})
    assert [text for text in texts if not accepts(grammar, text)] == []


def test_a_constant_of_many_digits_is_taken_as_it_is_written_or_refused() -> None:
    draw, met = random.Random(0), Counter[str]()
    for _ in range(800):
        value = draw.random() * 10.0 ** draw.randrange(-14, 17)
        text = f"{Decimal(repr(value)):f}".removesuffix(".0")
        try:
            assert accepts(compiled({"const": value}), text), value
            met["served"] += 1
        except InvalidRequest as problem:
            met[problem.code] += 1
    assert met.keys() == {"served", "unsupported_schema"}
    assert met["served"] > 400
    assert accepts(compiled({"enum": [0.30000000000000004, 0.1]}), "0.30000000000000004")


def drawn(draw: random.Random, depth: int = 0) -> dict[str, Any]:
    kind = draw.choice(("number", "string", "format", "enum", "object", "array", "any", "all", "one", "names", "ref"))
    if depth > 2 or kind == "number":
        return {"type": draw.choice(("number", "integer")), **drawn_range(draw)}
    if kind == "string":
        low = draw.randrange(3)
        return draw.choice([
            {"type": "string", "minLength": low, "maxLength": low + draw.randrange(4)},
            {"type": "string", "pattern": draw.choice(list(PATTERNS))},
        ])  # fmt: skip
    if kind == "format":
        return {"type": "string", "format": draw.choice(("date", "ipv4", "uuid", "time", "ipv6", "date-time"))}
    if kind == "enum":
        values = [0.1, 19.99, 3, "a", None, True, [1.5], {"a": 2.25}, -1e-7]
        return {"enum": draw.sample(values, draw.randrange(1, 4))}
    if kind == "array":
        low = draw.randrange(2)
        return {"type": "array", "items": drawn(draw, depth + 1), "minItems": low, "maxItems": low + 2}
    if kind in ("any", "all", "one"):
        parts = [drawn(draw, depth + 1) for _ in range(2)]
        if kind == "all":
            parts = [drawn_range(draw), {"type": "number", **drawn_range(draw)}]
        return {f"{kind}Of": parts}
    if kind == "names":
        patterns = {"^x": drawn(draw, depth + 1), **({"^y": drawn(draw, depth + 1)} if draw.random() < 0.5 else {})}
        return {
            "type": "object", "properties": {draw.choice("axy"): drawn(draw, depth + 1)}, "patternProperties": patterns,
            "additionalProperties": False, "propertyNames": {"type": "string"},
        }  # fmt: skip
    if kind == "ref":
        return {"$ref": "#/$defs/shared"}
    names = draw.sample("abc", 2)
    return {
        "type": "object",
        "properties": {name: drawn(draw, depth + 1) for name in names},
        "required": draw.sample(names, draw.randrange(3)),
        "additionalProperties": False,
    }


@pytest.mark.parametrize("seed", range(3))
def test_answers_follow_drawn_schemas_as_another_library_reads_them(seed: int) -> None:
    draw, met = random.Random(seed), Counter[str]()
    schemas = [{**drawn(draw), "$defs": {"shared": {"type": "number", **drawn_range(draw)}}} for _ in range(120)]
    model = make_model(num_blocks=2048, executor=made_up(), max_num_seqs=64)
    found = answers(model, [Constraint(kind="json_schema", source=json.dumps(each)) for each in schemas], n=2)
    model.close()
    for schema, choices in zip(schemas, found, strict=True):
        if isinstance(choices, InvalidRequest):
            met[choices.code] += 1
            continue
        judge = jsonschema.Draft202012Validator(
            exactly(schema), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
        )
        for text, reason in choices:
            met[reason] += 1
            if reason == "stop":
                problem = next(judge.iter_errors(json.loads(text, parse_float=Decimal)), None)
                assert problem is None, (schema, text, problem)
    assert met["stop"] > 80, met


def exactly(value: Any) -> Any:
    """For the judge: decimals as they are written, since it takes remainders, and patterns in its own dialect."""
    if isinstance(value, list):
        return [exactly(each) for each in value]
    if isinstance(value, dict):
        return {name: PATTERNS[each] if name == "pattern" else exactly(each) for name, each in value.items()}
    return Decimal(repr(value)) if isinstance(value, float) else value
