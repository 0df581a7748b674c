"""Which schemas are enforced, which are refused and how; and the check of finished values."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tripos.errors import SchemaProblem
from tripos.schema.conformance import text_violation, violation
from tripos.schema.reading import MAX_COUNT, MAX_DEPTH, MAX_ENUM, MAX_NODES, check_schema, read_schema


def refused(schema: Any) -> SchemaProblem:
    with pytest.raises(SchemaProblem) as caught:
        check_schema(schema)
    return caught.value


NOT_ENFORCED: list[dict[str, Any]] = [
    {"not": {"type": "null"}}, {"if": {}, "then": False}, {"then": False, "if": {"type": "null"}}, {"contains": {}},
    {"else": {"type": "null"}, "if": True}, {"minContains": 2, "contains": {}}, {"maxContains": 0, "contains": True},
    {"contains": {}, "minContains": 0, "maxContains": 1}, {"uniqueItems": True}, {"propertyNames": {"pattern": "^a"}},
    {"propertyNames": {"type": "null"}}, {"dependentSchemas": {"a": {"required": ["b"]}}},
    {"dependentRequired": {"a": ["b"]}}, {"dependencies": {"a": ["b"]}}, {"unevaluatedProperties": False},
    {"unevaluatedItems": {"type": "null"}}, {"$dynamicRef": "#a"}, {"$anchor": "a"}, {"nullable": True},
    {"x-guidance": {}}, {"x-custom": 1}, {"Type": "null"}, {"optional": ["a"]}, {"format": "int32"},
]  # fmt: skip


@pytest.mark.parametrize("demand", NOT_ENFORCED, ids=str)
def test_a_keyword_that_is_not_enforced_is_refused_by_name_at_any_depth(demand: dict[str, Any]) -> None:
    for schema, path in (
        (demand, "schema"),
        ({"properties": {"a": {"items": demand}}}, "schema.properties.a.items"),
        ({"$defs": {"unused": demand}}, "schema.$defs.unused"),
        ({"anyOf": [{}, demand]}, "schema.anyOf[1]"),
    ):
        problem = refused(schema)
        assert problem.code == "unsupported_schema"
        named = re.search(rf"the keyword '([^']+)' in {re.escape(path)} is not supported", problem.message)
        assert named is not None
        assert named[1] in demand


@pytest.mark.parametrize(
    "schema",
    [{"uniqueItems": False}, {"propertyNames": {"type": "string"}}, {"propertyNames": {"title": "T", "type": "string"}},
     {"propertyNames": True}, {"minContains": 0}, {"maxContains": 3}, {"contains": {"type": "null"}, "minContains": 0},
     {"not": False}, {"if": {"type": "null"}}, {"then": False}, {"else": False}, {"if": {}, "then": True, "else": {}},
     {"dependentRequired": {}}, {"dependentRequired": {"a": []}}, {"dependentSchemas": {"a": {}}}, {"dependencies": {}},
     {"unevaluatedProperties": True}, {"unevaluatedItems": {}}, {"nullable": False}, {"minProperties": 0}],
    ids=str,
)  # fmt: skip
def test_a_keyword_that_says_nothing_is_left_out(schema: dict[str, Any]) -> None:
    assert check_schema(schema) == {}
    assert check_schema({"items": schema}) == {"items": {}}


def test_what_follows_from_the_rest_of_a_schema_is_left_out() -> None:
    assert check_schema({"type": "integer", "format": "int64"}) == {"type": "integer"}
    named = {"required": ["a", "b"], "properties": {"a": {}, "b": {}}, "additionalProperties": False}
    assert check_schema({**named, "minProperties": 2, "maxProperties": 2}) == named
    assert "maxProperties" in check_schema({**named, "maxProperties": 1})
    assert "minProperties" in check_schema({"required": ["a"], "minProperties": 2})


def test_data_and_names_are_no_keywords() -> None:
    schema = {
        "type": "object",
        "properties": {"not": {"const": {"if": 1}}, "title": {"enum": [{"uniqueItems": True}]}},
        "required": ["not"],
    }
    assert check_schema(schema) == schema


def test_annotations_do_not_reach_the_grammar() -> None:
    plain = {"type": "object", "properties": {"a": {"type": "string"}}}
    described = {
        "$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://example.org/x", "title": "T",
        "type": "object", "properties": {"a": {"type": "string", "description": "x", "default": "", "examples": []}},
    }  # fmt: skip
    assert json.dumps(check_schema(described)) == json.dumps(plain)


def nested(depth: int) -> Any:
    schema: Any = {}
    for _ in range(depth):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ("", "invalid_schema"),
        (False, "invalid_schema"),
        ([], "invalid_schema"),
        (0, "invalid_schema"),
        (None, "invalid_schema"),
        (nested(MAX_DEPTH + 1), "grammar_too_complex"),
        ({"enum": list(range(MAX_ENUM + 1))}, "grammar_too_complex"),
        ({"enum": []}, "invalid_schema"),
        ({"enum": 3}, "invalid_schema"),
        ({"const": list(range(MAX_NODES))}, "grammar_too_complex"),
        ({"minLength": MAX_COUNT + 1}, "grammar_too_complex"),
        ({"maxItems": 10**18}, "grammar_too_complex"),
        ({"minItems": -1}, "invalid_schema"),
        ({"minItems": 1.5}, "invalid_schema"),
        ({"minItems": True}, "invalid_schema"),
        ({"multipleOf": 0}, "invalid_schema"),
        ({"minimum": "3"}, "invalid_schema"),
        ({"exclusiveMinimum": True}, "invalid_schema"),
        ({"type": "strin"}, "invalid_schema"),
        ({"type": []}, "invalid_schema"),
        ({"type": ["string", 3]}, "invalid_schema"),
        ({"properties": []}, "invalid_schema"),
        ({"properties": {"a": 3}}, "invalid_schema"),
        ({"items": "x"}, "invalid_schema"),
        ({"anyOf": {}}, "invalid_schema"),
        ({"anyOf": []}, "invalid_schema"),
        ({"required": "a"}, "invalid_schema"),
        ({"required": [1]}, "invalid_schema"),
        ({"pattern": 3}, "invalid_schema"),
        ({"$ref": 3}, "invalid_schema"),
        ({"$ref": "#/nowhere"}, "unsupported_schema"),
        ({"$ref": "#"}, "unsupported_schema"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            "unsupported_schema",
        ),
        ({"$ref": "https://example.org/schema"}, "unsupported_schema"),
        ({"$ref": "file:///etc/passwd"}, "unsupported_schema"),
        ({"$ref": "#name"}, "unsupported_schema"),
        ({"$schema": "http://json-schema.org/draft-03/schema"}, "unsupported_schema"),
        ({"properties": {"a": {"$id": "inner"}}}, "unsupported_schema"),
        ({"const": float("inf")}, "invalid_schema"),
        ({"const": [{"a": 3.0000000000000004e-09}]}, "unsupported_schema"),
        ({"enum": [820388497713077.2]}, "unsupported_schema"),
        ({"enum": [1, 2**53 + 1]}, "unsupported_schema"),
        ({"minimum": 10**18}, "unsupported_schema"),
        ({"exclusiveMaximum": -1e300}, "unsupported_schema"),
        ({"minimum": 1.0000000000000002, "maximum": 1.0000000000000004}, "unsupported_schema"),
        ({"const": 6.331897781708e-13}, "unsupported_schema"),
        ({"multipleOf": 0.1234567890123456}, "unsupported_schema"),
        ({"multipleOf": 5e-10}, "unsupported_schema"),  # ten decimals
        ({"multipleOf": 10**400}, "unsupported_schema"),  # no double is as large
        ({"const": 10**30 + 1}, "unsupported_schema"),
        ({"pattern": f"a{{1,{'9' * 5000}}}"}, "unsupported_schema"),  # more digits than Python reads as a number
        ({"$defs": {"a": {"anyOf": [{}]}}, "$ref": f"#/$defs/a/anyOf/{'1' * 5000}"}, "unsupported_schema"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_bad_schemas_are_refused_under_their_code(schema: Any, code: str) -> None:
    assert refused(schema).code == code


@pytest.mark.parametrize("source", ["", "{", "{'a': 1}", '{"type": NaN}', '{"type": "a", "type": "b"}', "[" * 100_000])
def test_a_text_that_is_no_json_is_refused(source: str) -> None:
    with pytest.raises(SchemaProblem):
        read_schema(source)


def test_counts_written_as_decimals_are_counts() -> None:
    assert check_schema({"minItems": 2.0}) == {"minItems": 2}


def test_one_of_looks_through_references() -> None:
    schema = {"oneOf": [{"$ref": "#/$defs/a", "title": "A"}], "$defs": {"a": {"const": 1}}}
    assert check_schema(schema)["oneOf"] == [{"const": 1}]


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 2}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
TREE = {"type": "object", "properties": {"left": {"$ref": "#"}}, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (PERSON, '{"name": "Al", "age": 3}', '{"name": "A"}'),
        (PERSON, '{"name": "Al"}', '{"age": 3}'),
        (PERSON, '{"name": "Al", "age": 3.0}', '{"name": "Al", "age": -1}'),
        (PERSON, '{"name": "Al", "age": 0}', '{"name": "Al", "x": 1}'),
        (TREE, '{"left": {"left": {}}}', '{"left": {"left": 1}}'),
        ({"type": ["null", "boolean"]}, "true", "1"),
        ({"type": "number"}, "1", "true"),
        ({"enum": [1, "a", [1]]}, "1.0", "true"),
        ({"const": {"a": [1]}}, '{"a": [1]}', '{"a": [true]}'),
        ({"anyOf": [{"const": 1}, {"type": "string"}]}, '"x"', "2"),
        ({"oneOf": [{"type": "integer"}, {"minimum": 5}]}, "6.5", "4.5"),
        (
            {"oneOf": [{"type": "object", "patternProperties": {"^x": {}}, "additionalProperties": False}, PERSON]},
            '{"name": "Al"}',
            "1",
        ),
        ({"allOf": [{"minimum": 1}, {"maximum": 3}]}, "2", "4"),
        ({"exclusiveMinimum": 1, "exclusiveMaximum": 2}, "1.5", "2"),
        ({"minimum": 1.1}, "1.10", "1.09"),
        ({"const": 0.1}, "0.1", "0.10000000000000001"),
        ({"const": 0.1}, "1e-1", "0.2"),
        ({"enum": [3.14, 19.99]}, "19.990", "19.98"),
        ({"anyOf": [{"const": [0.1]}, {"enum": [{"a": 2.5e-7}]}]}, '{"a": 0.00000025}', '{"a": 0.00000026}'),
        ({"enum": [0.3, 1e22, -0.0]}, "10000000000000000000000", "0.30000000000000004"),
        ({"const": 0}, "-0.0", "false"),
        ({"type": "number"}, "1e9999999999999999999999", '"1e9"'),
        ({"type": "integer"}, "-" + "7" * 5000, "1e-9999999999999999999999"),
        ({"multipleOf": 2, "maximum": 5}, "-2e-0", "-1e9999999999999999999999"),
        ({"multipleOf": 0.1}, "0.3", "0.35"),
        ({"multipleOf": 3}, "9007199254740993000000000000000003", "1e999999999"),
        ({"items": [{"type": "string"}], "additionalItems": False}, '["a"]', '["a", 1]'),
        ({"prefixItems": [{"type": "string"}], "items": {"type": "null"}}, '["a", null]', '["a", 1]'),
        ({"minItems": 1, "maxItems": 2}, "[1, 2]", "[]"),
        ({"maxProperties": 1}, '{"a": 1}', '{"a": 1, "b": 2}'),
        ({"additionalProperties": {"type": "null"}}, '{"a": null}', '{"a": 1}'),
        ({"properties": {"a": False}}, '{"b": 1}', '{"a": 1}'),
    ],
    ids=lambda value: str(value)[:80],
)
def test_values_are_held_against_the_schema(schema: Any, good: str, bad: str) -> None:
    checked = check_schema(schema)
    assert text_violation(checked, good) is None
    assert text_violation(checked, bad) is not None


def test_what_is_no_json_is_a_violation() -> None:
    for text in ("", "{", '{"a": 1} x', "NaN", "[" * 100_000):
        assert text_violation({}, text) is not None
    assert violation(True, 1) is None
