"""POST /v1/responses and /v1/responses/input_tokens: body → Wanted → Asked, events → a response or its typed events.

What was said before (previous_response_id) is looked up by the door and given to `ask`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from tripos.errors import InvalidRequest, TriposError
from tripos.types import Event, Generate, Message, ToolCall, Usage
from tripos.wire import foreign
from tripos.wire.constraint import read_text_format
from tripos.wire.fields import Field, Found, at, check, kind_of, read, read_json, table
from tripos.wire.generation import MAX_MESSAGES, MAX_TOKENS, MODEL, Asked, Single, check_model, join_parts
from tripos.wire.ignored import Ignored
from tripos.wire.json import shown
from tripos.wire.openai.functions import CALLING, flat_name, read_offer
from tripos.wire.openai.generation import DELIVERY, SAMPLING, read_delivery, read_sampling
from tripos.wire.openai.response_items import Output
from tripos.wire.tools.adapt import Thinking
from tripos.wire.tools.reasoning import EFFORTS

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
_MESSAGE = table(
    Field("type", "string", "", choices=("message",)),
    Field("role", "string", "", choices=("user", "assistant", "system", "developer"), required=True),
    Field("content", "any", "", required=True),
    Field("id", "string", "Of an earlier answer.", max_bytes=256, use="ignored"),
    Field("status", "string", "Of an earlier answer.", max_bytes=64, use="ignored"),
    Field("phase", "string", "Of an earlier answer.", max_bytes=64, use="ignored"),
)
_CALL = table(
    Field("type", "string", "", choices=("function_call",), required=True),
    Field("call_id", "string", "", max_bytes=256, required=True),
    Field("name", "string", "", max_bytes=256, required=True),
    Field("arguments", "string", "", required=True),
    Field("id", "string", "", max_bytes=256, use="ignored"),
    Field("status", "string", "", max_bytes=64, use="ignored"),
    Field("namespace", "string", "", max_bytes=256),
    Field("caller", "any", "", use="ignored"),
    Field("parsed_arguments", "any", "Of the client's own helpers.", use="ignored"),
)
_CALL_OUTPUT = table(
    Field("type", "string", "", choices=("function_call_output",), required=True),
    Field("name", "string", "", max_bytes=256, use="ignored"),
    Field("namespace", "string", "", max_bytes=256, use="ignored"),
    Field("call_id", "string", "", max_bytes=256, required=True),
    Field("output", "any", "", required=True),
    Field("id", "string", "", max_bytes=256, use="ignored"),
    Field("status", "string", "", max_bytes=64, use="ignored"),
    Field("caller", "any", "", use="ignored"),
)
_REASONING_ITEM = table(
    Field("type", "string", "", choices=("reasoning",), required=True),
    Field("content", "array", ""),
    Field("summary", "array", "", use="ignored"),
    Field("id", "string", "", max_bytes=256, use="ignored"),
    Field("status", "string", "", max_bytes=64, use="ignored"),
    Field("encrypted_content", "string", "", use="ignored"),
)
_REFERENCE = table(
    Field("type", "string", "", choices=("item_reference",)), Field("id", "string", "", max_bytes=256, required=True)
)
_REASONING_PART = table(
    Field("type", "string", "", choices=("reasoning_text",), required=True), Field("text", "string", "", required=True)
)
_REASONING = table(
    Field("effort", "string", "", choices=EFFORTS),
    Field("summary", "string", "", choices=("auto", "concise", "detailed"), use="ignored"),
    Field("generate_summary", "string", "", choices=("auto", "concise", "detailed"), use="ignored"),
    Field("context", "string", "", choices=("auto", "current_turn", "all_turns"), use="ignored"),
    Field("mode", "string", "", max_bytes=64, use="ignored"),
)
_PART = table(
    Field("type", "string", "", choices=("input_text", "output_text"), required=True),
    Field("text", "string", "", required=True),
    Field("annotations", "array", "Of an earlier answer.", use="ignored"),
    Field("logprobs", "array", "Of an earlier answer.", use="ignored"),
    Field("prompt_cache_breakpoint", "object", "Prefixes are always reused.", use="ignored"),
)


FindItem = Callable[[str, str], dict[str, Any]]  # (id of an item, path for errors) → the item as it was sent


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded body before what was said earlier is known. `asked`'s request has no prompt yet."""

    asked: Asked
    messages: tuple[Message, ...]  # of this request, without the instructions
    instructions: str | None = None
    previous_response_id: str | None = None
    is_stored: bool = True
    metadata: dict[str, str] = {}
    tools: list[Any] = []  # as they were given, and the response has them again
    tool_choice: Any = "auto"
    text_format: dict[str, Any] = {}  # as the client wrote it


