"""The events of a stream, without what depends on when each piece was sent.

How many tokens an event carries, whether text, reasoning and the end come in one event, and how choices interleave are
matters of timing. So each event is taken apart into one piece per kind, log-probabilities go before the end of their
choice, and neighbouring pieces that differ in nothing but their text are joined. Kinds, order and all other fields
stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

Event = dict[str, Any]
TEXTS = {"content", "reasoning_content", "reasoning", "text", "delta", "thinking", "response"}
LISTS = {"logprobs"}  # of deltas of the responses API
DELTAS = (("reasoning_content", "reasoning"), ("content",))


class _Different(Exception):
    pass


def parse_events(text: str) -> list[Event]:
    """Server-sent events: {"event": name if any, "data": JSON or text}."""
    events = []
    for block in text.split("\n\n"):
        fields: Event = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields and fields["data"] != "[DONE]":
            fields["data"] = json.loads(fields["data"])
        if fields:
            events.append(fields)
    return events


def parse_lines(text: str) -> list[Event]:
    """Lines of JSON, as events."""
    return [{"data": json.loads(line)} for line in text.splitlines()]


def join(events: list[Event]) -> list[Event]:
    joined: list[Event] = []
    pieces = (piece for whole in _by_choice(_numbered(events)) for piece in _pieces(whole))
    for event in _logprobs_last(pieces):
        merged = _merge(joined[-1], event) if joined and _says(joined[-1]) and _says(event) else None
        if merged is None:
            joined.append(event)
        else:
            joined[-1] = merged
    return joined


def _numbered(events: list[Event]) -> list[Event]:
    """Sequence numbers in words, where they are right."""
    for index, event in enumerate(events):
        if isinstance(event["data"], dict) and event["data"].get("sequence_number") == index:
            event["data"]["sequence_number"] = "<its place>"
    return events


def _by_choice(events: list[Event]) -> list[Event]:
    """What belongs to one choice is brought together."""
    places = [i for i, event in enumerate(events) if _choice(event) is not None]
    ordered = iter(sorted((events[i] for i in places), key=lambda event: _choice(event) or 0))
    return [event if _choice(event) is None else next(ordered) for event in events]


def _choice(event: Event) -> int | None:
    choices = event["data"].get("choices") if isinstance(event["data"], dict) else None
    return choices[0]["index"] if choices else None


def _pieces(event: Event) -> Iterator[Event]:
    data = event["data"]
    if _choice(event) is not None:
        usage = {"usage": "<so far>"} if data.get("usage") else {}
        for choice in _of_choice(data["choices"][0]):
            yield {**event, "data": {**data, "choices": [choice], **usage}}
    elif isinstance(data, dict) and "done" in data:
        for line in _of_line(data):
            yield {**event, "data": line}
    else:
        yield event


def _of_choice(choice: Event) -> Iterator[Event]:
    """Of OpenAI's chat and completions: its texts, its log-probabilities, its end."""
    empty = "" if "text" in choice else {}
    key = "text" if "text" in choice else "delta"
    bare = {**choice, key: empty, "logprobs": None, "finish_reason": None}
    bare.pop("stop_reason", None)
    found = 0
    if choice[key] and (key == "text" or "role" in choice[key]):
        yield {**bare, key: choice[key]}
        found += 1
    elif choice[key]:
        for keys in DELTAS:
            if chosen := {name: choice[key][name] for name in keys if name in choice[key]}:
                yield {**bare, key: chosen}
                found += 1
        for call in choice[key].get("tool_calls", ()):
            yield {**bare, key: {"tool_calls": [call]}}
            found += 1
    if choice.get("logprobs") is not None:
        yield {**bare, "logprobs": choice["logprobs"]}
        found += 1
    if choice["finish_reason"] is not None or not found:
        yield {**choice, key: empty, "logprobs": None}


def _of_line(line: Event) -> Iterator[Event]:
    """Of Ollama: reasoning, text, calls, log-probabilities, the end."""
    bare = {name: line[name] for name in ("model", "created_at")}
    found = 0
    if "message" in line:
        role = {"role": line["message"]["role"], "content": ""}
        for name in ("thinking", "content"):
            if line["message"].get(name):
                yield {**bare, "message": {**role, name: line["message"][name]}, "done": False}
                found += 1
        for call in line["message"].get("tool_calls", ()):
            yield {**bare, "message": {**role, "tool_calls": [call]}, "done": False}
            found += 1
    else:
        for name in ("thinking", "response"):
            if line.get(name):
                yield {**bare, "response": "", name: line[name], "done": False}
                found += 1
    if line.get("logprobs"):
        yield {**bare, "logprobs": line["logprobs"], "done": False}
        found += 1
    if line["done"] or not found:
        emptied = {"message": {**line["message"], "content": ""}} if "message" in line else {"response": ""}
        yield {name: each for name, each in {**line, **emptied}.items() if name != "logprobs"}


def _logprobs_last(events: Iterable[Event]) -> Iterator[Event]:
    """Log-probabilities of a choice as one piece before its end."""
    held: Event | None = None
    for event in events:
        lists = _logprobs(event["data"])
        if held is not None and (_is_end(event["data"]) or _choice(event) != _choice(held)):
            yield held
            held = None
        if lists is None:
            yield event
        elif held is None:
            held = event
        else:
            _extend(_logprobs(held["data"]), lists)
    if held is not None:
        yield held


def _is_end(data: Any) -> bool:
    if not isinstance(data, dict):
        return False
    choices = data.get("choices")
    return bool(choices[0]["finish_reason"] if choices else data.get("done"))


def _logprobs(data: Any) -> Any:
    if not isinstance(data, dict):
        return None
    if data.get("choices"):
        return data["choices"][0]["logprobs"]
    return data.get("logprobs") if "done" in data else None


def _extend(lists: Any, more: Any) -> None:
    if isinstance(lists, list):
        lists += more
    else:
        for name, each in more.items():
            if isinstance(each, list):
                lists[name] += each


def _says(value: Any, key: str = "") -> bool:
    """Whether there is any text of a delta in it."""
    if isinstance(value, dict):
        return any(_says(each, name) for name, each in value.items())
    if isinstance(value, list):
        return any(_says(each) for each in value)
    return isinstance(value, str) and key in TEXTS and bool(value)


def _merge(one: Event, other: Event) -> Event | None:
    """Both as one; None where they differ in more than their text."""
    try:
        merged: Event = _merged(one, other)
    except _Different:
        return None
    return merged


def _merged(one: Any, other: Any, key: str = "") -> Any:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return {name: _merged(one[name], other[name], name) for name in one}
    if isinstance(one, list) and isinstance(other, list) and (key in LISTS or len(one) == len(other)):
        return one + other if key in LISTS else [_merged(*pair) for pair in zip(one, other, strict=True)]
    if isinstance(one, str) and isinstance(other, str) and key in TEXTS:
        return one + other
    if one != other:
        raise _Different
    return one
