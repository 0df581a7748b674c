"""POST /v1/responses and /v1/responses/input_tokens: body → Wanted → Asked, events → a response or its typed events.

What was said before (previous_response_id) is looked up by the door and given to `ask`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from tripos.errors import InvalidRequest, TriposError
from tripos.types import Event, Generate, Message, TokenLogprob, Usage
from tripos.wire.fields import Field, Table, kind_of, read, table
from tripos.wire.generation import MAX_MESSAGES, MAX_TOKENS, MODEL, Asked, Single, check_model
from tripos.wire.json import parse, shown
from tripos.wire.openai.generation import DELIVERY, SAMPLING, read_delivery, read_sampling

_LATER = "it comes with a later version"
_BOOKS = "For the client's own books."
_LOGPROBS = "message.output_text.logprobs"

_PROMPT = (
    Field("input", "any", "Text, or a list of messages.", required=True),
    Field("instructions", "string", "Go before everything as the system's message; not kept for the next response."),
    Field("previous_response_id", "string", "Go on from a stored response.", max_bytes=256),
    Field("text", "object", 'Only {"format": {"type": "text"}}.'),
    Field("truncation", "string", "Only disabled: nothing is dropped silently.", choices=("auto", "disabled")),
    Field("tools", "array", "Only an empty list: tools come with a later version."),
    Field("tool_choice", "any", 'Only "auto" and "none": there are no tools.'),
    Field("parallel_tool_calls", "boolean", "No tools, no effect.", use="ignored"),
    Field("reasoning", "object", _LATER, use="refused"),
    Field("conversation", "any", "use previous_response_id", use="refused"),
)
COUNT = table(MODEL, *_PROMPT, Field("personality", "any", "say it in the instructions", use="refused"))
FIELDS = table(
    *_PROMPT,
    *DELIVERY,
    *(field for field in SAMPLING if field.name not in ("n", "best_of")),
    Field("max_output_tokens", "integer", "Most tokens of the answer.", low=1, high=MAX_TOKENS),
    Field("store", "boolean", "Keep the response in memory for an hour. Default true."),
    Field("metadata", "object", "Up to 16 strings; the response has them again.", max_items=16),
    Field("include", "array", f'Only "{_LOGPROBS}".', max_items=4),
    Field("top_logprobs", "integer", "Likeliest alternatives per token; needs include.", low=0, high=20),
    Field("background", "boolean", "Only false."),
    Field("user", "string", _BOOKS, max_bytes=512, use="ignored"),
    Field("safety_identifier", "string", _BOOKS, max_bytes=512, use="ignored"),
    Field("prompt_cache_key", "string", "Prefixes are always reused.", max_bytes=512, use="ignored"),
    Field("prompt_cache_retention", "string", "Prefixes are always reused.", max_bytes=64, use="ignored"),
    Field("prompt_cache_options", "object", "Prefixes are always reused.", use="ignored"),
    Field("max_tool_calls", "integer", "No tools, no effect.", low=0, high=MAX_TOKENS, use="ignored"),
    Field("prompt", "any", "there are no stored prompts", use="refused"),
    Field("context_management", "any", "send the messages that count", use="refused"),
    Field("background_options", "any", "nothing runs in the background", use="refused"),
    Field("access_programs", "any", "there are none", use="refused"),
    Field("image", "any", "this server makes no images", use="refused"),
    Field("moderation", "any", _LATER, use="refused"),
)
_MESSAGE = table(
    Field("type", "string", "", choices=("message",)),
    Field("role", "string", "", choices=("user", "assistant", "system", "developer"), required=True),
    Field("content", "any", "", required=True),
    Field("id", "string", "Of an earlier answer.", max_bytes=256, use="ignored"),
    Field("status", "string", "Of an earlier answer.", max_bytes=64, use="ignored"),
    Field("phase", "string", "Of an earlier answer.", max_bytes=64, use="ignored"),
)
_PART = table(
    Field("type", "string", "", choices=("input_text", "output_text"), required=True),
    Field("text", "string", "", required=True),
    Field("annotations", "array", "Of an earlier answer.", use="ignored"),
    Field("logprobs", "array", "Of an earlier answer.", use="ignored"),
)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded body before what was said earlier is known. `asked`'s request has no prompt yet."""

    asked: Asked
    messages: tuple[Message, ...]  # of this request, without the instructions
    instructions: str | None = None
    previous_response_id: str | None = None
    is_stored: bool = True
    metadata: dict[str, str] = {}