def decode(body: bytes, find_item: FindItem) -> Wanted:
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
    wanted = _read_wanted(found, Asked(requests=(request,), **read_delivery(found)), find_item)
    return replace(wanted, is_stored=found.get("store", True), metadata=_read_metadata(found.get("metadata", {})))


def decode_count(body: bytes, find_item: FindItem) -> Wanted:
    """Raises as `decode`."""
    found = read_json(body, COUNT)
    read_text_format(found)
    return _read_wanted(found, Asked(model=check_model(found), requests=(Generate(prompt=""),)), find_item)


def ask(wanted: Wanted, before: tuple[Message, ...]) -> Asked:
    """What the model is asked: instructions, what was said `before`, this request's messages. Raises InvalidRequest."""
    said = join_turns((*before, *wanted.messages))
    if not said:
        raise InvalidRequest("input says nothing: send a message", code="missing_field", param="input")
    first = () if wanted.instructions is None else (Message(role="system", content=wanted.instructions),)
    request = replace(wanted.asked.requests[0], prompt=(*first, *said))
    return replace(wanted.asked, requests=(request,))


def encode_count(num_tokens: int) -> dict[str, Any]:
    return {"object": "response.input_tokens", "input_tokens": num_tokens}


def encode_deleted(response_id: str) -> dict[str, Any]:
    return {"id": response_id, "object": "response", "deleted": True}


