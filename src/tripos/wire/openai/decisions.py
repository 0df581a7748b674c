"""POST /v1/decisions: body → DecisionRequest, decisions → answers in the questions' order. Of OpenAI's public beta."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tripos.errors import InvalidRequest, shown
from tripos.types import Decide, Decision, Option, Question, Usage
from tripos.wire.decision import (
    KINDS,
    MAX_CHOICES,
    MAX_LEVELS,
    MAX_NAME_BYTES,
    MAX_QUESTIONS,
    MIN_CHOICES,
    MIN_LEVELS,
    NAME,
    OWN,
    DecisionRequest,
    best,
    check_count,
    confidence,
    encode_diagnostics,
    expected_level,
    option,
    read_body,
    text_of,
)
from tripos.wire.fields import Field, Table, kind_of, read, table
from tripos.wire.generation import MAX_MESSAGES
from tripos.wire.ignored import Ignored
from tripos.wire.openai.responses import encode_usage

_CACHE = "Prefixes are always reused."

FIELDS = table(
    Field("input", "any", "Text, or a list of messages, tool calls and their outputs.", required=True),
    Field("questions", "array", "What to decide, each by itself.", max_items=MAX_QUESTIONS, required=True),
    *OWN,
    Field("safety_identifier", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("prompt_cache_key", "string", _CACHE, max_bytes=512, use="met"),
    Field("prompt_cache_options", "object", _CACHE, use="met"),
)
_TYPE = Field("type", "string", "", choices=KINDS, required=True)
_KIND = table(_TYPE)
_INSTRUCTIONS = Field("instructions", "any", "", required=True)
_QUESTIONS: dict[str, Table] = {
    "predicate": table(_TYPE, NAME, _INSTRUCTIONS),
    "choice": table(_TYPE, NAME, _INSTRUCTIONS, Field("choices", "array", "", required=True)),
    "score": table(_TYPE, NAME, _INSTRUCTIONS, Field("levels", "array", "", required=True)),
}
_DESCRIPTION = Field("description", "string", "")
_CHOICE = table(Field("value", "any", "", required=True), _DESCRIPTION)
_LEVEL = table(Field("label", "string", "", max_bytes=MAX_NAME_BYTES, required=True), _DESCRIPTION)

_BREAKPOINT = Field("prompt_cache_breakpoint", "object", _CACHE, use="met")
_TEXT = Field("text", "string", "", required=True)
_PARTS: dict[str, Table] = {
    "input_text": table(Field("type", "string", ""), _TEXT, _BREAKPOINT),
    "output_text": table(Field("type", "string", ""), _TEXT),
    "refusal": table(Field("type", "string", ""), Field("refusal", "string", "", required=True)),
    "input_json": table(Field("type", "string", ""), Field("data", "any", "", required=True)),
}
_MESSAGE = table(
    Field("type", "string", "", choices=("message",)),
    Field("role", "string", "", choices=("user", "assistant", "system", "developer"), required=True),
    Field("content", "any", "", required=True),
    Field("phase", "string", "", choices=("commentary", "final_answer"), use="ignored"),
)
_ITEM = (
    Field("type", "string", "", required=True),
    Field("id", "string", "", max_bytes=256, use="ignored"),
    Field("call_id", "string", "", max_bytes=256, required=True),
    Field("status", "string", "", choices=("in_progress", "completed", "incomplete"), use="ignored"),
)
_CALL = (*_ITEM, Field("name", "string", "", max_bytes=256, required=True), Field("namespace", "string", ""))
_ITEMS: dict[str, Table] = {
    "function_call": table(*_CALL, Field("arguments", "string", "", required=True)),
    "custom_tool_call": table(*_CALL, Field("input", "string", "", required=True)),
    "function_call_output": table(*_ITEM, Field("output", "any", "", required=True)),
    "custom_tool_call_output": table(*_ITEM, Field("output", "any", "", required=True)),
}


def decode(body: bytes) -> DecisionRequest:
    """Raises InvalidRequest naming the field."""
    found, envelope, own = read_body(body, FIELDS)
    questions, names, values = [], [], []
    for i, each in enumerate(found["questions"]):
        question, name, its_values = _read_question(each, f"questions[{i}]", found.ignored)
        questions.append(question)
        names.append(name)
        values.append(its_values)
    request = Decide(state=_read_input(found["input"]), questions=tuple(questions), **own)
    return DecisionRequest(
        request=request, names=tuple(names), values=tuple(values), ignored=tuple(found.ignored), **envelope
    )


def _read_question(value: Any, path: str, ignored: list[Ignored]) -> tuple[Question, str | None, tuple[Any, ...]]:
    """The question, its name, and the values of its choices."""
    kind = read({"type": value.get("type")} if isinstance(value, dict) else value, _KIND, path)["type"]
    found = read(value, _QUESTIONS[kind], path, ignored)
    instructions = _read_content(found["instructions"], f"{path}.instructions", ("input_text", "input_json"))
    options: tuple[Option, ...] = ()
    values: tuple[Any, ...] = ()
    if kind == "choice":
        where = f"{path}.choices"
        check_count(len(found["choices"]), MIN_CHOICES, MAX_CHOICES, "choices", where)
        choices = [_read_choice(each, f"{where}[{i}]", ignored) for i, each in enumerate(found["choices"])]
        values = tuple(choice["value"] for choice in choices)
        _check_unique(values, where)
        options = tuple(option(choice["value"], choice.get("description")) for choice in choices)
    elif kind == "score":
        where = f"{path}.levels"
        check_count(len(found["levels"]), MIN_LEVELS, MAX_LEVELS, "levels", where)
        levels = [read(each, _LEVEL, f"{where}[{i}]", ignored) for i, each in enumerate(found["levels"])]
        options = tuple(option(level["label"], level.get("description")) for level in levels)
        values = tuple(level["label"] for level in levels)
    return Question(kind=kind, instructions=instructions, options=options), found.get("name"), values


def _read_choice(value: Any, path: str, ignored: list[Ignored]) -> dict[str, Any]:
    found = read(value, _CHOICE, path, ignored)
    name = found["value"]
    if not isinstance(name, str | bool):
        message = f"{path}.value must be a string or a boolean, not {kind_of(name)}"
        raise InvalidRequest(message, code="invalid_type", param=f"{path}.value")
    if isinstance(name, str) and not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        message = f"{path}.value must have 1 to {MAX_NAME_BYTES} bytes"
        raise InvalidRequest(message, code="out_of_range", param=f"{path}.value")
    return found


def _check_unique(values: Sequence[Any], path: str) -> None:
    """A string and a boolean that read alike are two values."""
    seen = set()
    for i, value in enumerate(values):
        if (type(value), value) in seen:
            where = f"{path}[{i}].value"
            raise InvalidRequest(f"{where} is there already: each must be unique", code="invalid_value", param=where)
        seen.add((type(value), value))


def _read_input(value: Any) -> str:
    """The state as text. One message of the user is its text; a conversation is a line of who, then what."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        message = f"input must be text or an array, not {kind_of(value)}"
        raise InvalidRequest(message, code="invalid_type", param="input")
    check_count(len(value), 1, MAX_MESSAGES, "items", "input")
    items = [_read_item(each, f"input[{i}]") for i, each in enumerate(value)]
    if len(items) == 1 and items[0][0] == "user":
        return items[0][1]
    return "\n".join(f"{who}: {text}" for who, text in items)


