"""POST /v1/systemone: the System One dialect of typed decisions, questions and answers by id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tripos.errors import InvalidRequest
from tripos.types import Decide, Decision, Option, Question, Usage
from tripos.wire.decision import (
    MAX_CHOICES,
    MAX_LEVELS,
    MAX_NAME_BYTES,
    MAX_QUESTIONS,
    MIN_CHOICES,
    MIN_LEVELS,
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
from tripos.wire.fields import Field, kind_of, read, table
from tripos.wire.ignored import Ignored

FIELDS = table(
    Field("state", "any", "What the questions are about: text, or JSON.", required=True),
    Field("questions", "object", "Id → question.", max_items=MAX_QUESTIONS, required=True),
    Field("instructions", "string", "Go before the state."),
    *OWN,
    Field("images", "any", "this server reads text only", use="refused"),
)
_KINDS: dict[str, Literal["predicate", "choice", "score"]] = {
    "noul": "predicate",
    "choice": "choice",
    "score": "score",
}
_QUESTION = table(
    Field("type", "string", "", choices=tuple(_KINDS), required=True),
    Field("instructions", "any", ""),
    Field("criteria", "any", ""),
)
_MEANINGS = table(Field("true", "any", ""), Field("false", "any", ""))


def decode(body: bytes) -> DecisionRequest:
    """Raises InvalidRequest naming the field."""
    found, envelope, own = read_body(body, FIELDS)
    for id in found["questions"]:
        if not 0 < len(id.encode()) <= MAX_NAME_BYTES:
            message = f"an id of questions has no character, or more than {MAX_NAME_BYTES} bytes"
            raise InvalidRequest(message, code="out_of_range", param="questions")
    ignored = found.ignored
    questions = tuple(_read_question(each, f"questions.{id[:64]}", ignored) for id, each in found["questions"].items())
    request = Decide(
        state=text_of(found["state"]), questions=questions, instructions=found.get("instructions", ""), **own
    )
    values = tuple(tuple(each.name for each in question.options) for question in questions)
    return DecisionRequest(
        request=request, names=tuple(found["questions"]), values=values, ignored=tuple(found.ignored), **envelope
    )


def _read_question(value: Any, path: str, ignored: list[Ignored]) -> Question:
    found = read(value, _QUESTION, path, ignored)
    kind = found["type"]
    options = _CRITERIA[kind](found.get("criteria"), f"{path}.criteria")
    return Question(kind=_KINDS[kind], instructions=text_of(found.get("instructions", "")), options=options)


def _read_meanings(value: Any, path: str) -> tuple[Option, ...]:
    if value is None:
        return ()
    found = read(value, _MEANINGS, path, ignored=[])
    found.refuse_unknown()  # a third meaning would be part of the question
    return tuple(option(name, _words(found.get(name))) for name in _MEANINGS)


def _read_choices(value: Any, path: str) -> tuple[Option, ...]:
    if not isinstance(value, dict):
        message = f"{path} must be an object of option → description or null, not {kind_of(value)}"
        raise InvalidRequest(message, code="invalid_type", param=path)
    check_count(len(value), MIN_CHOICES, MAX_CHOICES, "options", path)
    if any(not 0 < len(name.encode()) <= MAX_NAME_BYTES for name in value):
        message = f"an option of {path} has no character, or more than {MAX_NAME_BYTES} bytes"
        raise InvalidRequest(message, code="out_of_range", param=path)
    return tuple(option(name, _words(description)) for name, description in value.items())


def _read_levels(value: Any, path: str) -> tuple[Option, ...]:
    if not isinstance(value, list):
        message = f"{path} must be an array of levels in rising order, not {kind_of(value)}"
        raise InvalidRequest(message, code="invalid_type", param=path)
    check_count(len(value), MIN_LEVELS, MAX_LEVELS, "levels", path)
    return tuple(option(text_of(level)) for level in value)


def _words(description: Any) -> str:
    return "" if description is None else text_of(description)


_CRITERIA: dict[str, Callable[[Any, str], tuple[Option, ...]]] = {
    "noul": _read_meanings,
    "choice": _read_choices,
    "score": _read_levels,
}


def encode(request: DecisionRequest, model: str, decisions: Sequence[Decision], usage: Usage) -> dict[str, Any]:
    answers = {}
    for id, question, values, decision in zip(
        request.names, request.request.questions, request.values, decisions, strict=True
    ):
        answers[id] = _encode_answer(question.kind, values, decision.probabilities)
    return {
        "model": model,
        "answers": answers,
        "usage": {"input_tokens": usage.prompt_tokens, "output_tokens": usage.output_tokens},
        "diagnostics": dict(zip(request.names, map(encode_diagnostics, decisions), strict=True)),
    }


def _encode_answer(kind: str, values: Sequence[Any], probabilities: Sequence[float]) -> Mapping[str, Any]:
    if not probabilities:
        return {"type": "refusal"}
    if kind == "predicate":
        return {"type": "noul", "noul": probabilities[0]}
    if kind == "choice":
        return {
            "type": "choice",
            "choice": values[best(probabilities)],
            "probabilities": dict(zip(values, probabilities, strict=True)),
            "confidence": confidence(probabilities),
        }
    return {
        "type": "score",
        "score": expected_level(probabilities),
        "legend": {str(level): label for level, label in enumerate(values)},
        "probabilities": {str(level): probability for level, probability in enumerate(probabilities)},
        "confidence": confidence(probabilities),
    }
