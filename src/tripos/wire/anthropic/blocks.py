"""Content blocks: text, thinking, tool_use and tool_result, in conversations and in answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from tripos.errors import InvalidRequest, shown
from tripos.types import Delta, Message, ToolCall
from tripos.wire.fields import Field, kind_of, read, table
from tripos.wire.json import encode

_CACHE = Field("cache_control", "object", "Prefixes are always reused.", use="met")
_MESSAGE = table(
    Field("role", "string", "", choices=("user", "assistant", "system"), required=True),
    Field("content", "any", "", required=True),
)
_TEXT = table(
    Field("type", "string", "", choices=("text",), required=True),
    Field("text", "string", "", required=True),
    Field("citations", "array", "Of an earlier answer.", use="ignored"),
    _CACHE,
)
_THINKING = table(
    Field("type", "string", "", required=True),
    Field("thinking", "string", "", required=True),
    Field("signature", "string", "", use="ignored"),
    _CACHE,
)
_REDACTED = table(Field("type", "string", "", required=True), Field("data", "string", "", use="ignored"))
_DOCUMENT = table(
    Field("type", "string", "", required=True),
    Field("source", "object", "", required=True),
    Field("title", "string", ""),
    Field("context", "string", ""),
    Field("citations", "object", "", use="ignored"),
    _CACHE,
)
_SOURCES = {
    "text": table(
        Field("type", "string", "", required=True),
        Field("data", "string", "", required=True),
        Field("media_type", "string", "", choices=("text/plain",)),
    ),
    "content": table(Field("type", "string", "", required=True), Field("content", "any", "", required=True)),
}
_USE = table(
    Field("type", "string", "", required=True),
    Field("id", "string", "", max_bytes=256, required=True),
    Field("name", "string", "", max_bytes=256, required=True),
    Field("input", "object", "", required=True),
    Field("caller", "object", "", use="ignored"),
    _CACHE,
)
_RESULT = table(
    Field("type", "string", "", required=True),
    Field("tool_use_id", "string", "", max_bytes=256, required=True),
    Field("content", "any", ""),
    Field("is_error", "boolean", ""),
    _CACHE,
)
_TEXT_KINDS = ("text", "document")
_USER_KINDS = (*_TEXT_KINDS, "tool_result")
_ASSISTANT_KINDS = ("text", "thinking", "redacted_thinking", "tool_use")


def read_conversation(system: Any, values: Sequence[Any]) -> tuple[Message, ...]:
    """System and messages; messages of one role that follow each other are one, as Anthropic has it.

    Raises InvalidRequest.
    """
    if not values:
        raise InvalidRequest("messages is empty", code="missing_field", param="messages")
    messages: list[Message] = []
    if system is not None:
        messages.append(Message(role="system", content=_read_text(system, "system")))
    open_ids: set[str] = set()
    for i, value in enumerate(values):
        path = f"messages[{i}]"
        each = read(value, _MESSAGE, path)
        if each["role"] == "system":
            new = [Message(role="system", content=_read_text(each["content"], f"{path}.content"))]
        elif each["role"] == "user":
            new = _read_user(each["content"], f"{path}.content", open_ids)
        else:
            new = [_read_assistant(each["content"], f"{path}.content")]
            open_ids |= {call.id for call in new[0].tool_calls}
        for message in new:
            _add(messages, message)
    if messages[-1].role == "assistant":
        problem = f"{path}.role is assistant: the last message must be the user's, answers are not begun for the model"
        raise InvalidRequest(problem, code="invalid_value", param=f"{path}.role")
    return tuple(messages)


def _add(messages: list[Message], new: Message) -> None:
    last = messages[-1] if messages else None
    if last is None or last.role != new.role or new.role == "tool":
        messages.append(new)
        return
    texts = [each.content for each in (last, new) if each.content is not None]
    messages[-1] = replace(
        last, content="\n\n".join(texts) if texts else None, tool_calls=(*last.tool_calls, *new.tool_calls)
    )


def _read_user(content: Any, path: str, open_ids: set[str]) -> list[Message]:
    """The results of tools, each a message, then the text."""
    if isinstance(content, str):
        return [Message(role="user", content=content)]
    results, texts = [], []
    for block, where in _blocks(content, path, _USER_KINDS):
        if block["type"] in _TEXT_KINDS:
            texts.append(_read_block(block, where))
            continue
        found = read(block, _RESULT, where)
        if found["tool_use_id"] not in open_ids:
            param = f"{where}.tool_use_id"
            raise InvalidRequest(f"{param} answers no open tool_use block", code="invalid_value", param=param)
        open_ids.discard(found["tool_use_id"])
        text = _read_text(found["content"], f"{where}.content") if found.get("content") else ""
        results.append(Message(role="tool", content=text, tool_call_id=found["tool_use_id"]))
    return results + ([Message(role="user", content="\n\n".join(texts))] if texts else [])


def _read_assistant(content: Any, path: str) -> Message:
    if isinstance(content, str):
        return Message(role="assistant", content=content)
    texts, thoughts, calls = [], [], []
    for block, where in _blocks(content, path, _ASSISTANT_KINDS):
        if block["type"] == "text":
            texts.append(read(block, _TEXT, where)["text"])
        elif block["type"] == "thinking":
            thoughts.append(read(block, _THINKING, where)["thinking"])
        elif block["type"] == "redacted_thinking":
            read(block, _REDACTED, where)
        else:
            found = read(block, _USE, where)
            calls.append(ToolCall(id=found["id"], name=found["name"], arguments=encode(found["input"]).decode()))
    return Message(
        role="assistant",
        content="\n\n".join(texts) if texts or not calls else None,
        tool_calls=tuple(calls),
        reasoning="\n\n".join(thoughts) or None,
    )


def _read_text(content: Any, path: str) -> str:
    """Text, or text blocks as paragraphs."""
    if isinstance(content, str):
        return content
    return "\n\n".join(_read_block(block, where) for block, where in _blocks(content, path, _TEXT_KINDS))


def _read_block(block: dict[str, Any], path: str) -> str:
    """The text of a text block, or of a document with what is said of it in front."""
    if block["type"] == "text":
        text: str = read(block, _TEXT, path)["text"]
        return text
    found = read(block, _DOCUMENT, path)
    kind = found["source"].get("type")
    where = f"{path}.source"
    if not isinstance(kind, str) or kind not in _SOURCES:
        given = shown(kind) if isinstance(kind, str) else kind_of(kind)
        message = f"{where}.type is {given}: this server reads documents as text: send a source of type text"
        raise InvalidRequest(message, code="invalid_value", param=f"{where}.type")
    source = found.inner("source", _SOURCES[kind])
    body = source["data"] if kind == "text" else _read_text(source["content"], f"{where}.content")
    return "\n".join(part for part in (found.get("title"), found.get("context"), body) if part)


def _blocks(content: Any, path: str, kinds: tuple[str, ...]) -> list[tuple[dict[str, Any], str]]:
    """Blocks of known kinds with their paths."""
    if not isinstance(content, list) or not content:
        message = f"{path} must be text or a list of blocks that is not empty, not {kind_of(content)}"
        raise InvalidRequest(message, code="invalid_type", param=path)
    found = []
    for i, block in enumerate(content):
        where = f"{path}[{i}]"
        kind = block.get("type") if isinstance(block, dict) else None
        if not isinstance(kind, str):
            read(block, _TEXT, where)  # says what is missing
        if kind not in kinds:
            message = f"{where}.type is {shown(str(kind))}: this server reads {', '.join(kinds)} blocks here"
            raise InvalidRequest(message, code="invalid_value", param=f"{where}.type")
        found.append((block, where))
    return found


class Blocks:
    """The blocks of an answer, and the events that build them. A block ends when another begins."""

    def __init__(self) -> None:
        self.blocks: list[dict[str, Any]] = []
        self._texts: list[str] = []  # of the open block
        self._is_open = False

    def add(self, delta: Delta) -> list[dict[str, Any]]:
        events = []
        reasoning, text = delta.reasoning, delta.text
        if reasoning:
            opening = {"type": "thinking", "thinking": "", "signature": ""}
            events += self._extend(opening, reasoning, {"type": "thinking_delta", "thinking": reasoning})
        if text:
            events += self._extend({"type": "text", "text": ""}, text, {"type": "text_delta", "text": text})
        for call in delta.tool_calls:
            events += [*self._end(), *self._open({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})]
            events.append(self._delta({"type": "input_json_delta", "partial_json": call.arguments}))
            self.blocks[-1]["input"] = json.loads(call.arguments)
        return events

    def close(self) -> list[dict[str, Any]]:
        """End what is open; an answer without any block gets an empty text."""
        opening = [] if self.blocks else self._open({"type": "text", "text": ""})
        return [*opening, *self._end()]

    def _extend(self, opening: dict[str, Any], text: str, delta: dict[str, Any]) -> list[dict[str, Any]]:
        is_same = self._is_open and self.blocks[-1]["type"] == opening["type"]
        events = [] if is_same else [*self._end(), *self._open(opening)]
        self._texts.append(text)
        return [*events, self._delta(delta)]

    def _open(self, block: dict[str, Any]) -> list[dict[str, Any]]:
        self.blocks.append(dict(block))
        self._is_open = True
        return [{"type": "content_block_start", "index": len(self.blocks) - 1, "content_block": block}]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": len(self.blocks) - 1, "delta": delta}

    def _end(self) -> list[dict[str, Any]]:
        if not self._is_open:
            return []
        self._is_open = False
        block = self.blocks[-1]
        stop: dict[str, Any] = {"type": "content_block_stop", "index": len(self.blocks) - 1}
        text, self._texts = "".join(self._texts), []
        if block["type"] == "text":
            block["text"] = text
        elif block["type"] == "thinking":
            block["thinking"], block["signature"] = text, _sign(text)
            return [self._delta({"type": "signature_delta", "signature": block["signature"]}), stop]
        return [stop]


def _sign(text: str) -> str:
    """Clients leave a block without a signature out of the history. Nobody here asks for what it says."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
