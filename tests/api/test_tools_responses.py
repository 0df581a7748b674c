"""The official OpenAI client calls tools and sees reasoning through responses, whole and as typed events."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from tests.api.running import running
from tests.api.speaking import ARGUMENTS, CALL, PARAMETERS, SECOND, request_of, speaking

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOOLS: list[Any] = [
    {"type": "function", "name": "get_weather", "description": "Weather.", "parameters": PARAMETERS, "strict": True},
    {"type": "function", "name": "now", "parameters": None, "strict": None},
]
ASKED: dict[str, Any] = {"model": "scripted", "input": "Hello?", "tools": TOOLS}


async def test_reasoning_text_and_calls_are_items() -> None:
    text = f"<think>\nHm.\n</think>\n\nI look.\n{CALL}\n{SECOND}"
    async with running(speaking(text)) as server:
        done = await server.openai.responses.create(**ASKED)
    assert [item.type for item in done.output] == ["reasoning", "message", "function_call", "function_call"]
    reasoning, _message, call, second = done.output
    assert reasoning.type == "reasoning"
    assert (reasoning.content or [])[0].text == "Hm."
    assert done.output_text == "I look."
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("get_weather", ARGUMENTS)
    assert second.type == "function_call"
    assert second.arguments == "{}"
    assert call.call_id != second.call_id
    assert (done.status, done.usage and done.usage.output_tokens_details.reasoning_tokens) == ("completed", 5)
    assert [tool.name for tool in done.tools if tool.type == "function"] == ["get_weather", "now"]


async def test_events_build_the_items() -> None:
    async with running(speaking(f"<think>Hm.</think>\nI look. {CALL}")) as server:
        stream = await server.openai.responses.create(**ASKED, stream=True)
        events = [event async for event in stream]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = list(dict.fromkeys(event.type for event in events))
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "Hm."
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == "I look."
    assert "".join(e.delta for e in events if e.type == "response.function_call_arguments.delta") == ARGUMENTS
    done = [event.item for event in events if event.type == "response.output_item.done"]
    completed = events[-1]
    assert completed.type == "response.completed"
    assert [item.model_dump() for item in done] == [item.model_dump() for item in completed.response.output]
    added = [event for event in events if event.type == "response.output_item.added"]
    assert [event.output_index for event in added] == [0, 1, 2]


async def test_the_clients_own_stream_accumulates_the_call() -> None:
    async with running(speaking(CALL)) as server, server.openai.responses.stream(**ASKED) as stream:
        async for _ in stream:
            pass
        done = await stream.get_final_response()
    (call,) = done.output
    assert call.type == "function_call"
    assert json.loads(call.arguments) == json.loads(ARGUMENTS)


@pytest.mark.parametrize("is_stored", [True, False])
async def test_an_output_goes_on_from_its_call(is_stored: bool) -> None:
    model = speaking(f"<think>Hm.</think>Look: {CALL}")
    async with running(model) as server:
        first = await server.openai.responses.create(**ASKED, store=is_stored)
        call = next(item for item in first.output if item.type == "function_call")
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        if is_stored:
            asked = {**ASKED, "input": [output], "previous_response_id": first.id}
        else:
            earlier = [item.model_dump(exclude_none=True) for item in first.output]
            asked = {**ASKED, "input": [{"role": "user", "content": "Hello?"}, *earlier, output]}
        await server.openai.responses.create(**asked)
    user, assistant, tool = request_of(model).prompt
    assert user.content == "Hello?"  # type: ignore[union-attr]
    assert (assistant.content, assistant.reasoning) == ("Look:", "Hm.")  # type: ignore[union-attr]
    assert assistant.tool_calls[0].arguments == ARGUMENTS  # type: ignore[union-attr]
    assert (tool.role, tool.content, tool.tool_call_id) == ("tool", "sunny", call.call_id)  # type: ignore[union-attr]


async def test_the_choice_and_the_effort_reach_the_model() -> None:
    model = speaking("Hello.")
    async with running(model) as server:
        choice: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "now"}]}
        done = await server.openai.responses.create(**ASKED, tool_choice=choice, reasoning={"effort": "low"})
        assert done.reasoning is not None
        assert done.reasoning.effort == "low"
        constraint, reasoning = request_of(model).constraint, request_of(model).reasoning_marks
        assert constraint is not None
        assert "now" in constraint.source
        assert "get_weather" not in constraint.source
        assert reasoning is not None
        assert reasoning.max_tokens == 1024
        await server.openai.responses.create(**ASKED, tool_choice={"type": "function", "name": "now"})
        constraint = request_of(model).constraint
        assert constraint is not None
        assert "TEXT" not in constraint.source


async def test_an_answer_cut_off_is_incomplete_and_holds_no_half_call() -> None:
    async with running(speaking("Look: " + CALL[:-20], reason="length")) as server:
        done = await server.openai.responses.create(**ASKED)
    assert done.status == "incomplete"
    assert [item.type for item in done.output] == ["message"]


async def test_an_output_without_its_call_is_refused() -> None:
    async with running(speaking("x")) as server:
        with pytest.raises(openai.BadRequestError, match="c1"):
            await server.openai.responses.create(
                model="scripted", input=[{"type": "function_call_output", "call_id": "c1", "output": "x"}]
            )


SPACE: dict[str, Any] = {
    "type": "namespace", "name": "crm", "description": "Customers.",
    "tools": [{"type": "function", "name": "find", "parameters": PARAMETERS}],
}  # fmt: skip
FIND = CALL.replace("get_weather", "crm__find")


async def test_a_namespace_is_flat_to_the_model_and_itself_to_the_client() -> None:
    model = speaking(FIND)
    async with running(model) as server:
        asked: dict[str, Any] = {"model": "scripted", "input": "Hello?", "tools": [SPACE]}
        done = await server.openai.responses.create(**asked)
        (call,) = done.output
        assert call.type == "function_call"
        assert (call.namespace, call.name, call.arguments) == ("crm", "find", ARGUMENTS)
        stream = await server.openai.responses.create(**asked, stream=True)
        events = [event async for event in stream]
        made = [event.item for event in events if event.type == "response.output_item.done"]
        assert [(item.namespace, item.name) for item in made if item.type == "function_call"] == [("crm", "find")]
        (named,) = [event.name for event in events if event.type == "response.function_call_arguments.done"]
        assert named == "find"
        output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Ann"}
        history: Any = [{"role": "user", "content": "Hello?"}, call.model_dump(), output]
        await server.openai.responses.create(**{**asked, "input": history})
    request = request_of(model)
    assert [tool["function"]["name"] for tool in request.template_tools] == ["crm__find"]
    assert request.prompt[1].tool_calls[0].name == "crm__find"  # type: ignore[union-attr]
    assert request.prompt[2].content == "Ann"  # type: ignore[union-attr]


async def test_tools_of_two_namespaces_may_have_one_name() -> None:
    model = speaking("Hello.")
    other = {**SPACE, "name": "shop"}
    async with running(model) as server:
        await server.openai.responses.create(model="scripted", input="Hello?", tools=[SPACE, other])  # type: ignore[list-item]
    assert [tool["function"]["name"] for tool in request_of(model).template_tools] == ["crm__find", "shop__find"]


async def test_a_name_too_long_with_its_namespace_goes_alone() -> None:
    long = {**SPACE, "name": "n" * 60}
    model = speaking(CALL.replace("get_weather", "find"))
    async with running(model) as server:
        done = await server.openai.responses.create(model="scripted", input="Hello?", tools=[long])  # type: ignore[list-item]
    (call,) = done.output
    assert call.type == "function_call"
    assert (call.namespace, call.name) == ("n" * 60, "find")


async def test_tools_that_only_others_run_are_left_out_beside_functions_and_named() -> None:
    custom = {"type": "custom", "name": "apply_patch", "format": {"type": "text"}}
    space = {**SPACE, "tools": [*SPACE["tools"], custom]}
    model = speaking("Hello.")
    async with running(model) as server:
        body = {"model": "scripted", "input": "Hello?", "tools": [{"type": "web_search"}, *TOOLS, custom, space]}
        response = await server.post("/v1/responses", body)
    assert response.status_code == 200
    named = response.headers["x-tripos-ignored"].split(", ")
    assert named == ["tools[].web_search", "tools[].custom.apply_patch", "tools[].tools[].custom.apply_patch"]
    names = [tool["function"]["name"] for tool in request_of(model).template_tools]
    assert names == ["get_weather", "now", "crm__find"]


async def test_a_client_with_no_function_at_all_is_told_so() -> None:
    async with running(speaking("Hello.")) as server:
        with pytest.raises(openai.BadRequestError, match=r"tools\[0\].type is 'web_search': only tools"):
            await server.openai.responses.create(model="scripted", input="Hello?", tools=[{"type": "web_search"}])


async def test_items_of_stored_responses_may_be_sent_as_references() -> None:
    """As the AI SDK does for all that it was answered."""
    model = speaking(f"<think>Hm.</think>Look: {FIND}")
    async with running(model) as server:
        asked: dict[str, Any] = {"model": "scripted", "tools": [SPACE]}
        first = await server.openai.responses.create(**asked, input="Hello?")
        call_id = next(item.call_id for item in first.output if item.type == "function_call")
        references: list[Any] = [{"type": "item_reference", "id": item.id} for item in first.output]
        earlier = (await server.openai.responses.input_items.list(first.id)).data[0]
        output = {"type": "function_call_output", "call_id": call_id, "output": "sunny"}
        history: Any = [{"id": earlier.id}, *references, output]
        second = await server.openai.responses.create(**asked, input=history)
    user, assistant, tool = request_of(model).prompt
    assert user.content == "Hello?"  # type: ignore[union-attr]
    assert (assistant.content, assistant.reasoning) == ("Look:", "Hm.")  # type: ignore[union-attr]
    assert [call.name for call in assistant.tool_calls] == ["crm__find"]  # type: ignore[union-attr]
    assert tool.content == "sunny"  # type: ignore[union-attr]
    assert second.status == "completed"


@pytest.mark.parametrize("store", [True, False])
async def test_a_reference_to_nothing_says_so(store: bool) -> None:
    async with running(speaking("Hello.")) as server:
        first = await server.openai.responses.create(model="scripted", input="Hello?", store=store)
        id = f"{first.output[0].id}_9" if store else first.output[0].id
        with pytest.raises(openai.NotFoundError, match="stored" if not store else "send the item itself") as error:
            await server.openai.responses.create(model="scripted", input=[{"type": "item_reference", "id": id or ""}])
    assert error.value.param == "input[0].id"