def decode(body: bytes) -> Wanted:
    """Raises InvalidRequest naming the field."""
    found = read(parse(body), FIELDS)
    if found.get("background"):
        raise InvalidRequest("background: only false is supported", code="invalid_value", param="background")
    request = Generate(
        prompt="",
        max_tokens=found.get("max_output_tokens"),
        sampling=read_sampling(found, _read_logprobs(found)),
        cache_salt=found.get("cache_salt", ""),
    )
    wanted = _read_wanted(found, Asked(requests=(request,), **read_delivery(found)))
    return replace(wanted, is_stored=found.get("store", True), metadata=_read_metadata(found.get("metadata", {})))


def decode_count(body: bytes) -> Wanted:
    """Raises InvalidRequest naming the field."""
    found = read(parse(body), COUNT)
    return _read_wanted(found, Asked(model=check_model(found), requests=(Generate(prompt=""),)))


def ask(wanted: Wanted, before: tuple[Message, ...]) -> Asked:
    """What the model is asked: instructions, what was said `before`, this request's messages."""
    first = () if wanted.instructions is None else (Message(role="system", content=wanted.instructions),)
    request = replace(wanted.asked.requests[0], prompt=(*first, *before, *wanted.messages))
    return replace(wanted.asked, requests=(request,))


def encode_count(num_tokens: int) -> dict[str, Any]:
    return {"object": "response.input_tokens", "input_tokens": num_tokens}


def encode_deleted(response_id: str) -> dict[str, Any]:
    return {"id": response_id, "object": "response", "deleted": True}


def _read_wanted(found: dict[str, Any], asked: Asked) -> Wanted:
    if found.get("text", {}) not in ({}, {"format": {"type": "text"}}):
        message = 'text: only {"format": {"type": "text"}} is supported'
        raise InvalidRequest(message, code="unsupported_schema", param="text")
    if found.get("truncation") == "auto":
        message = "truncation: only disabled is supported, nothing is dropped silently"
        raise InvalidRequest(message, code="invalid_value", param="truncation")
    if found.get("tools"):
        raise InvalidRequest(f"tools is not supported: {_LATER}", code="invalid_value", param="tools")
    if found.get("tool_choice", "auto") not in ("auto", "none"):
        message = "tool_choice: only auto and none, there are no tools"
        raise InvalidRequest(message, code="invalid_value", param="tool_choice")
    return Wanted(
        asked=asked,
        messages=_read_input(found["input"]),
        instructions=found.get("instructions"),
        previous_response_id=found.get("previous_response_id"),
    )


def _read_logprobs(found: dict[str, Any]) -> int | None:
    include = found.get("include", [])
    if any(each != _LOGPROBS for each in include):
        raise InvalidRequest(f"include: only {_LOGPROBS} is supported", code="invalid_value", param="include")
    if "top_logprobs" in found and not include:
        message = f"top_logprobs needs include: {_LOGPROBS}"
        raise InvalidRequest(message, code="invalid_value", param="top_logprobs")
    return found.get("top_logprobs", 0) if include else None


def _read_metadata(value: dict[str, Any]) -> dict[str, str]:
    entry: Table = {name: Field(name, "string", "", max_bytes=512) for name in value}
    for name in value:
        if len(name) > 64:
            message = f"metadata: {shown(name)} is longer than 64 characters"
            raise InvalidRequest(message, code="out_of_range", param="metadata")
    return read(value, entry, "metadata")


def _read_input(value: Any) -> tuple[Message, ...]:
    if isinstance(value, str):
        return (Message(role="user", content=value),)
    if not isinstance(value, list):
        message = f"input must be text or an array, not {kind_of(value)}"
        raise InvalidRequest(message, code="invalid_type", param="input")
    if not value:
        raise InvalidRequest("input is empty", code="missing_field", param="input")
    if len(value) > MAX_MESSAGES:
        message = f"input has {len(value)} items, at most {MAX_MESSAGES} may be given"
        raise InvalidRequest(message, code="too_many_items", param="input")
    return tuple(_read_item(each, f"input[{i}]") for i, each in enumerate(value))


def _read_item(value: Any, path: str) -> Message:
    _check_kind(value, ("message",), path, "reads messages only")
    found = read(value, _MESSAGE, path)
    role, content = found["role"], found["content"]
    if not isinstance(content, str):
        content = _read_parts(content, f"{path}.content")
    return Message(role="system" if role == "developer" else role, content=content)


def _read_parts(value: Any, path: str) -> str:
    if not isinstance(value, list) or not value:
        message = f"{path} must be text or a list of parts that is not empty, not {kind_of(value)}"
        raise InvalidRequest(message, code="invalid_type", param=path)
    texts = []
    for i, part in enumerate(value):
        _check_kind(part, ("input_text", "output_text"), f"{path}[{i}]", "reads text only")
        texts.append(read(part, _PART, f"{path}[{i}]")["text"])
    return "".join(texts)


