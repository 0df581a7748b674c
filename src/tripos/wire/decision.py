"""What both dialects of typed decisions share: their fields, limits, and what an answer says of its probabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from tripos.errors import InvalidRequest
from tripos.types import Decide, Decision, Option, Priority
from tripos.wire.fields import Field, Found, Table, read_json
from tripos.wire.generation import INT31, MAX_TIMEOUT_S, MODEL, check_model
from tripos.wire.ignored import Ignored
from tripos.wire.openai.chat import read_template_args

MAX_QUESTIONS = 400
MIN_CHOICES, MAX_CHOICES = 2, 255
MIN_LEVELS, MAX_LEVELS = 2, 10
MAX_NAME_BYTES = 1024
KINDS = ("predicate", "choice", "score")

NAME = Field("name", "string", "", max_bytes=MAX_NAME_BYTES)
# Ours, beside what each dialect has.
OWN = (
    MODEL,
    Field("option_orders", "integer", "2: read choices with options in reverse too, and average.", low=1, high=2),
    Field("min_label_mass", "number", "Less for all labels together is a refusal. Default 0.", low=0, high=1),
    Field("chat_template_kwargs", "object", "Scalars for the model's template.", max_items=16),
    Field("priority", "integer", "0: online work; above 0: batch work.", low=0, high=INT31),
    Field("cache_salt", "string", "Narrows prefix reuse to requests with the same salt.", max_bytes=256, nothing=("",)),
    Field("timeout", "number", "Seconds after which the answer is worthless.", low=0.001, high=MAX_TIMEOUT_S),
)


class DecisionRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded body. `names`: the questions' own, in their order; `values`: what choices are called in the answer."""

    model: str
    request: Decide
    names: tuple[str | None, ...]
    values: tuple[tuple[Any, ...], ...]
    priority: Priority = Priority.ONLINE
    timeout_s: float | None = None
    ignored: tuple[Ignored, ...] = ()  # what the client sent and is not heeded


def read_body(body: bytes, fields: Table) -> tuple[Found, dict[str, Any], dict[str, Any]]:
    """The fields of a body; then those of DecisionRequest and of Decide that OWN stands for. Raises InvalidRequest."""
    found = read_json(body, fields)
    check_count(len(found["questions"]), 1, MAX_QUESTIONS, "questions", "questions")
    envelope = {
        "model": check_model(found),
        "priority": Priority.BATCH if found.get("priority", 0) > 0 else Priority.ONLINE,
        "timeout_s": found.get("timeout"),
    }
    decide = {
        "option_orders": found.get("option_orders", 1),
        "min_label_mass": float(found.get("min_label_mass", 0.0)),
        "template_args": read_template_args(found),
        "cache_salt": found.get("cache_salt", ""),
    }
    return found, envelope, decide


def check_count(num: int, low: int, high: int, what: str, path: str) -> None:
    """Raises InvalidRequest (too_many_items, out_of_range)."""
    if not low <= num <= high:
        code = "too_many_items" if num > high else "out_of_range"
        raise InvalidRequest(f"{path} has {num} {what}, needs {low} to {high}", code=code, param=path)


def option(name: Any, description: Any = None) -> Option:
    """An option in words; booleans as JSON writes them."""
    words = str(name).lower() if isinstance(name, bool) else str(name)
    return Option(name=words, description=description or "")


def text_of(value: Any) -> str:
    """Text as it is, other JSON values in their compact form."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def best(probabilities: Sequence[float]) -> int:
    """Of equal ones the first."""
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def confidence(probabilities: Sequence[float]) -> float:
    """How far the largest stands above an even distribution: 0 when all are equal, 1 when one has everything."""
    even = 1.0 / len(probabilities)
    return min(1.0, max(0.0, (max(probabilities) - even) / (1.0 - even)))


def expected_level(probabilities: Sequence[float]) -> float:
    """The mean level, counted from 0."""
    return math.fsum(level * probability for level, probability in enumerate(probabilities))


def encode_diagnostics(decision: Decision) -> dict[str, Any]:
    shift = {} if decision.order_shift is None else {"order_shift": decision.order_shift}
    return {"label_mass": decision.label_mass, "argmax_is_label": decision.argmax_is_label, **shift}
