"""POST /v1/messages and /v1/messages/count_tokens: body → Asked, events → a message or its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tripos.errors import InvalidRequest
from tripos.types import Event, Generate, Message, Sampling, Usage
from tripos.wire.fields import Field, kind_of, read, table
from tripos.wire.generation import (
    INT31,
    INT63,
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOKENS,
    MODEL,
    RECOMMENDED,
    Asked,
    Single,
    check_model,
    read_stop,
)
from tripos.wire.json import parse, shown

_LATER = "it comes with a later version"
_CACHE = "Prefixes are always reused."

_PROMPT = (
    MODEL,
    Field("messages", "array", "The conversation, ending with the user.", max_items=MAX_MESSAGES, required=True),
    Field("system", "any", "Text, or a list of {type: text, text}."),
    Field("cache_control", "object", _CACHE, use="ignored"),
    Field("thinking", "object", 'Only {"type": "disabled"}.'),
    Field("tools", "array", _LATER, use="refused"),
    Field("tool_choice", "object", _LATER, use="refused"),
    Field("output_config", "object", _LATER, use="refused"),
    Field("output_format", "object", _LATER, use="refused"),
    Field("mcp_servers", "array", "the server makes no outbound requests", use="refused"),
    Field("context_management", "object", "send the messages that count", use="refused"),
    Field("user_profile_id", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("workspace_id", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("speed", "string", "One speed: what the machine can.", choices=("standard", "fast"), use="ignored"),
)
COUNT = table(*_PROMPT)
FIELDS = table(
    *_PROMPT,
    Field("max_tokens", "integer", "Most tokens of the answer.", low=1, high=MAX_TOKENS, required=True),
    Field("stream", "boolean", "Send the answer as server-sent events."),
    Field("temperature", "number", "0: always the likeliest token. Default: the model's, else 1.", low=0, high=1),
    Field("top_p", "number", "Draw from this much of the probability. Default: the model's.", low=1e-9, high=1),
    Field("top_k", "integer", "Draw from the k likeliest tokens. Default: the model's.", low=0, high=INT31),
    Field("seed", "integer", "Makes draws repeatable; ours.", low=0, high=INT63),
    Field("stop_sequences", "array", "Each of 1 to 256 bytes; matched exactly.", max_items=MAX_STOPS),
    Field("metadata", "object", "{user_id}, for the client's own books.", use="ignored"),
    Field("service_tier", "string", "No tiers.", choices=("auto", "standard_only"), use="ignored"),
    Field("inference_geo", "string", "Everything stays on this machine.", max_bytes=64, use="ignored"),
    Field("container", "any", "there are no containers", use="refused"),
    Field("diagnostics", "any", "see /metrics", use="refused"),
)
_METADATA = table(Field("user_id", "string", "", max_bytes=512))
_MESSAGE = table(
    Field("role", "string", "", choices=("user", "assistant"), required=True),
    Field("content", "any", "", required=True),
)
_TEXT = table(
    Field("type", "string", "", choices=("text",), required=True),
    Field("text", "string", "", required=True),
    Field("cache_control", "object", _CACHE, use="ignored"),
    Field("citations", "array", "Of an earlier answer.", use="ignored"),
)
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def decode(body: bytes) -> Asked:
    """Raises InvalidRequest naming the field."""
    found = read(parse(body), FIELDS)
    read(found.get("metadata", {}), _METADATA, "metadata")
    sampling = Sampling(
        temperature=float(found.get("temperature", 1.0)),
        top_p=float(found.get("top_p", 1.0)),
        top_k=found.get("top_k", 0),
        seed=found.get("seed"),
        stop=read_stop(found.get("stop_sequences", ()), "stop_sequences"),
    )
    request = Generate(prompt=_read_prompt(found), max_tokens=found["max_tokens"], sampling=sampling)
    return Asked(
        model=check_model(found),
        requests=(request,),
        given=RECOMMENDED & found.keys(),
        stream=found.get("stream", False),
    )


def decode_count(body: bytes) -> tuple[str, Generate]:
    """The model's name and what would be its prompt. Raises InvalidRequest."""
    found = read(parse(body), COUNT)
    return check_model(found), Generate(prompt=_read_prompt(found))


