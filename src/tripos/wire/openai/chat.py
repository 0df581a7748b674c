"""POST /v1/chat/completions: body → GenerationRequest, events → chat.completion and its chunks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from tripos.errors import InvalidRequest, shown
from tripos.types import Delta, Generate, Message, TokenLogprob, ToolCall
from tripos.wire import foreign
from tripos.wire.constraint import read_constraint
from tripos.wire.fields import Field, Found, read, read_json, table
from tripos.wire.generation import MAX_MESSAGES, MAX_TOKENS, Collected, GenerationRequest, join_parts
from tripos.wire.json import encode
from tripos.wire.openai.functions import CALLING, REASONING, read_chat_tools, read_reasoning
from tripos.wire.openai.generation import DELIVERY, IGNORED, SAMPLING, Answer, Identity, read_delivery, read_sampling
from tripos.wire.openai.parts import read_parts

ROLES = ("system", "developer", "user", "assistant", "tool")
# Of messages that need nothing but text; developer is system by its newer name.
_TEXT_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]")
# What the template itself is given; a request must not replace it.
_RESERVED_ARGS = {
    "messages", "tools", "documents", "chat_template", "tokenize", "conversation", "return_tensors", "return_dict",
    "padding", "truncation", "max_length", "bos_token", "eos_token", "raise_exception", "strftime_now",
    "continue_final_message",
}  # fmt: skip

FIELDS = table(
    Field(
        "messages", "array", "The conversation; content is text or text parts.", max_items=MAX_MESSAGES, required=True
    ),
    *DELIVERY,
    *SAMPLING,
    Field("max_tokens", "integer", "Most tokens of each choice; -1: as fit.", low=1, high=MAX_TOKENS, nothing=(-1,)),
    Field(
        "max_completion_tokens",
        "integer",
        "As max_tokens, and its newer name.",
        low=1,
        high=MAX_TOKENS,
        nothing=(-1,),
    ),
    Field("logprobs", "boolean", "Report the log-probability of each token."),
    Field("top_logprobs", "integer", "Likeliest alternatives per token; needs logprobs.", low=0, high=20, nothing=(0,)),
    Field("response_format", "object", "text, json_object, or json_schema: the answer follows the schema."),
    Field("structured_outputs", "object", "One of json, json_object, regex, choice, grammar (Lark or GBNF)."),
    Field("modalities", "array", 'Only ["text"].', max_items=4),
    Field("add_generation_prompt", "boolean", "Let the template open the assistant's turn. Default true."),
    Field("continue_final_message", "boolean", "Go on with the last message, an assistant's; no new turn is opened."),
    Field("chat_template_kwargs", "object", "Scalars for the model's template.", max_items=16),
    *IGNORED,
    Field("prompt_cache_retention", "string", "Prefixes are always reused.", max_bytes=64, use="met"),
    Field("prompt_cache_options", "object", "Prefixes are always reused.", use="met"),
    *CALLING,
    *REASONING,
    Field("functions", "array", "use tools", use="refused"),
    Field("function_call", "any", "use tool_choice", use="refused"),
    Field("audio", "any", "text only", use="refused"),
    Field("prediction", "object", "A hint for speed that changes no text.", use="ignored"),
    Field("web_search_options", "any", "the server makes no outbound requests", use="refused", asks_empty=True),
    Field("verbosity", "string", "Say it in the prompt.", use="ignored", nothing=("medium",)),
    Field("moderation", "any", "ask /v1/decisions whether a text is what you will not have", use="refused"),
    *foreign.CHAT,
)

# What most bodies have none of: read together, when one is there.
_EXTRAS = frozenset(("response_format", "structured_outputs", *(field.name for field in (*CALLING, *REASONING))))
_MESSAGE = table(
    Field("role", "any", "One of " + ", ".join(ROLES)),
    Field("content", "any", "Text, or a list of {type: text, text}."),
    Field("name", "string", "Who speaks.", max_bytes=64),
    Field("tool_calls", "array", "Calls that the assistant made.", max_items=128),
    Field("tool_call_id", "string", "The call that a tool message answers.", max_bytes=256),
    Field("refusal", "string", "Of an earlier answer.", use="ignored"),
    Field("annotations", "array", "Of an earlier answer.", use="ignored"),
    Field("audio", "any", "Of an earlier answer.", use="ignored"),
    Field("reasoning_content", "string", "Of an earlier answer, for templates that show it again."),
    Field("reasoning", "string", "As reasoning_content, and another name of it."),
    Field("function_call", "any", "use tool_calls", use="refused"),
)
_TOOL_CALL = table(
    Field("id", "string", "", max_bytes=256, required=True),
    Field("type", "string", "", choices=("function",)),
    Field("function", "object", "", required=True),
    Field("index", "integer", "", use="ignored"),
)
_FUNCTION = table(
    Field("name", "string", "", max_bytes=256, required=True),
    Field("arguments", "string", "JSON text of the model, passed through unread.", required=True),
)


def decode(body: bytes) -> GenerationRequest:
    """Raises InvalidRequest naming the field."""
    found = read_json(body, FIELDS)
    _check_formats(found)
    logprobs = None
    if "top_logprobs" in found and not found.get("logprobs"):
        message = "top_logprobs needs logprobs: true"
        raise InvalidRequest(message, code="invalid_value", param="top_logprobs")
    if found.get("logprobs"):
        logprobs = found.get("top_logprobs", 0)
    request = Generate(
        prompt=read_messages(found["messages"]),
        max_tokens=_read_max_tokens(found),
        n=found.get("n", 1),
        sampling=read_sampling(found, logprobs),
        template_args=read_template_args(found),
        cache_salt=found.get("cache_salt", ""),
    )
    if not _EXTRAS.isdisjoint(found):
        request = _with_extras(request, found)
    return GenerationRequest(requests=(request,), **read_delivery(found), ignored=tuple(found.ignored))


def _with_extras(request: Generate, found: Found) -> Generate:
    """With tools, reasoning and what the answer must match. Raises InvalidRequest."""
    tools, tool_choice = read_chat_tools(found)
    return replace(
        request,
        tools=tools,
        tool_choice=tool_choice,
        reasoning=read_reasoning(found),
        constraint=read_constraint(found),
    )


def read_template_args(found: dict[str, Any]) -> dict[str, Any]:
    """`chat_template_kwargs`, `add_generation_prompt` and `continue_final_message`. Raises InvalidRequest."""
    if not found.keys() & {"chat_template_kwargs", "add_generation_prompt", "continue_final_message"}:
        return {}
    args = dict(found.get("chat_template_kwargs", {}))
    for name, value in args.items():
        path = f"chat_template_kwargs.{name[:64]}"
        if name in _RESERVED_ARGS or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,63}", name):
            message = f"{shown(name)} may not be given to the chat template"
            raise InvalidRequest(message, code="invalid_template_args", param=path)
        is_long = isinstance(value, str) and len(value) > 256
        if is_long or not isinstance(value, str | int | float | bool | None):
            message = f"{path} must be a boolean, a number or a string of up to 256 characters"
            raise InvalidRequest(message, code="invalid_template_args", param=path)
    if "add_generation_prompt" in found:
        if "add_generation_prompt" in args:
            message = "add_generation_prompt is given twice: at the top and in chat_template_kwargs"
            raise InvalidRequest(message, code="invalid_value", param="add_generation_prompt")
        args["add_generation_prompt"] = found["add_generation_prompt"]
    if found.get("continue_final_message"):
        if found.get("add_generation_prompt"):
            message = "continue_final_message goes on with a message and add_generation_prompt opens one: give one"
            raise InvalidRequest(message, code="invalid_value", param="continue_final_message")
        args |= {"continue_final_message": True, "add_generation_prompt": False}
    return args


def read_messages(values: list[Any]) -> tuple[Message, ...]:
    """Raises InvalidRequest."""
    if not values:
        raise InvalidRequest("messages is empty", code="missing_field", param="messages")
    messages = []
    may_call = False
    for i, value in enumerate(values):
        if type(value) is dict and len(value) == 2:  # as nearly all are
            role, content = value.get("role"), value.get("content")
            if type(role) is str and role in _TEXT_ROLES and type(content) is str:
                messages.append(Message(role=_TEXT_ROLES[role], content=content))
                continue
        messages.append(_read_message(value, f"messages[{i}]"))
        may_call = True
    if may_call:
        _check_tool_calls(messages)
    return tuple(messages)


def _read_message(value: Any, path: str) -> Message:
    found = read(value, _MESSAGE, path)
    role = found.get("role")
    if role not in ROLES:
        given = shown(role) if isinstance(role, str) else "missing or not a string"
        message = f"{path}.role is {given}: use one of {', '.join(ROLES)}"
        raise InvalidRequest(message, code="invalid_value", param=f"{path}.role")
    name = found.get("name")
    if name is not None and (not name or _CONTROL.search(name)):
        message = f"{path}.name is empty or holds control characters"
        raise InvalidRequest(message, code="invalid_value", param=f"{path}.name")
    calls = tuple(
        _read_tool_call(each, f"{path}.tool_calls[{i}]") for i, each in enumerate(found.get("tool_calls", ()))
    )
    if calls and role != "assistant":
        message = f"{path}.tool_calls: only an assistant calls tools"
        raise InvalidRequest(message, code="invalid_value", param=f"{path}.tool_calls")
    content = found.get("content")
    if content is None and not calls:
        raise InvalidRequest(f"{path}.content must be text, not null", code="invalid_type", param=f"{path}.content")
    parts = read_parts(content, f"{path}.content") if not isinstance(content, str | None) else ()
    return Message(
        role=_TEXT_ROLES.get(role, role),
        content=join_parts(parts) if parts else content,
        parts=parts,
        name=name,
        tool_calls=calls,
        tool_call_id=found.get("tool_call_id"),
        reasoning=found.get("reasoning_content", found.get("reasoning")),
    )


def _read_tool_call(value: Any, path: str) -> ToolCall:
    found = read(value, _TOOL_CALL, path)
    function = read(found["function"], _FUNCTION, f"{path}.function")
    return ToolCall(id=found["id"], name=function["name"], arguments=function["arguments"])


def _check_tool_calls(messages: Sequence[Message]) -> None:
    """Each tool message answers a call that was made before, once."""
    open_ids: set[str] = set()
    for i, message in enumerate(messages):
        open_ids.update(call.id for call in message.tool_calls)
        if message.role == "tool":
            if message.tool_call_id not in open_ids:
                where = f"messages[{i}].tool_call_id"
                text = f"{where} answers no open tool call of an earlier assistant message"
                raise InvalidRequest(text, code="invalid_value", param=where)
            open_ids.discard(message.tool_call_id)
        elif message.tool_call_id is not None:
            where = f"messages[{i}].tool_call_id"
            raise InvalidRequest(f"{where} belongs to tool messages only", code="invalid_value", param=where)


def _read_max_tokens(found: dict[str, Any]) -> int | None:
    old, new = found.get("max_tokens"), found.get("max_completion_tokens")
    if old is not None and new is not None and old != new:
        message = "max_tokens and max_completion_tokens differ: give one"
        raise InvalidRequest(message, code="invalid_value", param="max_tokens")
    return new if old is None else old


def _check_formats(found: dict[str, Any]) -> None:
    if "modalities" in found and found["modalities"] != ["text"]:
        raise InvalidRequest("modalities: only text is supported", code="invalid_value", param="modalities")


class ChatAnswer(Answer):
    """chat.completion and chat.completion.chunk."""

    object = "chat.completion"
    chunk_object = "chat.completion.chunk"

    def __init__(self, body: GenerationRequest, identity: Identity) -> None:
        super().__init__(body, identity)
        self._choices = [_ChatChoice() for _ in range(self._n)]
        # Around the text of a chunk that brings nothing else, as nearly all do.
        self._before_text = [b'{"index":%d,"delta":{"content":' % index for index in range(self._n)]

    def _opening(self) -> list[dict[str, Any]]:
        """The choices of the first chunk: who speaks."""
        return [
            {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            for index in range(len(self._choices))
        ]

    def _add(self, index: int, delta: Delta) -> Any:
        choice = self._choices[index]
        choice.add(delta)
        if not self.body.stream:
            return None
        if not (delta.reasoning or delta.tool_calls or delta.logprobs or delta.finish_reason):
            if not delta.text:
                return None
            if delta.logprobs is None:
                return msgspec.Raw(self._before_text[index] + encode(delta.text) + _AFTER_TEXT)
        return choice.encode_news(index, delta)

    def _whole_choices(self) -> list[dict[str, Any]]:
        has_logprobs = self.body.requests[0].sampling.logprobs is not None
        return [choice.encode(index, has_logprobs) for index, choice in enumerate(self._choices)]


_AFTER_TEXT = b'},"logprobs":null,"finish_reason":null}'


class _ChatChoice(Collected):
    """One choice, whole or in chunks."""

    _num_calls = 0  # sent in chunks

    def encode_news(self, index: int, delta: Delta) -> dict[str, Any]:
        """A Delta as the choice of a chunk, which takes its logprobs along."""
        news: dict[str, Any] = {}
        if delta.reasoning:
            news["reasoning_content"] = news["reasoning"] = delta.reasoning
        if delta.text:
            news["content"] = delta.text
        if delta.tool_calls:
            news["tool_calls"] = encode_calls(delta.tool_calls, self._num_calls)
            self._num_calls += len(delta.tool_calls)
        logprobs = _encode_logprobs(None if delta.logprobs is None else self.take_logprobs())
        choice = {"index": index, "delta": news, "logprobs": logprobs, "finish_reason": delta.finish_reason}
        if delta.finish_reason is not None:
            choice["stop_reason"] = delta.stop
        return choice

    def encode(self, index: int, has_logprobs: bool) -> dict[str, Any]:
        text, reasoning, calls = self.text, self.reasoning, self.tool_calls
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text if text or not (calls or reasoning) else None,
            "refusal": None,
        }
        if reasoning:
            message["reasoning_content"] = message["reasoning"] = reasoning
        if calls:
            message["tool_calls"] = encode_calls(calls)
        return {
            "index": index,
            "message": message,
            "logprobs": _encode_logprobs(self.logprobs if has_logprobs else None),
            "finish_reason": self.finish_reason,
            "stop_reason": self.stop,
        }


def encode_calls(calls: Sequence[ToolCall], first: int | None = None) -> list[dict[str, Any]]:
    """`first`: index of the first call of a chunk."""
    return [
        {
            **({} if first is None else {"index": first + i}),
            "id": call.id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for i, call in enumerate(calls)
    ]


def _encode_logprobs(logprobs: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if logprobs is None:
        return None
    return {"content": [_encode_token(token) for token in logprobs], "refusal": None}


def _encode_token(token: TokenLogprob) -> dict[str, Any]:
    return {**_encode_one(token), "top_logprobs": [_encode_one(each) for each in token.top]}


def _encode_one(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": max(token.logprob, -9999.0), "bytes": list(token.data)}
