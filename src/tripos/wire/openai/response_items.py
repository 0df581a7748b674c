"""The output items of a response (reasoning, message, function call) and the events that build them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tripos.types import Delta, TokenLogprob, ToolCall
from tripos.wire.json import encode
from tripos.wire.openai.functions import own_name

Event = tuple[str, dict[str, Any]]  # type, fields


class OutputItems:
    """Grows with the Deltas. An item is closed when another begins, a call at once."""

    def __init__(self, response_id: str, namespaces: Mapping[str, str] | None = None) -> None:
        """`namespaces`: of the tools that are in one, by the name that the model knows them by."""
        self._namespaces = namespaces or {}
        self._suffix = response_id.removeprefix("resp_")
        self.items: list[dict[str, Any]] = []
        self._text: list[str] = []  # of the open item
        self._logprobs: list[msgspec.Raw] = []
        self._is_open = False

    def add(self, delta: Delta, logprobs: Sequence[TokenLogprob]) -> list[Event]:
        """`logprobs`: of the Delta's tokens, where the client wants them."""
        events = []
        if delta.reasoning:
            events += self._open("reasoning")
            self._text.append(delta.reasoning)
            events.append(self._event("response.reasoning_text.delta", content_index=0, delta=delta.reasoning))
        if delta.text or (logprobs and not delta.reasoning and not delta.tool_calls and self._takes_text):
            events += self._open("message")
            self._text.append(delta.text)
            new = encode_logprobs(logprobs)
            self._logprobs += new
            text = {"content_index": 0, "delta": delta.text, "logprobs": new}
            events.append(self._event("response.output_text.delta", **text))
        for call in delta.tool_calls:
            events += self._call(call)
        return events

    def close(self, status: str = "completed") -> list[Event]:
        """End what is open; an answer without any item gets an empty message."""
        events = [] if self.items else self._open("message")
        if not self._is_open:
            return events
        self._is_open = False
        item, text = self.items[-1], "".join(self._text)
        if item["type"] == "reasoning":
            part: dict[str, Any] = {"type": "reasoning_text", "text": text}
            events.append(self._event("response.reasoning_text.done", content_index=0, text=text))
        else:
            part = {"type": "output_text", "text": text, "annotations": [], "logprobs": self._logprobs}
            done = {"content_index": 0, "text": text, "logprobs": self._logprobs}
            events.append(self._event("response.output_text.done", **done))
        events.append(self._event("response.content_part.done", content_index=0, part=part))
        self.items[-1] = {**item, "status": status, "content": [part]}
        events.append(self._done())
        self._text, self._logprobs = [], []
        return events

    @property
    def _takes_text(self) -> bool:
        """Whether tokens without text of their own, such as the last one, belong to a message."""
        return not self.items or (self._is_open and self.items[-1]["type"] == "message")

    def _open(self, kind: str) -> list[Event]:
        if self._is_open and self.items[-1]["type"] == kind:
            return []
        events = self.close() if self.items else []
        part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        if kind == "reasoning":
            item = {"id": self._id("rs"), "type": kind, "status": "in_progress", "summary": [], "content": []}
        else:
            item = {"id": self._id("msg"), "type": kind, "role": "assistant", "status": "in_progress", "content": []}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._is_open = True
        return [*events, self._added(item), self._event("response.content_part.added", content_index=0, part=part)]

    def _call(self, call: ToolCall) -> list[Event]:
        events = self.close() if self.items else []
        known = {"id": self._id("fc"), "type": "function_call", "call_id": call.id, **self._named(call.name)}
        events.append(self._added({**known, "status": "in_progress", "arguments": ""}))
        events.append(self._event("response.function_call_arguments.delta", delta=call.arguments))
        done = {"name": known["name"], "arguments": call.arguments}
        events.append(self._event("response.function_call_arguments.done", **done))
        self.items[-1] = {**known, "status": "completed", "arguments": call.arguments}
        return [*events, self._done()]

    def _named(self, name: str) -> dict[str, str]:
        """A tool as the client knows it."""
        namespace = self._namespaces.get(name)
        return {"name": name} if namespace is None else {"name": own_name(namespace, name), "namespace": namespace}

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._suffix}" + (f"_{len(self.items)}" if self.items else "")

    def _added(self, item: dict[str, Any]) -> Event:
        self.items.append(item)
        return "response.output_item.added", {"output_index": len(self.items) - 1, "item": item}

    def _done(self) -> Event:
        return "response.output_item.done", {"output_index": len(self.items) - 1, "item": self.items[-1]}

    def _event(self, kind: str, **fields: Any) -> Event:
        return kind, {"item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **fields}


def encode_logprobs(tokens: Sequence[TokenLogprob]) -> list[msgspec.Raw]:
    """As JSON text, which is a tenth of the size: they stay until the item is closed."""
    return [
        msgspec.Raw(encode({**_encode_one(token), "top_logprobs": [_encode_one(each) for each in token.top]}))
        for token in tokens
    ]


def _encode_one(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "logprob": max(token.logprob, -9999.0), "bytes": list(token.data)}
