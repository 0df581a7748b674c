"""In every protocol a stream builds the same reasoning, text and calls as the whole answer, however the text is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.api.speaking import apart
from tripos.dialects.hermes import HERMES
from tripos.dialects.output import CallOutput, OutputFormat
from tripos.types import Delta, Event, Finish, FinishReason, Generate, Usage
from tripos.wire.anthropic.messages import MessageAnswer
from tripos.wire.generation import GenerationRequest
from tripos.wire.json import encode
from tripos.wire.ollama.generation import ChatLines
from tripos.wire.openai.chat import ChatAnswer
from tripos.wire.openai.generation import Identity
from tripos.wire.openai.responses import ResponseAnswer, ResponseRequest

FORMAT = OutputFormat(dialect=HERMES, tool_names=("f", "g"), call_salt="s")
BODY = GenerationRequest(model="m", requests=(Generate(prompt="x"),), stream=True)
IDENTITY = Identity(id="chatcmpl-1", created=1, model="m", system_fingerprint="fp")
PIECES = [
    "<think>", "</think>", "Hm. ", "\n\n", "Yes.", "<tool_call>", "</tool_call>", "{", "<", "🙂",
    '{"name": "f", "arguments": {"a": "<b>"}}', '{"name": "g"}', '{"name": "h"}',
]  # fmt: skip


class Seen(NamedTuple):
    """What a client makes of an answer."""

    reasoning: str
    text: str
    calls: list[tuple[str, str, Any]]  # id, name, arguments
    reason: str


def chat_whole(body: dict[str, Any]) -> Seen:
    choice = body["choices"][0]
    message = choice["message"]
    calls = [
        (c["id"], c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls", ())
    ]
    return Seen(message.get("reasoning_content", ""), message["content"] or "", calls, choice["finish_reason"])


def chat_built(chunks: list[dict[str, Any]]) -> Seen:
    choices = [chunk["choices"][0] for chunk in chunks]
    deltas = [choice["delta"] for choice in choices]
    made: dict[int, list[str]] = {}
    for call in (call for delta in deltas for call in delta.get("tool_calls", ())):
        known = made.setdefault(call["index"], [call.get("id", ""), call["function"].get("name", ""), ""])
        known[2] += call["function"]["arguments"]
    assert list(made) == list(range(len(made)))
    return Seen(
        "".join(delta.get("reasoning_content", "") for delta in deltas),
        "".join(delta.get("content", "") for delta in deltas),
        [(id, name, json.loads(arguments)) for id, name, arguments in made.values()],
        choices[-1]["finish_reason"],
    )


def responses_whole(body: dict[str, Any]) -> Seen:
    items = body["output"]
    return Seen(
        "".join(part["text"] for item in items if item["type"] == "reasoning" for part in item["content"]),
        "".join(part["text"] for item in items if item["type"] == "message" for part in item["content"]),
        [(i["call_id"], i["name"], json.loads(i["arguments"])) for i in items if i["type"] == "function_call"],
        body["status"],
    )


def responses_built(events: list[dict[str, Any]]) -> Seen:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    made: dict[str, list[str]] = {}
    for event in events:
        if event["type"] == "response.output_item.added" and event["item"]["type"] == "function_call":
            made[event["item"]["id"]] = [event["item"]["call_id"], event["item"]["name"], ""]
        elif event["type"] == "response.function_call_arguments.delta":
            made[event["item_id"]][2] += event["delta"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]
    return Seen(
        "".join(event["delta"] for event in events if event["type"] == "response.reasoning_text.delta"),
        "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta"),
        [(id, name, json.loads(arguments)) for id, name, arguments in made.values()],
        events[-1]["response"]["status"],
    )


def anthropic_whole(body: dict[str, Any]) -> Seen:
    blocks = body["content"]
    return Seen(
        "".join(block["thinking"] for block in blocks if block["type"] == "thinking"),
        "".join(block["text"] for block in blocks if block["type"] == "text"),
        [(block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"],
        body["stop_reason"],
    )


def anthropic_built(events: list[dict[str, Any]]) -> Seen:
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    starts = {e["index"]: e["content_block"] for e in events if e["type"] == "content_block_start"}
    stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stops == list(starts) == list(range(len(starts)))
    calls = []
    for index, block in starts.items():
        if block["type"] == "tool_use":
            mine = [e["delta"] for e in events if e["type"] == "content_block_delta" and e["index"] == index]
            calls.append((block["id"], block["name"], json.loads("".join(delta["partial_json"] for delta in mine))))
    return Seen(
        "".join(delta.get("thinking", "") for delta in deltas),
        "".join(delta.get("text", "") for delta in deltas),
        calls,
        next(event["delta"]["stop_reason"] for event in events if event["type"] == "message_delta"),
    )


def ollama_seen(lines: list[dict[str, Any]]) -> Seen:
    messages = [line["message"] for line in lines]
    calls = [call for message in messages for call in message.get("tool_calls", ())]
    return Seen(
        "".join(message.get("thinking", "") for message in messages),
        "".join(message["content"] for message in messages),
        [(call["id"], call["function"]["name"], call["function"]["arguments"]) for call in calls],
        lines[-1]["done_reason"],
    )


PROTOCOLS: dict[str, tuple[Callable[[], Any], Callable[[Any], Seen], Callable[[Any], Seen]]] = {
    "chat": (lambda: ChatAnswer(BODY, IDENTITY), chat_whole, chat_built),
    "responses": (
        lambda: ResponseAnswer(ResponseRequest(generation=BODY, messages=()), BODY.requests[0], "resp_1", 1, "m"),
        responses_whole,
        responses_built,
    ),
    "anthropic": (lambda: MessageAnswer("msg_1", "m"), anthropic_whole, anthropic_built),
    "ollama": (lambda: ChatLines(BODY, "m", "2026"), lambda body: ollama_seen([body]), ollama_seen),
}  # fmt: skip


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[list[tuple[int, Event]]], list[tuple[int, Event]]]:
    """A text in pieces, cut into wake-ups anywhere; and the same text at once."""
    text = "".join(draw(st.lists(st.sampled_from(PIECES), max_size=8)))
    cuts = sorted(draw(st.sets(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    reason: FinishReason = draw(st.sampled_from(["stop", "length"]))
    in_reasoning = draw(st.booleans())
    ending: list[tuple[int, Event]] = [(0, Finish(reason=reason, usage=Usage(prompt_tokens=5, output_tokens=3)))]
    events = [*_events(pieces, in_reasoning, reason), *ending]
    wakes = sorted(draw(st.sets(st.integers(1, len(events)))))
    batches = [events[a:b] for a, b in zip([0, *wakes], [*wakes, len(events)], strict=True)]
    return batches, [*_events([text], in_reasoning, reason), *ending]


def _events(pieces: list[str], in_reasoning: bool, reason: FinishReason) -> list[tuple[int, Event]]:
    """What the door gets of a text that the model says in these pieces."""
    parts = apart(pieces, in_reasoning)
    deltas = [Delta(text=text, reasoning=reasoning) for reasoning, text in parts]
    deltas[-1] = replace(deltas[-1], finish_reason=reason)
    output = CallOutput(FORMAT, 1)
    return [(0, parsed) for delta in deltas for parsed in output.parse(delta)]


@pytest.mark.parametrize("name", list(PROTOCOLS))
@given(drawn=answers())
def test_a_stream_builds_the_whole_answer(
    name: str, drawn: tuple[list[list[tuple[int, Event]]], list[tuple[int, Event]]]
) -> None:
    make, see_whole, see_built = PROTOCOLS[name]
    batches, at_once = drawn
    answer, other = make(), make()
    sent = [value for batch in batches for value in answer.take(batch)]
    sent += answer.end(1.0)
    other.take(at_once)
    whole = see_whole(json.loads(encode(other.response(1.0))))
    assert see_built(json.loads(encode(sent))) == whole
    assert see_whole(json.loads(encode(answer.response(1.0)))) == whole
    if whole.calls and name == "chat":
        assert whole.reason in ("tool_calls", "length")
