"""What every dialect of embeddings and reranking shares: OneShotRequest, its answer, fields for length and delivery."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tripos.errors import InvalidRequest
from tripos.types import Embed, Priority, Rerank, Result, Usage
from tripos.wire.fields import Field, Found, kind_of
from tripos.wire.generation import INT31, MAX_TIMEOUT_S, read_token_ids
from tripos.wire.ignored import Ignored

MAX_INPUTS = 2048  # OpenAI's
MAX_DOCUMENTS = 2048

DELIVERY = (
    Field("priority", "integer", "0: online work; above 0: batch work.", low=0, high=INT31),
    Field("timeout", "number", "Seconds after which the answer is worthless.", low=0.001, high=MAX_TIMEOUT_S),
)
TRUNCATE_TOKENS = Field(
    "truncate_prompt_tokens",
    "integer",
    "Keep so many tokens of a longer input, special ones included; -1: as many as the model takes. Without it a longer "
    "input is refused.",
    low=-1,
    high=INT31,
)
TRUNCATE = Field("truncate", "boolean", "Cut a longer input to what the model takes. Default false: it is refused.")


class OneShotRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded body: one request per Call, and how soon the answer is expected."""

    model: str
    requests: tuple[Embed | Rerank, ...]
    priority: Priority = Priority.ONLINE
    timeout_s: float | None = None
    ignored: tuple[Ignored, ...] = ()  # what the client sent and is not heeded


class OneShotAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one request."""

    result: Result
    usage: Usage


def read_delivery(found: Found) -> dict[str, Any]:
    """OneShotRequest's fields that checked values of DELIVERY ask for."""
    is_batch = found.get("priority", 0) > 0
    return {
        "priority": Priority.BATCH if is_batch else Priority.ONLINE,
        "timeout_s": found.get("timeout"),
        "ignored": tuple(found.ignored),
    }


def read_truncation(found: Mapping[str, Any], default: bool = False) -> int | None:
    """Embed.truncate_to. Raises InvalidRequest where the fields contradict each other."""
    max_tokens, is_cut = found.get("truncate_prompt_tokens"), found.get("truncate", found.get("truncation"))
    if max_tokens is not None and is_cut is False:
        message = "truncate_prompt_tokens asks for what truncate forbids: give one of them"
        raise InvalidRequest(message, code="invalid_value", param="truncate_prompt_tokens")
    if max_tokens == 0:
        raise InvalidRequest(
            "truncate_prompt_tokens is 0: nothing would be left", code="out_of_range", param="truncate_prompt_tokens"
        )
    if max_tokens is not None:
        return max(int(max_tokens), 0)  # -1: all that fit
    return 0 if (default if is_cut is None else is_cut) else None


def read_inputs(value: Any, path: str) -> tuple[str | tuple[int, ...], ...]:
    """A string, token ids, or a list of either; none empty.

    Raises InvalidRequest: invalid_type, out_of_range, too_many_items.
    """
    if isinstance(value, str):
        return (_not_empty(value, path),)
    if not isinstance(value, list):
        raise InvalidRequest(f"{path} must be text or an array, not {kind_of(value)}", code="invalid_type", param=path)
    if not value:
        raise InvalidRequest(f"{path} is empty: send at least one text", code="out_of_range", param=path)
    if not isinstance(value[0], str | list):
        return (read_token_ids(value, path),)
    if len(value) > MAX_INPUTS:
        message = f"{path} has {len(value)} inputs, at most {MAX_INPUTS} may be given"
        raise InvalidRequest(message, code="too_many_items", param=path)
    return tuple(_read_input(each, f"{path}[{i}]") for i, each in enumerate(value))


def _read_input(value: Any, path: str) -> str | tuple[int, ...]:
    if isinstance(value, str):
        return str(_not_empty(value, path))
    if not isinstance(value, list):
        raise InvalidRequest(f"{path} must be text or token ids, not {kind_of(value)}", code="invalid_type", param=path)
    return read_token_ids(_not_empty(value, path), path)


def _not_empty(value: Any, path: str) -> Any:
    if not value:
        raise InvalidRequest(f"{path} is empty", code="out_of_range", param=path)
    return value


def read_texts(values: Any, path: str, most: int, *, may_be_objects: bool = False) -> tuple[str, ...]:
    """A list of strings (or of {"text": ...}), at least one.

    Raises InvalidRequest: invalid_type, out_of_range, too_many_items.
    """
    if not isinstance(values, list):
        raise InvalidRequest(f"{path} must be an array, not {kind_of(values)}", code="invalid_type", param=path)
    if not values:
        raise InvalidRequest(f"{path} is empty: send at least one", code="out_of_range", param=path)
    if len(values) > most:
        message = f"{path} has {len(values)} items, at most {most} may be given"
        raise InvalidRequest(message, code="too_many_items", param=path)
    return tuple(_read_text(each, f"{path}[{i}]", may_be_objects) for i, each in enumerate(values))


def _read_text(value: Any, path: str, may_be_object: bool) -> str:
    text = value.get("text") if may_be_object and isinstance(value, dict) else value
    if not isinstance(text, str):
        expected = "text or an object with a text" if may_be_object else "text"
        raise InvalidRequest(f"{path} must be {expected}, not {kind_of(value)}", code="invalid_type", param=path)
    return text


def read_vector(vector: bytes) -> list[float]:
    """The numbers of one of Result.vectors."""
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


def total_tokens(answers: Sequence[OneShotAnswer]) -> int:
    return sum(answer.usage.prompt_tokens for answer in answers)
