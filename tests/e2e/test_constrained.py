"""The demo assistant under constraints: a real tokenizer and real forced text."""

from __future__ import annotations

import json
import re

import pytest

from tripos import LLM
from tripos.types import Constraint, Sampling

TRIP = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "London"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("seed", range(4))
def test_the_demo_assistant_keeps_to_its_constraints(seed: int) -> None:
    sampling = Sampling(temperature=1.0, seed=seed)
    with LLM("demo:assistant", threads=1) as llm:
        for constraint, pattern in (
            (Constraint(kind="regex", source="(red|green|blue), (it is )?[a-z]{3,9}"), r"(red|green|blue), .+"),
            (Constraint(kind="json_schema", source=json.dumps(TRIP)), r'\{"city": "(Paris|London)", "days": [1-9]\}'),
            (Constraint(kind="lark", source='start: "call " %json {"const": {"a": [1, null]}}'), r"call .*"),
            (Constraint(kind="gbnf", source='root ::= "É" [0-9]{3}'), r"É\d{3}"),
        ):
            one, other = llm.generate(["Where?"], n=2, max_tokens=60, sampling=sampling, constraint=constraint)
            for answer in (one, other):
                assert answer.error is None
                assert answer.finish_reason == "stop"
                assert re.fullmatch(pattern, answer.text), answer.text
