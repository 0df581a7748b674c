"""/v1/decisions and /v1/systemone: all kinds of questions, and what is refused."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, post

PATH, SYSTEM_ONE = "/v1/decisions", "/v1/systemone"
PREDICATE = {"type": "predicate", "name": "money", "instructions": "The customer writes about money."}
CHOICE = {
    "type": "choice",
    "instructions": "Which team?",
    "choices": [{"value": "billing", "description": "payments"}, {"value": "cards"}, {"value": True}],
}
SCORE = {"type": "score", "instructions": "How urgent?", "levels": [{"label": "low"}, {"label": "high"}]}
BODY: dict[str, Any] = {"model": "assistant", "input": "I was charged twice!", "questions": [PREDICATE, CHOICE, SCORE]}
ITEMS = [
    {"role": "developer", "content": "Be kind."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Where is my card?"}]},
    {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "in the post"},
    {"role": "user", "content": [{"type": "input_json", "data": {"days": 3}}]},
]
DECISIONS: dict[str, dict[str, Any]] = {
    "all kinds": {},
    "a predicate": {"questions": [PREDICATE]},
    "both orders": {"questions": [CHOICE], "option_orders": 2},
    "a conversation": {"input": ITEMS, "questions": [SCORE]},
    "little label mass": {"questions": [PREDICATE], "min_label_mass": 1.0},
    "a model of bytes": {"model": "talker", "input": "x", "questions": [PREDICATE, CHOICE]},
    "many choices": {"questions": [{**CHOICE, "choices": [{"value": f"v{i}"} for i in range(30)]}]},
    "for batch work": {"questions": [SCORE], "priority": 1, "cache_salt": "s", "safety_identifier": "me"},
    "refused: no questions": {"questions": []},
    "refused: a question that is none": {"questions": [{"type": "guess", "instructions": "x"}]},
    "refused: one choice": {"questions": [{**CHOICE, "choices": [{"value": "a"}]}]},
    "refused: a choice twice": {"questions": [{**CHOICE, "choices": [{"value": "a"}, {"value": "a"}]}]},
    "refused: one level": {"questions": [{**SCORE, "levels": [{"label": "a"}]}]},
    "refused: no instructions": {"questions": [{"type": "predicate"}]},
    "refused: no input": {"input": None},
    "refused: three orders": {"option_orders": 3},
    "refused: an embedder": {"model": "embedder"},
    "refused: an unknown model": {"model": "nobody"},
}
STATES: dict[str, dict[str, Any]] = {
    "all kinds": {
        "questions": {
            "money": {"type": "noul", "instructions": "About money."},
            "team": {"type": "choice", "instructions": "Which?", "criteria": {"billing": "payments", "cards": None}},
            "urgency": {"type": "score", "instructions": "How urgent?", "criteria": ["low", "middle", "high"]},
        }
    },
    "a state of JSON": {"state": {"text": "Hello", "days": [1, 2]}, "instructions": "Be kind."},
    "criteria of a noul": {"questions": {"q": {"type": "noul", "criteria": {"true": "it is", "false": "it is not"}}}},
    "refused: no state": {"state": None},
    "refused: no questions": {"questions": {}},
    "refused: a question that is none": {"questions": {"q": {"type": "guess"}}},
    "refused: images": {"images": ["x"]},
    "refused: an embedder": {"model": "embedder"},
    "refused: an unknown model": {"model": "nobody"},
}
STATE: dict[str, Any] = {"model": "assistant", "state": "I was charged twice!", "questions": {"q": {"type": "noul"}}}

REQUESTS: list[Request] = [
    *(post(name, PATH, {**BODY, **fields}) for name, fields in DECISIONS.items()),
    *(post(f"System One: {name}", SYSTEM_ONE, {**STATE, **fields}) for name, fields in STATES.items()),
]