def _check_kind(value: Any, known: tuple[str, ...], path: str, reads: str) -> None:
    """A clear word about items and parts of kinds that are not served."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind not in known:
        message = f"{path}.type is {shown(kind)}: this server {reads}"
        raise InvalidRequest(message, code="invalid_value", param=f"{path}.type")


def encode_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }


class ResponseAnswer(Single):
    """A response with one message, or the typed events that build it. `asked`: as the model gets it."""

    def __init__(self, wanted: Wanted, asked: Asked, response_id: str, created: int, model: str) -> None:
        super().__init__()
        sampling = asked.requests[0].sampling
        self._wants_logprobs = sampling.logprobs is not None
        self._message_id = "msg_" + response_id.removeprefix("resp_")
        self._num_events = 0
        self._num_logprobs = 0  # sent so far
        self._fixed = {
            "id": response_id,
            "object": "response",
            "created_at": created,
            "model": model,
            "background": False,
            "instructions": wanted.instructions,
            "max_output_tokens": asked.requests[0].max_tokens,
            "metadata": wanted.metadata,
            "parallel_tool_calls": True,
            "previous_response_id": wanted.previous_response_id,
            "service_tier": "default",
            "store": wanted.is_stored,
            "temperature": sampling.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": sampling.top_p,
            "truncation": "disabled",
        }

    def take(self, events: Sequence[tuple[int, Event]]) -> list[dict[str, Any]]:
        text = self.collect(events)
        if not text and len(self.choice.logprobs) == self._num_logprobs:
            return []
        opening = self._opening()
        new, self._num_logprobs = self.choice.logprobs[self._num_logprobs :], len(self.choice.logprobs)
        return [*opening, self._text_event("delta", delta=text, logprobs=_encode_logprobs(new))]

    def end(self, elapsed_s: float) -> list[dict[str, Any]]:
        status, part = self._status, self._part()
        done = "response.output_item.done"
        return [
            *self._opening(),
            self._text_event("done", text=self.choice.text, logprobs=part["logprobs"]),
            self._event("response.content_part.done", **self._place, content_index=0, part=part),
            self._event(done, output_index=0, item=self._item(status, [part])),
            self._event(f"response.{status}", response=self.response(elapsed_s)),
        ]

    def response(self, elapsed_s: float) -> dict[str, Any]:
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}
        cause = reason.get(self.choice.finish_reason or "")
        return {
            **self._fixed,
            "status": self._status,
            "error": None,
            "incomplete_details": {"reason": cause} if cause else None,
            "output": [self._item(self._status, [self._part()])],
            "usage": encode_usage(self.usage),
        }

    def failure(self, error: TriposError) -> list[dict[str, Any]]:
        """How a stream that began ends in an error."""
        code = error.code if error.code == "rate_limit_exceeded" else "server_error"
        failed = {**self._begun("failed"), "error": {"code": code, "message": error.message}}
        return [
            self._event("error", code=error.code, message=error.message, param=error.param),
            self._event("response.failed", response=failed),
        ]

    def _opening(self) -> list[dict[str, Any]]:
        """What comes before the first text, once."""
        if self._num_events:
            return []
        begun = self._begun("in_progress")
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=self._item("in_progress", [])),
            self._event("response.content_part.added", **self._place, content_index=0, part=part),
        ]

    def _begun(self, status: str) -> dict[str, Any]:
        return {
            **self._fixed, "status": status, "error": None, "incomplete_details": None, "output": [], "usage": None
        }  # fmt: skip

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._num_events += 1
        return {"type": kind, "sequence_number": self._num_events - 1, **fields}

    def _text_event(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._event(f"response.output_text.{kind}", **self._place, content_index=0, **fields)

    @property
    def _place(self) -> dict[str, Any]:
        return {"item_id": self._message_id, "output_index": 0}

    @property
    def _status(self) -> str:
        return "incomplete" if self.choice.finish_reason in ("length", "content_filter") else "completed"

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {
            "id": self._message_id, "type": "message", "role": "assistant", "status": status, "content": content
        }  # fmt: skip

    def _part(self) -> dict[str, Any]:
        logprobs = _encode_logprobs(self.choice.logprobs) if self._wants_logprobs else []
        return {"type": "output_text", "text": self.choice.text, "annotations": [], "logprobs": logprobs}


def _encode_logprobs(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    return [{**_encode_one(token), "top_logprobs": [_encode_one(each) for each in token.top]} for token in tokens]


def _encode_one(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": max(token.logprob, -9999.0), "bytes": list(token.data)}
