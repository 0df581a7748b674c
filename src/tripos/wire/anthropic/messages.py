"""POST /v1/messages and /v1/messages/count_tokens: body → GenerationRequest, events → a message or its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tripos.errors import InvalidRequest, shown
from tripos.types import Constraint, Event, Generate, Message, Sampling, Usage
from tripos.wire import foreign
from tripos.wire.anthropic.blocks import Blocks, read_conversation
from tripos.wire.anthropic.functions import read_reasoning, read_tools
from tripos.wire.constraint import read_schema_format
from tripos.wire.fields import Field, Found, read, read_json, table
from tripos.wire.generation import (
    INT31,
    INT63,
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOKENS,
    MODEL,
    GenerationRequest,
    SingleAnswer,
    check_model,
    read_stop,
)
from tripos.wire.tools import MAX_TOOLS

_CACHE = "Prefixes are always reused."

_PROMPT = (
    MODEL,
    Field("messages", "array", "The conversation, ending with the user.", max_items=MAX_MESSAGES, required=True),
    Field("system", "any", "Text, or a list of {type: text, text}.", nothing=("", [])),
    Field("cache_control", "object", _CACHE, use="met"),
    Field("thinking", "object", "{type: enabled, budget_tokens}, {type: adaptive} or {type: disabled}, the default."),
    Field("tools", "array", "Tools that the client runs: {name, description, input_schema}.", max_items=MAX_TOOLS),
    Field("tool_choice", "object", "{type: auto, any, tool or none, name?, disable_parallel_tool_use?}."),
    Field("output_config", "object", "{format: {type: json_schema, schema}}: the answer follows the schema."),
    Field("output_format", "object", "As output_config.format, and its older place."),
    Field("mcp_servers", "array", "the server makes no outbound requests", use="refused"),
    Field("context_management", "object", "{edits}: those that keep all; others are refused: send what counts."),
    Field("user_profile_id", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("workspace_id", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("speed", "string", "One speed: what the machine can.", use="ignored", nothing=("standard",)),
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
    Field("service_tier", "string", "No tiers.", use="ignored", nothing=("auto", "standard_only")),
    Field("inference_geo", "string", "Everything stays on this machine.", max_bytes=64, use="ignored"),
    Field("container", "any", "there are no containers", use="refused"),
    Field("thread", "object", "Refused by the code that makes clients send the whole conversation each time."),
    Field("diagnostics", "any", "see /metrics", use="refused"),
    *foreign.MESSAGES,
)
_OUTPUT_CONFIG = table(
    Field("format", "object", ""),
    Field("effort", "string", "One effort: what the model can.", max_bytes=16, use="ignored"),
    Field("task_budget", "object", "use max_tokens", use="refused"),
)
_CONTEXT = table(Field("edits", "array", "", max_items=16))
_EDIT = table(Field("type", "string", "", required=True), Field("keep", "any", ""))
_STOP_REASONS = {"length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


def decode(body: bytes) -> GenerationRequest:
    """Raises InvalidRequest naming the field."""
    found = read_json(body, FIELDS)
    if "thread" in found:
        message = "thread: no conversation is kept between requests, send all of its messages each time"
        raise InvalidRequest(message, code="thread_unsupported_request", param="thread")
    sampling = Sampling(
        temperature=float(found.get("temperature", 1.0)),
        top_p=float(found.get("top_p", 1.0)),
        top_k=found.get("top_k", 0),
        seed=found.get("seed"),
        stop=read_stop(found.get("stop_sequences", ()), "stop_sequences"),
    )
    tools, tool_choice = read_tools(found)
    request = Generate(
        prompt=_read_prompt(found),
        max_tokens=found["max_tokens"],
        tools=tools,
        tool_choice=tool_choice,
        reasoning=read_reasoning(found, found["max_tokens"]),
        sampling=sampling,
        constraint=_read_constraint(found),
    )
    return GenerationRequest(
        model=check_model(found),
        requests=(request,),
        given=frozenset(found),
        stream=found.get("stream", False),
        ignored=tuple(found.ignored),
    )


def _read_constraint(found: Found) -> Constraint | None:
    config = found.inner("output_config", _OUTPUT_CONFIG)
    if "format" in config and "output_format" in found:
        message = "output_config.format and output_format are the same: give one"
        raise InvalidRequest(message, code="invalid_value", param="output_format")
    if "format" in config:
        return read_schema_format(config, "format")
    return read_schema_format(found, "output_format") if "output_format" in found else None


def decode_count(body: bytes) -> GenerationRequest:
    """The request whose prompt is to be counted. Raises InvalidRequest."""
    found = read_json(body, COUNT)
    tools, tool_choice = read_tools(found)
    request = Generate(
        prompt=_read_prompt(found), tools=tools, tool_choice=tool_choice, reasoning=read_reasoning(found, None)
    )
    return GenerationRequest(
        model=check_model(found),
        requests=(request,),
        ignored=tuple(found.ignored),
    )


def _read_prompt(found: Found) -> tuple[Message, ...]:
    _check_context(found)
    return read_conversation(found.get("system"), found["messages"])


def _check_context(found: Found) -> None:
    """Nothing is ever dropped from a conversation, so edits that keep all are no edits. Raises InvalidRequest."""
    edits = found.inner("context_management", _CONTEXT).get("edits", ())
    for i, value in enumerate(edits):
        path = f"context_management.edits[{i}]"
        edit = read(value, _EDIT, path, found.ignored)
        if edit.get("keep") != "all":
            message = (
                f"{path} ({shown(edit['type'])}) would drop something, and nothing is: send the messages that count"
            )
            raise InvalidRequest(message, code="invalid_value", param=path)


def encode_count(num_tokens: int) -> dict[str, int]:
    return {"input_tokens": num_tokens}


def encode_usage(usage: Usage) -> dict[str, int]:
    """input_tokens are those that were not found in the prefix cache."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


class MessageAnswer(SingleAnswer):
    """A message, or its events: start, blocks with their deltas, stop with the usage."""

    def __init__(self, id: str, model: str) -> None:
        super().__init__()
        self._id, self._model = id, model
        self._is_begun = False
        self._blocks = Blocks()

    def take(self, events: Sequence[tuple[int, Event]]) -> list[dict[str, Any]]:
        made = [event for delta in self.collect(events) for event in self._blocks.add(delta)]
        return self._begun(made) if made else []

    def end(self, elapsed_s: float) -> list[dict[str, Any]]:
        ending = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        return [
            *self._begun(self._blocks.close()),
            {"type": "message_delta", "delta": ending, "usage": encode_usage(self.usage)},
            {"type": "message_stop"},
        ]

    def response(self, elapsed_s: float) -> dict[str, Any]:
        self._blocks.close()
        return {
            **self._message(self._blocks.blocks),
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": encode_usage(self.usage),
        }

    def _begun(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The events, and around the first of them what begins a message."""
        if self._is_begun:
            return events
        self._is_begun = True
        message = {**self._message([]), "stop_reason": None, "stop_sequence": None, "usage": encode_usage(self.usage)}
        return [{"type": "message_start", "message": message}, *events[:1], {"type": "ping"}, *events[1:]]

    def _message(self, content: list[Any]) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "role": "assistant", "model": self._model, "content": content}

    @property
    def _stop_sequence(self) -> str | None:
        return self.output.stop if isinstance(self.output.stop, str) else None

    @property
    def _stop_reason(self) -> str:
        ended = "stop_sequence" if self._stop_sequence is not None else "end_turn"
        return _STOP_REASONS.get(self.output.finish_reason or "", ended)
