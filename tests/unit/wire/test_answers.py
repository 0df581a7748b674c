"""In every dialect a stream builds the same text and the same ending as the whole answer, however events come."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos.types import Delta, Event, Finish, FinishReason, Generate, Usage
from tripos.wire.anthropic.messages import MessageAnswer
from tripos.wire.generation import GenerationRequest
from tripos.wire.json import encode
from tripos.wire.ollama.generation import ChatLines, GenerateLines
from tripos.wire.openai.chat import ChatAnswer
from tripos.wire.openai.generation import Identity
from tripos.wire.openai.responses import ResponseAnswer, ResponseRequest

BODY = GenerationRequest(model="m", requests=(Generate(prompt="x"),), stream=True)
IDENTITY = Identity(id="chatcmpl-1", created=1, model="m", system_fingerprint="fp")


def chat(whole: dict[str, Any], stream: list[dict[str, Any]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    choices = [chunk["choices"][0] for chunk in stream]
    text = "".join(choice["delta"].get("content", "") for choice in choices)
    assert choices[0]["delta"]["role"] == "assistant"
    choice = whole["choices"][0]
    return (text, choices[-1]["finish_reason"]), (choice["message"]["content"], choice["finish_reason"])


def message(whole: dict[str, Any], stream: list[dict[str, Any]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    text = "".join(event["delta"]["text"] for event in stream if event["type"] == "content_block_delta")
    assert [event["type"] for event in stream][:3] == ["message_start", "content_block_start", "ping"]
    ending = stream[-2]
    built = text, ending["delta"]["stop_reason"], ending["delta"]["stop_sequence"], ending["usage"]
    return built, (whole["content"][0]["text"], whole["stop_reason"], whole["stop_sequence"], whole["usage"])


def lines(whole: dict[str, Any], stream: list[dict[str, Any]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    def text(line: dict[str, Any]) -> str:
        found: str = line["message"]["content"] if "message" in line else line["response"]
        return found

    assert [line["done"] for line in stream] == [False] * (len(stream) - 1) + [True]
    names = (
        "done_reason",
        "prompt_eval_count",
        "eval_count",
        "total_duration",
        "prompt_eval_duration",
        "eval_duration",
    )
    built = "".join(map(text, stream)), *(stream[-1][name] for name in names)
    return built, (text(whole), *(whole[name] for name in names))


def response(whole: dict[str, Any], stream: list[dict[str, Any]]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    assert [event["sequence_number"] for event in stream] == list(range(len(stream)))
    text = "".join(event["delta"] for event in stream if event["type"] == "response.output_text.delta")
    assert stream[-2]["item"] == whole["output"][0]
    return (text, stream[-1]["response"]), (whole["output"][0]["content"][0]["text"], whole)


Compare = Callable[[dict[str, Any], list[dict[str, Any]]], tuple[tuple[Any, ...], tuple[Any, ...]]]
DIALECTS: dict[str, tuple[Callable[[], Any], Compare]] = {
    "chat": (lambda: ChatAnswer(BODY, IDENTITY), chat),
    "anthropic": (lambda: MessageAnswer("msg_1", "m"), message),
    "ollama chat": (lambda: ChatLines(BODY, "m", "2026"), lines),
    "ollama generate": (lambda: GenerateLines(BODY, "m", "2026"), lines),
    "responses": (
        lambda: ResponseAnswer(ResponseRequest(generation=BODY, messages=()), BODY.requests[0], "resp_1", 1, "m"),
        response,
    ),
}


@st.composite
def batches(draw: st.DrawFn) -> list[list[tuple[int, Event]]]:
    """Deltas, the last with its reason, and a Finish; cut into wake-ups anywhere."""
    texts = draw(st.lists(st.text(max_size=5), min_size=1, max_size=6))
    reason: FinishReason = draw(st.sampled_from(["stop", "length", "content_filter"]))
    stop = draw(st.sampled_from([None, "END", 2])) if reason == "stop" else None
    events: list[tuple[int, Event]] = [(0, Delta(text=text)) for text in texts]
    events.append((0, Delta(text=draw(st.text(max_size=3)), finish_reason=reason, stop=stop)))
    usage = Usage(prompt_tokens=5, cached_tokens=2, output_tokens=len(texts), ttft_s=0.25, queue_s=0.125)
    events.append((0, Finish(reason=reason, usage=usage)))
    cuts = sorted(draw(st.sets(st.integers(1, len(events) - 1))))
    return [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True)]


@pytest.mark.parametrize("name", list(DIALECTS))
@given(batches=batches())
def test_a_stream_builds_the_whole_answer(name: str, batches: list[list[tuple[int, Event]]]) -> None:
    make, compare = DIALECTS[name]
    answer = make()
    sent = [value for batch in batches for value in answer.take(batch)]
    stream = json.loads(encode([*sent, *answer.end(1.0)]))
    built, whole = compare(answer.response(1.0), stream)
    assert built == whole
