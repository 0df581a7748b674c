"""From a body to a tool call and back through the real engine: the demo assistant, and all of BFCL simple."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tripos.build.language import load_model
from tripos.config import ModelOptions
from tripos.dialects.deepseek import BEGIN, CALL, CALL_END, SEP
from tripos.dialects.deepseek import END as END_CALLS
from tripos.dialects.dialect import Dialect
from tripos.dialects.families import DIALECTS
from tripos.dialects.lowering import lower
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.errors import TriposError
from tripos.runtime.executor import ExecutorOptions
from tripos.testing import ScriptedExecutor, byte_tokenizer, mix
from tripos.types import Call, Delta, Finish, ModelCard, ToolCall
from tripos.wire.generation import Collected, for_model
from tripos.wire.openai import chat

BLOCK_SIZE, NUM_BLOCKS, WINDOW = 16, 4096, 4096
END = 256  # of a turn
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


def tiny(
    dialect: str = "hermes", markers: tuple[str, ...] = (), says: Sequence[int] | None = None, **card_fields: Any
) -> LanguageModel:
    """Says given tokens behind a prompt of one, or draws bytes by lot. `markers` are special tokens."""
    tokenizer = byte_tokenizer(markers)
    vocab_size = tokenizer.vocab_size

    def next_token(tokens: list[int], seed: int, counter: int) -> int:
        if says is None:
            drawn = mix(mix(sum(tokens[-8:]), seed), counter)
            return END if drawn >> 32 & 15 == 0 else _LIKELY[drawn % len(_LIKELY)]
        return says[counter - 1] if counter <= len(says) else END

    executor = ScriptedExecutor(
        vocab_size,
        ExecutorOptions(block_size=BLOCK_SIZE),
        next_token=next_token,
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
    encode = _template if says is None else lambda messages, tools, args: [ord("x")]
    return LanguageModel(card, tokenizer, Engine(executor, EngineOptions(NUM_BLOCKS, BLOCK_SIZE, WINDOW)), encode)


def speaker(dialect: Dialect, script: str, *, special: bool) -> LanguageModel:
    """Says a script, token by token; where a token of it is forbidden, another comes and the script goes on."""
    markers = dialect.markers if special else ()
    says: list[int] = []
    while script:
        marker = next((i for i, each in enumerate(markers) if script.startswith(each)), None)
        says += [257 + marker] if marker is not None else script[0].encode()
        script = script[len(markers[marker]) if marker is not None else 1 :]
    return tiny(dialect.name, markers, says=says)


def _template(messages: tuple[Any, ...], tools: tuple[dict[str, Any], ...], args: dict[str, Any]) -> list[int]:
    return list(" ".join(message.content for message in messages).encode())


def ask(model: LanguageModel, bodies: list[dict[str, Any]]) -> list[Collected]:
    return [choices[0] for choices in ask_all(model, bodies)]


def ask_all(model: LanguageModel, bodies: list[dict[str, Any]]) -> list[list[Collected]]:
    """All choices of each."""
    asked = [for_model(chat.decode(json.dumps({"model": "m", **body}).encode()), model.card) for body in bodies]
    lowered = [lower(each.requests[0], model.card) for each in asked]
    outputs = [each.output() for each in lowered]
    collected = [[Collected() for _ in range(each.requests[0].n)] for each in asked]
    calls = [Call(id=str(i), route="m", request=each.request) for i, each in enumerate(lowered)]
    for i, event in model.answer(calls):
        output = outputs[i]
        for parsed in (event,) if output is None or isinstance(event, TriposError) else output.parse(event):
            if isinstance(parsed, Delta):
                collected[i][parsed.index].add(parsed)
            elif not isinstance(parsed, Finish):
                raise AssertionError((bodies[i], parsed)) from parsed
    return collected


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
        for call in heard.tool_calls:
            assert call.name == "track_order"
            jsonschema.validate(json.loads(call.arguments), {**schema, "additionalProperties": False})
        assert not heard.text
    (free,) = ask(assistant, [{**asked, "temperature": 0}])
    assert free.finish_reason in ("stop", "tool_calls")
    assert bool(free.text) != bool(free.tool_calls)


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
            assert not heard.tool_calls
        else:
            (call,) = heard.tool_calls
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
        assert all(json.loads(call.arguments).keys() == {"on"} for call in heard.tool_calls)
        if body["tool_choice"] == "auto":
            continue
        assert heard.tool_calls
        if body["tool_choice"] != "required":
            assert not heard.text
            assert [call.name for call in heard.tool_calls] == ["f"]


MARKS = {  # how one call is written, whatever the template shows of it
    "hermes": '<tool_call>\n{"name": "f", "arguments": %s}\n</tool_call>',
    "mistral": "[TOOL_CALLS]f[ARGS]%s",
    "mistral_list": '[TOOL_CALLS][{"name": "f", "arguments": %s}]',
    "deepseek_r1": BEGIN + CALL + "function" + SEP + "f\n```json\n%s\n```" + CALL_END,
    "deepseek_v31": BEGIN + CALL + "f" + SEP + "%s" + CALL_END,
    "llama3": '{"name": "f", "parameters": %s}',
    "json": '{"name": "f", "arguments": %s}',
}
X, Y = '{"p": "x"}', '{"p": "y"}'
TWO = {"llama3": ('{"name": "f", "parameters": %s}; {"name": "f", "parameters": %s}'),
       "json": '[{"name": "f", "arguments": %s},\n {"name": "f", "arguments": %s}\n]'}  # fmt: skip
ENDS = dict.fromkeys(("deepseek_r1", "deepseek_v31"), END_CALLS)
TAILS = ("", "\n", " \n\n", "{end}", "\n{end}", "{end}\n", "{end}\n\nDone; yes?", "\nDone.{end}\n")


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_what_stands_behind_a_call_makes_no_other(dialect: Dialect, tail: str, special: bool) -> None:
    """White space, text and marks of the end, with every choice, one answer and several."""
    script = MARKS[dialect.name] % X + tail.replace("{end}", ENDS.get(dialect.name, ""))
    text = tail.replace("{end}", "").strip()
    tools = [{"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in ("f", "g")]
    named = {"type": "function", "function": {"name": "f"}}
    bodies = [
        {"messages": [{"role": "user", "content": "x"}], "tools": tools, "max_tokens": 200, **choice}
        for choice in (
            {}, {"tool_choice": "required"}, {"tool_choice": named}, {"parallel_tool_calls": False}, {"n": 3}
        )
    ]  # fmt: skip
    for body, choices in zip(bodies, ask_all(speaker(dialect, script, special=special), bodies), strict=True):
        assert len(choices) == body.get("n", 1)
        for heard in choices:
            assert [(call.name, call.arguments) for call in heard.tool_calls] == [("f", X)], (body, heard.text)
            assert heard.finish_reason == "tool_calls"
            ends = dialect.name == "json" or body.get("tool_choice") == named
            assert heard.text == ("" if ends else text)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("between", ["", "\n", "\n\n", "\nAnd then:\n"])
@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_all_calls_that_a_model_makes_are_heard(dialect: Dialect, between: str, special: bool) -> None:
    """As many as it makes, in their order, whatever stands between them; one where one was asked for."""
    one = MARKS[dialect.name]
    script = TWO[dialect.name] % (X, Y) if dialect.name in TWO else one % X + between + one % Y
    said = "Let me see. " if dialect.name not in TWO else ""
    tools = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]
    asked = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "max_tokens": 400}
    bodies = [asked, {**asked, "n": 2}]
    for choices in ask_all(speaker(dialect, said + script, special=special), bodies):
        for heard in choices:
            assert [(call.name, call.arguments) for call in heard.tool_calls] == [("f", X), ("f", Y)]
            assert len({call.id for call in heard.tool_calls}) == 2


@pytest.mark.parametrize("dialect", ["llama3", "json"])
@pytest.mark.parametrize("script", ['{"name": "Ann", "age": 3}', '{\n  "name": "Ann"\n}', '{"name": "g"}'])
def test_an_answer_of_json_is_no_call(dialect: str, script: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}]
    asked = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "max_tokens": 100}
    ((heard,),) = ask_all(speaker(DIALECTS[dialect], script, special=False), [asked])
    assert (heard.text, heard.tool_calls, heard.finish_reason) == (script, (), "stop")


PARAMETERS = {"type": "object", "properties": {"p": {"enum": ["x", "y"]}}, "required": ["p"]}