def encode_count(num_tokens: int) -> dict[str, int]:
    return {"input_tokens": num_tokens}


def _read_prompt(found: dict[str, Any]) -> tuple[Message, ...]:
    """System and messages; messages of one role that follow each other are one, as Anthropic has it."""
    if found.get("thinking", {"type": "disabled"}) != {"type": "disabled"}:
        message = 'thinking: only {"type": "disabled"} is supported'
        raise InvalidRequest(message, code="invalid_value", param="thinking")
    if not found["messages"]:
        raise InvalidRequest("messages is empty", code="missing_field", param="messages")
    messages: list[Message] = []
    if "system" in found:
        messages.append(Message(role="system", content=_read_text(found["system"], "system")))
    for i, value in enumerate(found["messages"]):
        path = f"messages[{i}]"
        each = read(value, _MESSAGE, path)
        text = _read_text(each["content"], f"{path}.content")
        if messages and messages[-1].role == each["role"]:
            text = f"{messages.pop().content}\n\n{text}"
        messages.append(Message(role=each["role"], content=text))
    if messages[-1].role != "user":
        message = f"{path}.role is assistant: the last message must be the user's, answers are not begun for the model"
        raise InvalidRequest(message, code="invalid_value", param=f"{path}.role")
    return tuple(messages)


def _read_text(content: Any, path: str) -> str:
    """Text, or text blocks as paragraphs."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        message = f"{path} must be text or a list of blocks that is not empty, not {kind_of(content)}"
        raise InvalidRequest(message, code="invalid_type", param=path)
    texts = []
    for i, block in enumerate(content):
        where = f"{path}[{i}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if isinstance(kind, str) and kind != "text":
            message = f"{where}.type is {shown(kind)}: this server reads text blocks only"
            raise InvalidRequest(message, code="invalid_value", param=f"{where}.type")
        texts.append(read(block, _TEXT, where)["text"])
    return "\n\n".join(texts)


def encode_usage(usage: Usage) -> dict[str, int]:
    """input_tokens are those that were not found in the prefix cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


class MessageAnswer(Single):
    """A message, or its events: start, text deltas, stop with the usage."""

    def __init__(self, id: str, model: str) -> None:
        super().__init__()
        self._id, self._model = id, model
        self._is_opened = False

    def take(self, events: Sequence[tuple[int, Event]]) -> list[dict[str, Any]]:
        text = self.collect(events)
        return [*self._open(), self._delta(text)] if text else []

    def end(self, elapsed_s: float) -> list[dict[str, Any]]:
        ending = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        return [
            *self._open(),
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": ending, "usage": encode_usage(self.usage)},
            {"type": "message_stop"},
        ]

    def response(self, elapsed_s: float) -> dict[str, Any]:
        return {
            **self._message([{"type": "text", "text": self.choice.text}]),
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": encode_usage(self.usage),
        }

    def _open(self) -> list[dict[str, Any]]:
        """What comes before the first text, once."""
        if self._is_opened:
            return []
        self._is_opened = True
        message = {**self._message([]), "stop_reason": None, "stop_sequence": None, "usage": encode_usage(self.usage)}
        return [
            {"type": "message_start", "message": message},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
        ]

    def _message(self, content: list[Any]) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": content}

    @staticmethod
    def _delta(text: str) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}

    @property
    def _stop_sequence(self) -> str | None:
        return self.choice.stop if isinstance(self.choice.stop, str) else None

    @property
    def _stop_reason(self) -> str:
        ended = "stop_sequence" if self._stop_sequence is not None else "end_turn"
        return _STOP_REASONS.get(self.choice.finish_reason or "", ended)
