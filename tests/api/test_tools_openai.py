"""The official OpenAI client calls tools and sees reasoning apart: chat completions, whole and streamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import openai
import pytest

from tests.api.running import HELLO, TinyModel, running
from tests.api.speaking import ARGUMENTS, CALL, PARAMETERS, SECOND, request_of, speaking

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "description": "Weather.", "parameters": PARAMETERS}},
    {"type": "function", "function": {"name": "now"}},
]
ASKED: dict[str, Any] = {"model": "scripted", "messages": HELLO, "tools": TOOLS}


async def test_a_call_comes_whole() -> None:
    async with running(speaking("I look. " + CALL)) as server:
        done = await server.openai.chat.completions.create(**ASKED)
    choice = done.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "I look."
    (call,) = choice.message.tool_calls or ()
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("get_weather", ARGUMENTS)
    assert call.id.startswith("call_")


async def test_a_stream_builds_the_calls_that_the_whole_answer_holds() -> None:
    async with running(speaking(f"{CALL}\n{SECOND}")) as server:
        stream = await server.openai.chat.completions.create(
            **ASKED, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    pieces = [call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or ()]
    assert [piece.index for piece in pieces] == [0, 1]
    assert all(piece.id and piece.type == "function" for piece in pieces)
    arguments = [piece.function.arguments for piece in pieces if piece.function]
    assert [json.loads(each or "") for each in arguments] == [json.loads(ARGUMENTS), {}]
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "tool_calls"
    assert not "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert chunks[-1].usage is not None


async def test_the_clients_own_stream_accumulates_the_call() -> None:
    async with running(speaking(CALL)) as server, server.openai.chat.completions.stream(**ASKED) as stream:
        done = await stream.get_final_completion()
    (call,) = done.choices[0].message.tool_calls or ()
    assert call.function.arguments == ARGUMENTS


async def test_sync_client_calls_and_goes_on_with_the_result() -> None:
    model = speaking(CALL)

    def talk(url: str) -> str:
        with openai.OpenAI(base_url=url + "/v1", api_key="none", http_client=httpx.Client(trust_env=False)) as client:
            first = client.chat.completions.create(**ASKED).choices[0].message
            (call,) = first.tool_calls or ()
            result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
            streamed = client.chat.completions.create(
                **{**ASKED, "messages": [*HELLO, first.model_dump(exclude_none=True), result]}, stream=True
            )
            return "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)

    async with running(model) as server:
        await asyncio.to_thread(talk, server.url)
    _user, assistant, tool = request_of(model).prompt
    assert assistant.tool_calls[0].arguments == ARGUMENTS  # type: ignore[union-attr]
    assert (tool.role, tool.content, tool.tool_call_id) == ("tool", "sunny", assistant.tool_calls[0].id)  # type: ignore[union-attr]


async def test_each_choice_has_calls_of_its_own() -> None:
    async with running(speaking(CALL, "No.", SECOND)) as server:
        done = await server.openai.chat.completions.create(**ASKED, n=3)
        stream = await server.openai.chat.completions.create(**ASKED, n=3, stream=True)
        chunks = [chunk async for chunk in stream]
    names = [[call.function.name for call in choice.message.tool_calls or ()] for choice in done.choices]  # type: ignore[union-attr]
    assert names == [["get_weather"], [], ["now"]]
    assert [choice.finish_reason for choice in done.choices] == ["tool_calls", "stop", "tool_calls"]
    ids = [call.id for choice in done.choices for call in choice.message.tool_calls or ()]
    assert len(set(ids)) == 2
    streamed = [(c.choices[0].index, call.index) for c in chunks for call in c.choices[0].delta.tool_calls or ()]
    assert streamed == [(0, 0), (2, 0)]


async def test_logprobs_come_with_calls() -> None:
    async with running(speaking(CALL)) as server:
        done = await server.openai.chat.completions.create(**ASKED, logprobs=True)
        stream = await server.openai.chat.completions.create(**ASKED, logprobs=True, stream=True)
        chunks = [chunk async for chunk in stream]
    whole = done.choices[0].logprobs
    assert whole is not None
    assert "".join(token.token for token in whole.content or ()) == CALL
    streamed = [token for c in chunks if c.choices[0].logprobs for token in c.choices[0].logprobs.content or ()]
    assert "".join(token.token for token in streamed) == CALL


async def test_a_call_that_is_cut_off_is_text() -> None:
    async with running(speaking(CALL[:-20], reason="length")) as server:
        done = await server.openai.chat.completions.create(**ASKED)
    assert done.choices[0].finish_reason == "length"
    assert done.choices[0].message.tool_calls is None
    assert done.choices[0].message.content == CALL[:-20]


CHOICES: list[tuple[Any, tuple[str, ...] | None]] = [
    ("none", None),
    ("auto", ("get_weather", "now")),
    ("required", ("get_weather", "now")),
    ({"type": "function", "function": {"name": "now"}}, ("now",)),
    (
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]},
        },
        ("now",),
    ),
]


@pytest.mark.parametrize(("choice", "callable_names"), CHOICES)
async def test_the_choice_decides_what_can_be_called(choice: Any, callable_names: tuple[str, ...] | None) -> None:
    model = speaking("Hello.")
    async with running(model) as server:
        await server.openai.chat.completions.create(**ASKED, tool_choice=choice)
    request = request_of(model)
    if callable_names is None:
        assert (request.template_tools, request.constraint) == ((), None)
        return
    assert [tool["function"]["name"] for tool in request.template_tools] == ["get_weather", "now"]
    assert request.constraint is not None
    assert all((f'"{name}' in request.constraint.source) == (name in callable_names) for name in ("get_weather", "now"))
    assert ("TEXT" in request.constraint.source) == (choice == "auto")


async def test_calls_of_one_answer_can_be_limited_to_one() -> None:
    model = speaking("Hello.")
    async with running(model) as server:
        for is_parallel in (True, False):
            await server.openai.chat.completions.create(**ASKED, parallel_tool_calls=is_parallel)
            constraint = request_of(model).constraint
            assert constraint is not None
            assert ("call){" in constraint.source) == is_parallel


@pytest.mark.parametrize("in_reasoning", [False, True])
async def test_reasoning_is_split_off(in_reasoning: bool) -> None:
    text = ("" if in_reasoning else "<think>") + "\nHm, Paris.\n</think>\n\nYes. " + CALL
    async with running(speaking(text, in_reasoning=in_reasoning)) as server:
        done = await server.openai.chat.completions.create(**ASKED)
        stream = await server.openai.chat.completions.create(**ASKED, stream=True)
        chunks = [chunk async for chunk in stream]
    message: Any = done.choices[0].message
    assert (message.reasoning_content, message.reasoning, message.content) == ("Hm, Paris.", "Hm, Paris.", "Yes.")
    assert message.tool_calls[0].function.arguments == ARGUMENTS
    assert done.usage is not None
    assert done.usage.completion_tokens_details is not None
    assert done.usage.completion_tokens_details.reasoning_tokens == 5
    deltas: list[Any] = [chunk.choices[0].delta for chunk in chunks]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Hm, Paris."
    assert "".join(delta.content or "" for delta in deltas) == "Yes."


async def test_reasoning_can_be_left_out() -> None:
    async with running(speaking("<think>Hm.</think>Yes.")) as server:
        done = await server.openai.chat.completions.create(
            model="scripted", messages=HELLO, extra_body={"include_reasoning": False}
        )
    message: Any = done.choices[0].message
    assert message.content == "Yes."
    assert not hasattr(message, "reasoning_content")


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning_effort": "minimal"}, 512),
        ({"reasoning_effort": "low"}, 1024),
        ({"reasoning_effort": "medium"}, 4096),
        ({"reasoning_effort": "high"}, None),
        ({"thinking_token_budget": 7}, 7),
        ({"thinking_token_budget": 7, "reasoning_effort": "high"}, 7),
    ],
)
async def test_effort_and_budget_bound_the_reasoning(fields: dict[str, Any], max_tokens: int | None) -> None:
    model = speaking("Hello.", reasoning_switch="enable_thinking")
    async with running(model) as server:
        await server.openai.chat.completions.create(model="scripted", messages=HELLO, extra_body=fields)
    request = request_of(model)
    assert request.reasoning_marks is not None
    assert (request.reasoning_marks.end, request.reasoning_marks.max_tokens) == ("</think>", max_tokens)
    assert request.template_args == ({"enable_thinking": False} if max_tokens == 0 else {})


async def test_a_model_that_does_not_reason_is_left_alone() -> None:
    model = speaking("<think>", reasoning_dialect="")
    async with running(model) as server:
        done = await server.openai.chat.completions.create(model="scripted", messages=HELLO, reasoning_effort="low")
    assert done.choices[0].message.content == "<think>"
    assert request_of(model).reasoning_marks is None


async def test_a_template_without_tools_has_them_spelled_out() -> None:
    model = speaking('{"name": "get_weather", "arguments": ' + ARGUMENTS + "}", tool_dialect="json")
    async with running(model) as server:
        done = await server.openai.chat.completions.create(**ASKED)
        (call,) = done.choices[0].message.tool_calls or ()
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        earlier: Any = done.choices[0].message.model_dump(exclude_none=True)
        await server.openai.chat.completions.create(**{**ASKED, "messages": [*HELLO, earlier, result]})
    request = request_of(model)
    assert request.template_tools == ()
    system, _user, assistant, told = request.prompt
    assert '"get_weather"' in system.content
    assert "Weather." in system.content
    assert assistant.content == '{"name": "get_weather", "arguments": ' + ARGUMENTS + "}"  # type: ignore[union-attr]
    assert (told.role, told.content) == ("user", "Result of get_weather: sunny")  # type: ignore[union-attr]


async def test_what_must_call_calls_with_the_real_engine() -> None:
    """The scripted executor draws letters; the grammar makes them a call."""
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    async with running(TinyModel(window=2048)) as server:
        asked: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "tools": tools}
        for stream in (False, True):
            done: Any = await server.openai.chat.completions.create(
                **asked, tool_choice="required", stream=stream, seed=1
            )
            if stream:
                chunks = [chunk async for chunk in done]
                calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
            else:
                calls = done.choices[0].message.tool_calls
            assert calls
            assert all(json.loads(call.function.arguments)["city"] in ("Paris", "Rome") for call in calls)


@pytest.mark.parametrize(
    "piece", ["<tool_call>", '<tool_call>{"name": ', '<tool_call>{"name": "get_weather", "arguments": [', "[{"]
)
async def test_hostile_output_is_text(piece: str) -> None:
    text = piece * 2000
    async with running(speaking(text, size=50)) as server:
        done = await server.openai.chat.completions.create(**ASKED)
        stream = await server.openai.chat.completions.create(**ASKED, stream=True)
        streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert done.choices[0].message.content == streamed == text
    assert done.choices[0].finish_reason == "stop"


async def test_an_answer_that_must_be_json_goes_together_with_tools_where_they_can_be_told_apart() -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "properties": {}}}}
    model = speaking("{}")
    async with running(model) as server:
        done = await server.openai.chat.completions.create(**ASKED, response_format=form)
        assert done.choices[0].message.content == "{}"
        constraint = request_of(model).constraint
        assert constraint is not None
        assert "answer: %json" in constraint.source
        assert "get_weather" in constraint.source
    async with running(speaking("{}", tool_dialect="json")) as server:
        with pytest.raises(openai.BadRequestError, match="told apart"):
            await server.openai.chat.completions.create(**ASKED, response_format=form)


async def test_a_custom_tool_beside_functions_is_left_out_and_named() -> None:
    custom = {"type": "custom", "custom": {"name": "patch"}}
    model = speaking("Hello.")
    async with running(model) as server:
        response = await server.post("/v1/chat/completions", {**ASKED, "tools": [*ASKED["tools"], custom]})
    assert response.status_code == 200
    assert response.headers["x-tripos-ignored"] == "tools[].custom.patch"
    assert [tool["function"]["name"] for tool in request_of(model).template_tools] == ["get_weather", "now"]