def _read_item(value: Any, path: str) -> tuple[str, str]:
    """Who says or does what."""
    kind = value.get("type", "message") if isinstance(value, dict) else "message"
    if kind == "message" or not isinstance(kind, str):
        found = read(value, _MESSAGE, path)
        kinds = ("output_text", "refusal") if found["role"] == "assistant" else ("input_text", "input_json")
        return found["role"], _read_content(found["content"], f"{path}.content", kinds)
    if kind not in _ITEMS:
        message = f"{path}.type is {shown(kind)}, not one of message, {', '.join(_ITEMS)}"
        raise InvalidRequest(message, code="invalid_value", param=f"{path}.type")
    found = read(value, _ITEMS[kind], path)
    if kind.endswith("_output"):
        output = _read_content(found["output"], f"{path}.output", ("input_text",))
        return f"output of {found['call_id']}", output
    return f"call {found['call_id']}", f"{found['name']} {found.get('arguments', found.get('input', ''))}"


def _read_content(value: Any, path: str, kinds: tuple[str, ...]) -> str:
    """Text, or parts of these kinds one after the other."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        message = f"{path} must be text or a list of parts that is not empty, not {kind_of(value)}"
        raise InvalidRequest(message, code="invalid_type", param=path)
    texts = []
    for i, part in enumerate(value):
        where = f"{path}[{i}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in kinds:
            given = shown(kind) if isinstance(kind, str) else "missing or not a string"
            message = f"{where}.type is {given}: this server reads {' and '.join(kinds)} here"
            raise InvalidRequest(message, code="invalid_value", param=f"{where}.type")
        found = read(part, _PARTS[kind], where)
        texts.append(text_of(found.get("text", found.get("refusal", found.get("data")))))
    return "\n".join(texts)


def encode(request: DecisionRequest, model: str, decisions: Sequence[Decision], usage: Usage) -> dict[str, Any]:
    answers = []
    for question, name, values, decision in zip(
        request.request.questions, request.names, request.values, decisions, strict=True
    ):
        kind = question.kind if decision.probabilities else "refusal"
        answers.append({"type": kind, "name": name, **_ENCODERS[kind](values, decision.probabilities)})
    return {
        "model": model,
        "answers": answers,
        "usage": encode_usage(usage),
        "diagnostics": [encode_diagnostics(decision) for decision in decisions],
    }


def _encode_predicate(values: Sequence[Any], probabilities: Sequence[float]) -> dict[str, Any]:
    return {"probability": probabilities[0]}


def _encode_choice(values: Sequence[Any], probabilities: Sequence[float]) -> dict[str, Any]:
    return {
        "choice": values[best(probabilities)],
        "probabilities": [
            {"value": value, "probability": probability}
            for value, probability in zip(values, probabilities, strict=True)
        ],
        "confidence": confidence(probabilities),
    }


def _encode_score(values: Sequence[Any], probabilities: Sequence[float]) -> dict[str, Any]:
    return {
        "score": expected_level(probabilities),
        "probabilities": [
            {"value": level, "label": label, "probability": probability}
            for level, (label, probability) in enumerate(zip(values, probabilities, strict=True))
        ],
        "confidence": confidence(probabilities),
    }


_ENCODERS: dict[str, Callable[[Sequence[Any], Sequence[float]], dict[str, Any]]] = {
    "predicate": _encode_predicate,
    "choice": _encode_choice,
    "score": _encode_score,
    "refusal": lambda values, probabilities: {},
}
