"""The JSON Schema Test Suite and BFCL's tools: every finished answer follows its schema as another library reads it,
and every schema that is not served is refused by the keyword that is in the way.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.unit.engine.answering import answers, made_up
from tests.unit.engine.tiny import make_model
from tripos.errors import InvalidRequest
from tripos.types import Constraint

Find = Callable[[str], Path]
# ECMA 262, to which schemas refer, as Python's expressions.
_CLASSES = {
    r"\p{Letter}": r"[^\W\d_]", r"\p{digit}": r"\d", r"\d": "[0-9]", r"\D": "[^0-9]", r"\w": "[A-Za-z0-9_]",
    r"\W": "[^A-Za-z0-9_]", r"\s": r"[\s\ufeff]", r"\S": r"[^\s\ufeff]", "$": r"\Z",
}  # fmt: skip


def _in_python(value: Any) -> Any:
    """A schema whose patterns mean in Python what they mean in ECMA 262."""
    if isinstance(value, list):
        return [_in_python(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {name: _in_python(each) for name, each in value.items()}
    if isinstance(found.get("pattern"), str):
        found["pattern"] = _pattern(found["pattern"])
    if isinstance(found.get("patternProperties"), dict):
        found["patternProperties"] = {_pattern(name): each for name, each in found["patternProperties"].items()}
    return found


def _pattern(pattern: str) -> str:
    pattern = re.sub(r"\\c([A-Za-z])", lambda match: f"\\x{ord(match[1]) % 32:02x}", pattern)
    return re.sub(r"\\p\{\w+\}|\\.|\$", lambda match: _CLASSES.get(match[0], match[0]), pattern)


def _judge(draft: type, schema: Any) -> Any:
    checker = jsonschema.FormatChecker(formats=())
    checkers = draft.FORMAT_CHECKER.checkers  # type: ignore[attr-defined]
    checker.checkers = {name: checkers[name] for name in ("date", "date-time")} | checker.checkers
    return draft(_in_python(schema), format_checker=checker)


def check(schemas: list[Any], judges: list[Any]) -> Counter[str]:
    """Answers of each schema against its judge; returns what came of them."""
    model = make_model(num_blocks=2048, executor=made_up(), max_num_seqs=64)
    found = answers(model, [Constraint(kind="json_schema", source=json.dumps(schema)) for schema in schemas], n=3)
    model.close()
    met: Counter[str] = Counter()
    for schema, judge, choices in zip(schemas, judges, found, strict=True):
        if isinstance(choices, InvalidRequest):
            assert choices.code in ("unsupported_schema", "invalid_schema"), (schema, choices.message)
            if choices.code == "unsupported_schema":
                named = re.search(r"the keyword '([^']+)'", choices.message)
                assert named, choices.message
                assert any(f'"{part}"' in json.dumps(schema) for part in re.split(", | or ", named[1])), choices.message
            met[choices.code] += 1
            continue
        for text, reason in choices:
            met[reason] += 1
            if reason == "stop":
                problem = next(judge.iter_errors(json.loads(text)), None)
                assert problem is None, (schema, text, problem)
    return met


@pytest.mark.parametrize("draft", ["draft7", "draft2020-12"])
def test_answers_follow_the_schemas_of_the_test_suite(shared_data: Find, draft: str) -> None:
    folder = shared_data(f"structured/json-schema-test-suite/tests/{draft}")
    groups = [group for file in sorted(folder.rglob("*.json")) for group in json.loads(file.read_text())]
    schemas = [group["schema"] for group in groups]
    cls = {"draft7": jsonschema.Draft7Validator, "draft2020-12": jsonschema.Draft202012Validator}[draft]
    met = check(schemas, [_judge(cls, schema) for schema in schemas])
    assert met["stop"] > len(schemas)  # of three choices of each that is served
    assert met["invalid_schema"] < len(schemas) / 20


def test_answers_follow_the_parameters_of_bfcl(shared_data: Find) -> None:
    folder = shared_data("structured/bfcl")
    lines = [json.loads(line) for file in sorted(folder.glob("*.json*")) for line in file.read_text().splitlines()]
    tools = [tool for line in lines for tool in line.get("function", ())]
    schemas = [_in_json_schema(tool["parameters"]) for tool in tools]
    met = check(schemas, [jsonschema.Draft202012Validator(schema) for schema in schemas])
    assert met["stop"] > 2 * len(schemas)
    assert met["unsupported_schema"] <= 3  # "optional", which is no keyword


def _in_json_schema(value: Any) -> Any:
    """BFCL names types as Python does."""
    names = {"dict": "object", "float": "number", "tuple": "array"}
    if isinstance(value, list):
        return [_in_json_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    found = {name: _in_json_schema(each) for name, each in value.items()}
    if isinstance(found.get("type"), str):
        found["type"] = names.get(found["type"], found["type"])
    if found.get("type") == "any":
        del found["type"]
    return found
