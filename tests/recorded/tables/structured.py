"""Answers that follow a schema, a pattern or a grammar, in every dialect."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, both, post
from tests.recorded.tables.tools import CHAT, MESSAGES, OLLAMA, PARAMETERS, RESPONSES, USER

SCHEMA = {**PARAMETERS, "additionalProperties": False}
TRIP: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Paris"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WRITER: dict[str, Any] = {"model": "writer", "messages": USER, "max_tokens": 60}
DEMO: dict[str, Any] = {"model": "assistant", "messages": USER, "max_tokens": 40, "temperature": 0}

ANSWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "any object": (CHAT, {**WRITER, "response_format": {"type": "json_object"}}),
    "a schema": (
        CHAT,
        {
            **WRITER,
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}},
        },
    ),
    "a schema that another model follows": (
        CHAT,
        {**DEMO, "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": TRIP}}},
    ),
    "a schema beside an object": (CHAT, {**DEMO, "response_format": {"type": "json_object", "schema": TRIP}}),
    "a choice": (CHAT, {**DEMO, "structured_outputs": {"choice": ["yes", "no"]}}),
    "a pattern": (CHAT, {**DEMO, "structured_outputs": {"regex": "[ab]{3}c"}}),
    "a schema as vLLM has it": (CHAT, {**DEMO, "structured_outputs": {"json": TRIP}}),
    "an object as vLLM has it": (CHAT, {**WRITER, "structured_outputs": {"json_object": True}}),
    "a Lark grammar": (CHAT, {**DEMO, "structured_outputs": {"grammar": 'start: "up" | "down"'}}),
    "a GBNF grammar": (CHAT, {**DEMO, "structured_outputs": {"grammar": 'root ::= "up" | "down"'}}),
    "logprobs": (CHAT, {**DEMO, "structured_outputs": {"choice": ["yes", "no"]}, "logprobs": True}),
    "cut off": (CHAT, {**WRITER, "max_tokens": 5, "response_format": {"type": "json_object"}}),
    "behind reasoning": (
        CHAT,
        {
            **WRITER,
            "model": "thinking-writer",
            "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
        },
    ),
    "a completion": (
        "/v1/completions",
        {"model": "assistant", "prompt": "x", "temperature": 0, "structured_outputs": {"choice": ["one", "two"]}},
    ),
    "a response": (
        RESPONSES,
        {
            "model": "writer",
            "input": "x",
            "store": False,
            "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}},
        },
    ),
    "a message": (MESSAGES, {**WRITER, "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}),
    "Ollama: any object": (OLLAMA, {"model": "writer", "messages": USER, "format": "json"}),
    "Ollama: a schema": (
        OLLAMA,
        {"model": "assistant", "messages": USER, "format": TRIP, "options": {"temperature": 0}},
    ),
}
FORMATS: dict[str, dict[str, Any]] = {
    "a format that is none": {"response_format": {"type": "yaml"}},
    "no type": {"response_format": {}},
    "no schema": {"response_format": {"type": "json_schema"}},
    "a schema that is none": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "x"}}}
    },
    "a schema that nothing matches": {"structured_outputs": {"json": {"enum": []}}},
    "a keyword that is not enforced": {"structured_outputs": {"json": {"type": "array", "uniqueItems": True}}},
    "a pattern that is none": {"structured_outputs": {"regex": "((("}},
    "a grammar that is none": {"structured_outputs": {"grammar": "start: nothing"}},
    "two constraints": {"structured_outputs": {"regex": "a", "choice": ["a"]}},
    "no constraint": {"structured_outputs": {}},
    "two places": {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
    "another server's name": {"guided_json": SCHEMA},
    "a least length": {"structured_outputs": {"regex": "a"}, "min_tokens": 3},
    "too large a grammar": {"structured_outputs": {"regex": "a" * 70_000}},
}

REQUESTS: list[Request] = [
    *(each for name, (path, body) in ANSWERS.items() for each in both(name, path, body)),
    *(post(f"refused: {name}", CHAT, {**DEMO, **fields}) for name, fields in FORMATS.items()),
    post(
        "refused: a response's format",
        RESPONSES,
        {"model": "writer", "input": "x", "text": {"format": {"type": "yaml"}}},
    ),
    post("refused: a message's format", MESSAGES, {**WRITER, "output_config": {"format": {"type": "yaml"}}}),
    post(
        "refused: response_format of a response",
        RESPONSES,
        {"model": "writer", "input": "x", "response_format": {"type": "json_object"}},
    ),
]
