"""POST /v1/responses and /v1/responses/input_tokens: body → ResponseRequest → GenerationRequest, events → a response or
its typed events.

The door looks up the earlier turns (previous_response_id) and gives them to `to_generation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from tripos.errors import InvalidRequest, TriposError, shown
from tripos.types import Event, Generate, Message, ReasoningOptions, Usage
from tripos.wire import foreign
from tripos.wire.constraint import read_text_format
from tripos.wire.fields import Field, Found, at, check, kind_of, read_json, table
from tripos.wire.generation import MAX_TOKENS, MODEL, GenerationRequest, SingleAnswer, check_model
from tripos.wire.ignored import Ignored
from tripos.wire.openai.functions import CALLING, EFFORTS, read_tools
from tripos.wire.openai.generation import DELIVERY, SAMPLING, read_delivery, read_sampling
from tripos.wire.openai.response_input import FindItem, join_turns, read_input
from tripos.wire.openai.response_items import OutputItems

_BOOKS = "For the client's own books."
_LOGPROBS = "message.output_text.logprobs"
_METADATA = Field("metadata", "string", "", max_bytes=512)

_PROMPT = (
    Field("input", "any", "Text, or a list of messages, reasoning, function calls and their outputs.", required=True),
    Field(
        "instructions",
        "string",
        "Go before everything as the system's message; not kept for the next response.",
        nothing=("",),
    ),
    Field("previous_response_id", "string", "Go on from a stored response.", max_bytes=256),
    Field("text", "object", "{format}: text, json_object, or json_schema: the answer follows the schema."),
    Field("truncation", "string", "What does not fit is refused, never dropped.", use="ignored", nothing=("disabled",)),
    *CALLING,
    Field("reasoning", "object", "{effort}, as reasoning_effort of chat completions; the rest has no effect."),
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
    Field("include", "array", f'"{_LOGPROBS}"; of what else can be included there is nothing.', max_items=16),
    Field("top_logprobs", "integer", "Likeliest alternatives per token; needs include.", low=0, high=20, nothing=(0,)),
    Field("background", "boolean", "Only false."),
    Field("user", "string", _BOOKS, max_bytes=512, use="ignored"),
    Field("safety_identifier", "string", _BOOKS, max_bytes=512, use="ignored"),
    Field("prompt_cache_key", "string", "Prefixes are always reused.", max_bytes=512, use="met"),
    Field("prompt_cache_retention", "string", "Prefixes are always reused.", max_bytes=64, use="met"),
    Field("prompt_cache_options", "object", "Prefixes are always reused.", use="met"),
    Field(
        "max_tool_calls",
        "integer",
        "For tools that a server runs: there are none.",
        low=0,
        high=MAX_TOKENS,
        use="met",
    ),
    Field("prompt", "any", "there are no stored prompts", use="refused"),
    Field("context_management", "any", "send the messages that count", use="refused"),
    Field("background_options", "any", "nothing runs in the background", use="refused"),
    Field("access_programs", "any", "there are none", use="refused"),
    Field("image", "any", "this server makes no images", use="refused"),
    Field("moderation", "any", "ask /v1/decisions whether a text is what you will not have", use="refused"),
    *foreign.RESPONSES,
)
_REASONING = table(
    Field("effort", "string", "", choices=EFFORTS),
    Field("summary", "string", "", choices=("auto", "concise", "detailed"), use="ignored"),
    Field("generate_summary", "string", "", choices=("auto", "concise", "detailed"), use="ignored"),
    Field("context", "string", "", choices=("auto", "current_turn", "all_turns"), use="ignored"),
    Field("mode", "string", "", max_bytes=64, use="ignored"),
)


class ResponseRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded body before the earlier turns are known. The Generate of `generation` has no prompt yet."""

    generation: GenerationRequest
    messages: tuple[Message, ...]  # of this request, without the instructions
    instructions: str | None = None
    previous_response_id: str | None = None
    is_stored: bool = True
    metadata: dict[str, str] = {}
    tools: list[Any] = []  # as they were given, and the response has them again
    tool_choice: Any = "auto"
    text_format: dict[str, Any] = {}  # as the client wrote it


def decode(body: bytes, find_item: FindItem) -> ResponseRequest:
    """Raises InvalidRequest naming the field, and what `find_item` raises."""
    found = read_json(body, FIELDS)
    if found.get("background"):
        raise InvalidRequest("background: only false is supported", code="invalid_value", param="background")
    request = Generate(
        prompt="",
        max_tokens=found.get("max_output_tokens"),
        sampling=read_sampling(found, _read_logprobs(found)),
        constraint=read_text_format(found),
        cache_salt=found.get("cache_salt", ""),
    )
    read = _read_request(found, GenerationRequest(requests=(request,), **read_delivery(found)), find_item)
    return replace(read, is_stored=found.get("store", True), metadata=_read_metadata(found.get("metadata", {})))


def decode_count(body: bytes, find_item: FindItem) -> ResponseRequest:
    """Raises as `decode`."""
    found = read_json(body, COUNT)
    read_text_format(found)
    generation = GenerationRequest(model=check_model(found), requests=(Generate(prompt=""),))
    return _read_request(found, generation, find_item)


