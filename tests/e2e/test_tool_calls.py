"""From a body to a tool call and back through the real engine: the demo assistant, and all of BFCL simple."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tripos.build import load_model
from tripos.config import ModelOptions
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.runtime.executor import ExecutorOptions
from tripos.testing import ScriptedExecutor, byte_tokenizer, mix
from tripos.types import Call, Delta, Finish, ModelCard, ToolCall
from tripos.wire.generation import Heard, for_model
from tripos.wire.openai import chat
from tripos.wire.tools.dialect import Dialect
from tripos.wire.tools.dialects import DIALECTS

BLOCK_SIZE, NUM_BLOCKS, WINDOW = 16, 4096, 4096
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}  # BFCL's own words
_LIKELY = b'"",}]0a'  # bytes that end strings, numbers and lists soon


@pytest.fixture(scope="module")
def assistant() -> Iterator[LanguageModel]:
    model = load_model(ModelOptions(source="demo:assistant"))
    yield model
    model.close()


def test_a_loaded_model_speaks_the_dialect_that_its_options_name(assistant: LanguageModel) -> None:
    given = load_model(ModelOptions(source="demo:assistant", tool_dialect="mistral"))
    given.close()
    assert given.card.tool_dialect == "mistral" != assistant.card.tool_dialect


def tiny(dialect: str = "hermes", markers: tuple[str, ...] = (), **card_fields: Any) -> LanguageModel:
    """Draws bytes by lot; what it says is up to the grammar. `markers` are special tokens."""
    tokenizer = byte_tokenizer(markers)
    vocab_size = tokenizer.vocab_size
    executor = ScriptedExecutor(
        vocab_size,
        ExecutorOptions(block_size=BLOCK_SIZE),
        next_token=lambda tokens, seed, counter: _LIKELY[mix(mix(sum(tokens[-8:]), seed), counter) % len(_LIKELY)],
    )
    executor.reserve(NUM_BLOCKS)
    card = ModelCard(
        name="m",
        task="generate",
        digest="0" * 64,
        max_model_len=WINDOW,
        vocab_size=vocab_size,
        tool_dialect=dialect,
        marker_ids={marker: 257 + i for i, marker in enumerate(markers)},
        **card_fields,
    )
    return LanguageModel(card, tokenizer, Engine(executor, EngineOptions(NUM_BLOCKS, BLOCK_SIZE, WINDOW)), _template)


def _template(messages: tuple[Any, ...], tools: tuple[dict[str, Any], ...], args: dict[str, Any]) -> list[int]:
    return list(" ".join(message.content for message in messages).encode())


def ask(model: LanguageModel, bodies: list[dict[str, Any]]) -> list[Heard]:
    asked = [for_model(chat.decode(json.dumps({"model": "m", **body}).encode()), model.card) for body in bodies]
    heard = [Heard(each.speech) for each in asked]
    calls = [Call(id=str(i), route="m", request=each.requests[0]) for i, each in enumerate(asked)]
    for i, event in model.answer(calls):
        if isinstance(event, Delta):
            heard[i].take(event)
        elif not isinstance(event, Finish):
            raise AssertionError((bodies[i], event)) from event
    return heard


def test_the_demo_assistant_calls_what_it_must(assistant: LanguageModel) -> None:
    schema = {
        "type": "object",
        "properties": {"order": {"type": "integer", "minimum": 1, "maximum": 99999}, "express": {"type": "boolean"}},
        "required": ["order", "express"],
    }
    tools = [
        {"type": "function", "function": {"name": "track_order", "description": "Where it is.", "parameters": schema}}
    ]
    asked = {"messages": [{"role": "user", "content": "Where is order 1234?"}], "tools": tools, "max_tokens": 200}
    greedy = {**asked, "tool_choice": "required", "temperature": 0}
    drawn = [{**asked, "tool_choice": "required", "temperature": 1.0, "seed": seed} for seed in range(7)]
    for heard in ask(assistant, [greedy, *drawn]):
        assert heard.finish_reason == "tool_calls"
        for call in heard.calls:
            assert call.name == "track_order"
            jsonschema.validate(json.loads(call.arguments), {**schema, "additionalProperties": False})
        assert not heard.text
    (free,) = ask(assistant, [{**asked, "temperature": 0}])
    assert free.finish_reason in ("stop", "tool_calls")
    assert bool(free.text) != bool(free.calls)


def test_every_function_of_bfcl_gets_valid_arguments(shared_data: Callable[[str], Path]) -> None:
    lines = shared_data("structured/bfcl/BFCL_v4_simple_python.json").read_text().splitlines()
    functions = [_as_tool(json.loads(line)["function"][0]) for line in lines]
    assert len(functions) >= 400
    bodies = [
        {
            "messages": [{"role": "user", "content": "x"}],
            "tools": [{"type": "function", "function": function}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
            "max_tokens": 1500,
            "seed": i,
        }
        for i, function in enumerate(functions)
    ]
    called: list[tuple[dict[str, Any], ToolCall]] = []
    for function, heard in zip(functions, ask(tiny(), bodies), strict=True):
        if heard.finish_reason == "length":
            assert not heard.calls
        else:
            (call,) = heard.calls
            called.append((function, call))
    assert len(called) >= 0.95 * len(functions)
    for function, call in called:
        assert call.name == function["name"]
        jsonschema.validate(json.loads(call.arguments), function["parameters"])


def _as_tool(function: dict[str, Any]) -> dict[str, Any]:
    return {**function, "name": function["name"].replace(".", "_"), "parameters": _as_schema(function["parameters"])}


def _as_schema(value: Any) -> Any:
    """BFCL names types as Python does."""
    if isinstance(value, list):
        return [_as_schema(each) for each in value]
    if not isinstance(value, dict):
        return value
    result = {key: _as_schema(each) for key, each in value.items()}
    kind = result.get("type")
    if isinstance(kind, str):
        named = _TYPES.get(kind, kind)
        result = {key: each for key, each in result.items() if key != "type"} | ({"type": named} if named else {})
    return result


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_calls_through_the_engine(dialect: Dialect, special: bool) -> None:
    """Whether its markers are special tokens or plain text; after reasoning, which the grammar waits for."""
    markers = ("<think>", "</think>", *dialect.markers) if special else ()
    model = tiny(dialect.name, markers, reasoning_dialect="think")
    schema = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
    tools = [{"type": "function", "function": {"name": name, "parameters": schema}} for name in ("f", "get_weather")]
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "max_tokens": 2500}
    bodies = [
        {**asked, "tool_choice": choice, "seed": seed, "thinking_token_budget": 8}
        for choice in ("required", "auto", {"type": "function", "function": {"name": "f"}})
        for seed in range(4)
    ]
    answers = ask(model, bodies)
    for body, heard in zip(bodies, answers, strict=True):
        assert all(json.loads(call.arguments).keys() == {"on"} for call in heard.calls)
        if body["tool_choice"] == "auto":
            continue
        assert heard.calls
        assert not heard.text
        if body["tool_choice"] != "required":
            assert [call.name for call in heard.calls] == ["f"]
