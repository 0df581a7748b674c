"""A stage around the dialect's sees text, reasoning and tool calls apart; a plain request costs it nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from itertools import groupby
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.api.speaking import ARGUMENTS, CALL, PARAMETERS, request_of, speaking
from tripos.dialects.lowering import lower
from tripos.dialects.stage import stage
from tripos.errors import InvalidRequest
from tripos.pipeline.chain import chain
from tripos.testing import ScriptedModel
from tripos.types import (
    Call,
    Delta,
    Event,
    Finish,
    Generate,
    Message,
    ReasoningOptions,
    Run,
    Tokenize,
    Tool,
    ToolChoice,
)

HELLO = (Message(role="user", content="Hello?"),)
TOOLS = (Tool(name="get_weather", parameters=PARAMETERS), Tool(name="now"))
TEXT = f"<think>\nHm.\n</think>\n\nLook:\n{CALL}"


async def seen(model: ScriptedModel, request: Any) -> list[Event]:
    """What a stage outside of the dialect's is given."""
    events: list[Event] = []

    async def watch(call: Call, run: Run) -> AsyncGenerator[Event, None]:
        async for event in run(call):
            events.append(event)
            yield event

    async for _ in chain((watch, stage(model.card)), model.run)(Call(id="c", route="", request=request)):
        pass
    return events


async def test_a_stage_sees_text_reasoning_and_calls_apart() -> None:
    events = await seen(speaking(TEXT), Generate(prompt=HELLO, tools=TOOLS))
    deltas = [event for event in events if isinstance(event, Delta)]
    assert "".join(delta.reasoning for delta in deltas) == "Hm."
    assert "".join(delta.text for delta in deltas) == "Look:"
    (call,) = [call for delta in deltas for call in delta.tool_calls]
    assert (call.name, call.arguments) == ("get_weather", ARGUMENTS)
    assert deltas[-1].finish_reason == "tool_calls"
    assert isinstance(events[-1], Finish)
    assert events[-1].reason == "tool_calls"


async def test_hidden_reasoning_does_not_leave_the_stage() -> None:
    request = Generate(prompt=HELLO, reasoning=ReasoningOptions(is_hidden=True))
    deltas = [event for event in await seen(speaking("<think>Hm.</think>Yes."), request) if isinstance(event, Delta)]
    assert "".join(delta.reasoning for delta in deltas) == ""
    assert "".join(delta.text for delta in deltas) == "Yes."


PLAIN = [
    Generate(prompt="x"),
    Generate(prompt=(1, 2)),
    Generate(prompt=HELLO),
    Generate(prompt=HELLO, tools=TOOLS, tool_choice=ToolChoice(mode="none")),
]


@pytest.mark.parametrize("request_", PLAIN)
async def test_events_of_plain_requests_pass_untouched(request_: Generate) -> None:
    model = speaking("Hello.")
    runs: list[Any] = []

    def run(call: Call) -> AsyncGenerator[Event, None]:
        runs.append(model.run(call))
        return runs[-1]

    call = Call(id="c", route="", request=request_)
    events = stage(model.card)(call, run)
    assert events is runs[-1]
    await events.aclose()


async def test_a_prompt_is_counted_with_its_tools() -> None:
    model = speaking("Hello.")
    await seen(model, Tokenize(generate=Generate(prompt=HELLO, tools=TOOLS)))
    counted = model.calls[-1].request
    assert isinstance(counted, Tokenize)
    assert [tool["function"]["name"] for tool in counted.generate.template_tools] == ["get_weather", "now"]


async def test_what_the_dialect_cannot_express_is_refused_before_the_model_is_asked() -> None:
    model = speaking("Hello.", reasoning_dialect="")
    request = Generate(prompt=HELLO, reasoning=ReasoningOptions(is_on=True, required_by="think"))
    with pytest.raises(InvalidRequest, match="think: scripted does not reason"):
        await seen(model, request)
    assert model.calls == []


async def test_a_lowered_request_can_cross_a_process_boundary() -> None:
    model = speaking("Hello.")
    await seen(model, Generate(prompt=HELLO, tools=TOOLS, reasoning=ReasoningOptions(effort="low")))
    lowered = request_of(model)
    assert lowered.reasoning_marks is not None
    assert lowered.reasoning_marks.max_tokens == 1024
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(replace(lowered, prompt="x")), type=Generate)
    assert replace(sent, prompt=lowered.prompt) == lowered


@pytest.mark.parametrize("num_chars", [1, 7, 1000])
def test_text_behind_a_call_keeps_its_place_however_the_text_comes(num_chars: int) -> None:
    text = f"Look:\n{CALL}\nand then\n{CALL}\nthat was it."
    output = lower(Generate(prompt=HELLO, tools=TOOLS), speaking("").card).output()
    assert output is not None
    deltas = [Delta(text=text[at : at + num_chars]) for at in range(0, len(text), num_chars)]
    deltas.append(Delta(finish_reason="stop"))
    kinds = [
        kind
        for delta in deltas
        for parsed in output.parse(delta)
        if isinstance(parsed, Delta)
        for kind in (*["text"] * bool(parsed.text), *("call" for _ in parsed.tool_calls))
    ]
    assert [kind for kind, _ in groupby(kinds)] == ["text", "call", "text", "call", "text"]