def to_generation(request: ResponseRequest, before: tuple[Message, ...]) -> GenerationRequest:
    """With the prompt: instructions, the turns `before`, this request's messages. Raises InvalidRequest."""
    turns = join_turns((*before, *request.messages))
    if not turns:
        raise InvalidRequest("input holds no message: send one", code="missing_field", param="input")
    first = () if request.instructions is None else (Message(role="system", content=request.instructions),)
    generate = replace(request.generation.requests[0], prompt=(*first, *turns))
    return replace(request.generation, requests=(generate,))


def encode_count(num_tokens: int) -> dict[str, Any]:
    return {"object": "response.input_tokens", "input_tokens": num_tokens}


def encode_deleted(response_id: str) -> dict[str, Any]:
    return {"id": response_id, "object": "response", "deleted": True}


def _read_request(found: Found, generation: GenerationRequest, find_item: FindItem) -> ResponseRequest:
    reasoning = ReasoningOptions(effort=found.inner("reasoning", _REASONING).get("effort"))
    tools, tool_choice = read_tools(found)
    request = replace(generation.requests[0], tools=tools, tool_choice=tool_choice, reasoning=reasoning)
    return ResponseRequest(
        generation=replace(generation, requests=(request,), ignored=tuple(found.ignored)),
        tools=found.get("tools", []),
        tool_choice=found.get("tool_choice", "auto"),
        text_format=found.get("text", {}).get("format") or {},
        messages=read_input(found["input"], find_item),
        instructions=found.get("instructions"),
        previous_response_id=found.get("previous_response_id"),
    )


def _read_logprobs(found: Found) -> int | None:
    include = found.get("include", [])
    for i, each in enumerate(include):
        if not isinstance(each, str):
            message = f"include[{i}] must be a string, not {kind_of(each)}"
            raise InvalidRequest(message, code="invalid_type", param=f"include[{i}]")
        if each != _LOGPROBS:
            found.ignored.append(Ignored(f"include.{each[:64]}", "advisory"))
    include = [each for each in include if each == _LOGPROBS]
    if "top_logprobs" in found and not include:
        message = f"top_logprobs needs include: {_LOGPROBS}"
        raise InvalidRequest(message, code="invalid_value", param="top_logprobs")
    return found.get("top_logprobs", 0) if include else None


def _read_metadata(value: dict[str, Any]) -> dict[str, str]:
    for name, each in value.items():
        if len(name) > 64:
            message = f"metadata: {shown(name)} is longer than 64 characters"
            raise InvalidRequest(message, code="out_of_range", param="metadata")
        if each is not None:
            check(each, _METADATA, at("metadata", name))
    return {name: each for name, each in value.items() if each is not None}


def encode_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }


class ResponseAnswer(SingleAnswer):
    """A response with its output items, or the typed events that build it. `generate`: as the model gets it."""

    def __init__(
        self, request: ResponseRequest, generate: Generate, response_id: str, created: int, model: str
    ) -> None:
        super().__init__()
        sampling = generate.sampling
        self._wants_logprobs = sampling.logprobs is not None
        namespaces = {tool.name: tool.namespace for tool in generate.tools if tool.namespace}
        self._items = OutputItems(response_id, namespaces)
        self._num_events = 0
        self._fixed = {
            "id": response_id,
            "object": "response",
            "created_at": created,
            "model": model,
            "background": False,
            "instructions": request.instructions,
            "max_output_tokens": generate.max_tokens,
            "metadata": request.metadata,
            "parallel_tool_calls": generate.tool_choice.is_parallel,
            "previous_response_id": request.previous_response_id,
            "service_tier": "default",
            "store": request.is_stored,
            "temperature": sampling.temperature,
            "text": {"format": request.text_format or {"type": "text"}},
            "reasoning": {"effort": generate.reasoning.effort, "summary": None},
            "tool_choice": request.tool_choice,
            "tools": request.tools,
            "top_p": sampling.top_p,
            "truncation": "disabled",
        }

    def take(self, events: Sequence[tuple[int, Event]]) -> list[dict[str, Any]]:
        made = []
        for delta in self.collect(events):
            made += self._items.add(delta, (delta.logprobs or ()) if self._wants_logprobs else ())
        self.output.take_logprobs()  # the items have them
        return self._numbered(made)

    def end(self, elapsed_s: float) -> list[dict[str, Any]]:
        events = self._numbered([*self._items.close(self._status)])
        response = self.response(elapsed_s)
        return [*(events or self._opening()), self._event(f"response.{self._status}", response=response)]

    def response(self, elapsed_s: float) -> dict[str, Any]:
        self._items.close(self._status)
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}
        cause = reason.get(self.output.finish_reason or "")
        return {
            **self._fixed,
            "status": self._status,
            "error": None,
            "incomplete_details": {"reason": cause} if cause else None,
            "output": self._items.items,
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

    def _numbered(self, events: Sequence[tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
        return [*self._opening(), *(self._event(kind, **fields) for kind, fields in events)] if events else []

    def _opening(self) -> list[dict[str, Any]]:
        """What comes before the first item, once."""
        if self._num_events:
            return []
        begun = self._begun("in_progress")
        return [self._event("response.created", response=begun), self._event("response.in_progress", response=begun)]

    def _begun(self, status: str) -> dict[str, Any]:
        return {
            **self._fixed, "status": status, "error": None, "incomplete_details": None, "output": [], "usage": None
        }  # fmt: skip

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._num_events += 1
        return {"type": kind, "sequence_number": self._num_events - 1, **fields}

    @property
    def _status(self) -> str:
        return "incomplete" if self.output.finish_reason in ("length", "content_filter") else "completed"