def _read_wanted(found: Found, asked: Asked, find_item: FindItem) -> Wanted:
    thinking = Thinking(effort=found.inner("reasoning", _REASONING).get("effort"))
    asked = replace(asked, offer=read_offer(found), thinking=thinking)
    return Wanted(
        asked=replace(asked, ignored=tuple(found.ignored)),
        tools=found.get("tools", []),
        tool_choice=found.get("tool_choice", "auto"),
        text_format=found.get("text", {}).get("format") or {},
        messages=_read_input(found["input"], find_item),
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


def _read_input(value: Any, find_item: FindItem) -> tuple[Message, ...]:
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
    return tuple(_read_item(_followed(each, f"input[{i}]", find_item), f"input[{i}]") for i, each in enumerate(value))


def _followed(value: Any, path: str, find_item: FindItem) -> Any:
    """An item, where a client sent no more than its id."""
    if not isinstance(value, dict) or (value.get("type") or "item_reference") != "item_reference" or "role" in value:
        return value
    return find_item(read(value, _REFERENCE, path)["id"], f"{path}.id")


def _read_item(value: Any, path: str) -> Message:
    kinds = ("message", "function_call", "function_call_output", "reasoning")
    _check_kind(value, kinds, path, "reads messages, reasoning, function calls, their outputs and references to these")
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function_call":
        found = read(value, _CALL, path)
        name = flat_name(found.get("namespace", ""), found["name"])
        call = ToolCall(id=found["call_id"], name=name, arguments=found["arguments"])
        return Message(role="assistant", tool_calls=(call,))
    if kind == "function_call_output":
        found = read(value, _CALL_OUTPUT, path)
        return _message("tool", found["output"], f"{path}.output", tool_call_id=found["call_id"])
    if kind == "reasoning":
        return Message(role="assistant", reasoning=_read_reasoning(value, path))
    found = read(value, _MESSAGE, path)
    role = "system" if found["role"] == "developer" else found["role"]
    return _message(role, found["content"], f"{path}.content")


def _message(role: str, content: Any, path: str, tool_call_id: str | None = None) -> Message:
    parts = () if isinstance(content, str) else _read_parts(content, path)
    return Message(role=role, content=join_parts(parts) if parts else content, parts=parts, tool_call_id=tool_call_id)


def _read_reasoning(value: Any, path: str) -> str:
    parts = read(value, _REASONING_ITEM, path).get("content", [])
    return join_parts([read(part, _REASONING_PART, f"{path}.content[{i}]")["text"] for i, part in enumerate(parts)])


def join_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Items of one turn of the assistant (reasoning, text, calls) as the one message that templates know.

    Raises InvalidRequest for an output that answers no call.
    """
    joined: list[Message] = []
    open_ids: set[str] = set()
    for message in messages:
        before = joined[-1] if joined else None
        if message.role == "tool":
            if message.tool_call_id not in open_ids:
                text = f"input holds an output for call {shown(message.tool_call_id or '')}, which nobody made"
                raise InvalidRequest(text, code="invalid_value", param="input")
            open_ids.discard(message.tool_call_id)
        open_ids |= {call.id for call in message.tool_calls}
        is_more = message.role == "assistant" and (message.tool_calls or message.content is not None)
        if before is not None and before.role == "assistant" and is_more and not _is_whole(before, message):
            joined[-1] = replace(
                before,
                content=before.content if message.content is None else message.content,
                parts=before.parts if message.content is None else message.parts,
                tool_calls=(*before.tool_calls, *message.tool_calls),
            )
        else:
            joined.append(message)
    return tuple(each for each in joined if each.content is not None or each.tool_calls)


def _is_whole(before: Message, message: Message) -> bool:
    """Whether a message of the assistant cannot go on with another."""
    return message.content is not None and (before.content is not None or bool(before.tool_calls))


def _read_parts(value: Any, path: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        message = f"{path} must be text or a list of parts that is not empty, not {kind_of(value)}"
        raise InvalidRequest(message, code="invalid_type", param=path)
    texts = []
    for i, part in enumerate(value):
        _check_kind(part, ("input_text", "output_text"), f"{path}[{i}]", "reads text only")
        texts.append(read(part, _PART, f"{path}[{i}]")["text"])
    return tuple(texts)


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
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }


class ResponseAnswer(Single):
    """A response with its output items, or the typed events that build it. `asked`: as the model gets it."""

    def __init__(self, wanted: Wanted, asked: Asked, response_id: str, created: int, model: str) -> None:
        super().__init__(asked.speech)
        sampling = asked.requests[0].sampling
        self._wants_logprobs = sampling.logprobs is not None
        offered = wanted.asked.offer.tools
        self._output = Output(response_id, {tool.name: tool.namespace for tool in offered if tool.namespace})
        self._num_events = 0
        self._fixed = {
            "id": response_id,
            "object": "response",
            "created_at": created,
            "model": model,
            "background": False,
            "instructions": wanted.instructions,
            "max_output_tokens": asked.requests[0].max_tokens,
            "metadata": wanted.metadata,
            "parallel_tool_calls": wanted.asked.offer.is_parallel,
            "previous_response_id": wanted.previous_response_id,
            "service_tier": "default",
            "store": wanted.is_stored,
            "temperature": sampling.temperature,
            "text": {"format": wanted.text_format or {"type": "text"}},
            "reasoning": {"effort": wanted.asked.thinking.effort, "summary": None},
            "tool_choice": wanted.tool_choice,
            "tools": wanted.tools,
            "top_p": sampling.top_p,
            "truncation": "disabled",
        }

    def take(self, events: Sequence[tuple[int, Event]]) -> list[dict[str, Any]]:
        made = []
        for said in self.collect(events):
            logprobs = self.choice.take_logprobs()
            made += self._output.add(said, logprobs if self._wants_logprobs else [])
        return self._numbered(made)

    def end(self, elapsed_s: float) -> list[dict[str, Any]]:
        events = self._numbered([*self._output.close(self._status)])
        response = self.response(elapsed_s)
        return [*(events or self._opening()), self._event(f"response.{self._status}", response=response)]

    def response(self, elapsed_s: float) -> dict[str, Any]:
        self._output.close(self._status)
        reason = {"length": "max_output_tokens", "content_filter": "content_filter"}
        cause = reason.get(self.choice.finish_reason or "")
        return {
            **self._fixed,
            "status": self._status,
            "error": None,
            "incomplete_details": {"reason": cause} if cause else None,
            "output": self._output.items,
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
        return "incomplete" if self.choice.finish_reason in ("length", "content_filter") else "completed"
