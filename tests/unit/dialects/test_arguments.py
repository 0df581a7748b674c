"""What a tool's schema becomes: what can be enforced, with the rest named; where it is strict all, or a refusal."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tripos.dialects.arguments import arguments_of, enforceable
from tripos.dialects.grammar import constrain
from tripos.dialects.hermes import HERMES
from tripos.errors import InvalidRequest
from tripos.grammar.limits import MAX_SOURCE_BYTES, admit, try_out
from tripos.grammar.matcher import Vocabulary
from tripos.types import Constraint, Tool, ToolChoice

PATH = "tools[3].function.parameters"
VOCABULARY = Vocabulary([bytes([i]) for i in range(256)] + [b"</s>"], [256], [256])


def tool(parameters: dict[str, Any], *, is_strict: bool = False) -> Tool:
    return Tool(name="f", parameters=parameters, path=PATH, is_strict=is_strict)


def relaxed(parameters: dict[str, Any]) -> tuple[Any, list[str]]:
    """The schema, and the names of what is not enforced, without the path of the tool."""
    made = arguments_of(tool(parameters))
    names = list(made.unenforced)
    assert all(name.startswith(f"{PATH}.") for name in names)
    try_out(VOCABULARY, admit(Constraint(kind="json_schema", source=json.dumps(made.schema))))
    return made.schema, [name.removeprefix(f"{PATH}.") for name in names]


def of_p(schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"p": schema}, "required": ["p"], "additionalProperties": False}


# What stands at property p, what is enforced of it, and what is named.
SERVED: list[tuple[Any, Any, list[str]]] = [
    ({"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}, ..., []),
    ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, ..., []),
    ({"type": "integer", "exclusiveMinimum": 0, "maximum": 9007199254740991}, ..., []),
    ({"type": "number", "maximum": 6.283185307179586}, ..., []),
    ({"type": "number", "minimum": 0.30000000000000004}, ..., []),
    ({"type": "string", "maxLength": 1_000_000}, ..., []),
    ({"type": "string", "maxLength": 2**53}, {"type": "string", "maxLength": 2**32 - 1}, []),
    ({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {}},
     {"type": "object", "additionalProperties": {}}, []),
    ({"type": "array", "uniqueItems": False, "minContains": 0}, {"type": "array"}, []),
    ({"type": "array", "uniqueItems": True}, {"type": "array"}, ["uniqueItems"]),
    ({"type": "array", "contains": {"const": 1}, "maxContains": 2}, {"type": "array"}, ["contains", "maxContains"]),
    ({"type": "array", "maxItems": 2**31 - 1}, {"type": "array"}, ["maxItems"]),
    ({"not": {"type": "null"}}, {}, ["not"]),
    ({"if": {"type": "null"}, "then": False}, {}, ["if", "then"]),
    ({"type": "string", "pattern": "^(?!x)a"}, {"type": "string"}, ["pattern"]),
    ({"type": "string", "pattern": "("}, {"type": "string"}, ["pattern"]),
    ({"type": "number", "multipleOf": 0.07}, {"type": "number"}, ["multipleOf"]),
    ({"minimum": 0, "exclusiveMinimum": True}, {"minimum": 0}, ["exclusiveMinimum"]),
    ({"const": 9007199254740993}, {}, ["const"]),
    ({"$ref": "https://example.org/schema"}, {}, ["$ref"]),
    ({"oneOf": [{"type": "string"}, {"type": "null"}]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}, []),
    ({"oneOf": [{"minimum": 1}, {"maximum": 3}]}, {"anyOf": [{"minimum": 1}, {"maximum": 3}]}, ["oneOf"]),
    ({"oneOf": [{"format": "date"}, {"type": "string"}], "anyOf": [{}, True]},
     {"anyOf": [{}, True], "allOf": [{"anyOf": [{"format": "date"}, {"type": "string"}]}]}, ["oneOf"]),
    ({"type": "object", "patternProperties": {"^a": {}, "b$": {}}, "additionalProperties": False},
     {"type": "object", "additionalProperties": True}, ["patternProperties"]),
    ({"type": "object", "properties": {"a": {"not": {}}}, "minProperties": 1},
     {"type": "object", "properties": {"a": {}}, "additionalProperties": False}, ["properties.a.not", "minProperties"]),
    ({"anyOf": [{"not": {}}, {"type": "null"}]}, {"anyOf": [{}, {"type": "null"}]}, ["anyOf[0].not"]),
    ({"type": "number", "minimum": 0.3, "maximum": 0.35, "multipleOf": 0.1, "exclusiveMinimum": 0.3},
     {"type": "number", "multipleOf": 0.1}, ["minimum", "exclusiveMinimum", "maximum"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "enforced", "names"), SERVED, ids=lambda value: str(value)[:60])
def test_a_tool_is_served_with_what_can_be_enforced_and_the_rest_is_named(
    given: Any, enforced: Any, names: list[str]
) -> None:
    schema, ignored = relaxed(of_p(given))
    assert schema == of_p(given if enforced is ... else enforced)
    assert ignored == [f"properties.p.{name}" for name in names]


def test_what_is_left_out_is_not_referred_to() -> None:
    parameters = {"properties": {"a": {"not": {"type": "null"}}, "b": {"$ref": "#/properties/a/not"}}}
    schema, ignored = relaxed(parameters)
    assert schema["properties"] == {"a": {}, "b": {}}
    assert ignored == ["properties.a.not", "properties.b.$ref"]


@pytest.mark.parametrize(
    ("given", "keyword"),
    [({"type": "array", "uniqueItems": True}, "uniqueItems"), ({"pattern": "(?=a)"}, "pattern"),
     ({"const": 9007199254740993}, "const"), ({"$ref": "#/nowhere"}, "$ref")],
)  # fmt: skip
def test_a_strict_tool_is_refused_with_its_name_and_the_place(given: Any, keyword: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        arguments_of(tool(of_p(given), is_strict=True))
    assert caught.value.code == "unsupported_schema"
    assert caught.value.param == PATH
    assert f"the tool 'f': the keyword '{keyword}' in {PATH}.properties.p" in caught.value.message


def test_the_largest_tools_are_not_enforced_where_all_are_too_large_together() -> None:
    def sized(name: str, num: int, *, is_strict: bool = False) -> Tool:
        properties = {f"{name}{i}": {"type": "string"} for i in range(num)}
        return Tool(name=name, parameters={"properties": properties}, path=f"tools.{name}", is_strict=is_strict)

    tools = (sized("a", 300), sized("b", 1000), sized("c", 1100, is_strict=True), sized("d", 20_000), sized("e", 9))
    arguments = enforceable(tools, ("a", "b", "c", "d", "e"))
    assert [len(each.schema.get("properties", {})) for each in arguments.values()] == [300, 0, 1100, 0, 9]
    assert [path for each in arguments.values() for path in each.unenforced] == ["tools.b", "tools.d"]
    source = constrain(arguments, ToolChoice(), HERMES, {}).source
    assert len(source) < MAX_SOURCE_BYTES
    for name in ("b", "d"):
        assert f'"$comment": "tools.{name}", "type": "object"}}' in source


def test_only_what_may_be_called_is_looked_at() -> None:
    tools = (tool({"type": "object", "not": {}}, is_strict=True), Tool(name="g"))
    arguments = enforceable(tools, ("g",))
    assert list(arguments) == ["g"]
    assert arguments["g"].unenforced == ()
