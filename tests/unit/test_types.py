"""Everything that crosses the contract of a model can be sent to another process and read there."""

from __future__ import annotations

import functools
import operator
from typing import Any, get_args

import msgspec
import pytest

from tripos.types import (
    AdapterInfo,
    Branch,
    Call,
    Constraint,
    Decide,
    Decision,
    Delta,
    Detokenize,
    Embed,
    EngineStats,
    Event,
    Finish,
    Generate,
    LabelTokens,
    LoadAdapter,
    Message,
    ModelCard,
    ModelInfo,
    Option,
    Predict,
    Priority,
    Question,
    ReasoningMarks,
    ReasoningOptions,
    Request,
    Rerank,
    Result,
    Sampling,
    Tensor,
    Tokenize,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolChoice,
    UnloadAdapter,
    Usage,
    known_requests,
)

MESSAGES = (
    Message(role="user", content="hi", parts=("h", "i"), name="n"),
    Message(role="assistant", tool_calls=(ToolCall(id="1", name="f", arguments="{}"),), reasoning="r"),
    Message(role="tool", content="x", tool_call_id="1"),
)
TENSOR = Tensor(dtype="float32", shape=(1, 2), data=b"\0" * 8)
GENERATE = Generate(
    prompt=MESSAGES,
    max_tokens=3,
    n=2,
    sampling=Sampling(temperature=0.5, logit_bias={7: -1.0}, stop=("x",), seed=2**63, logprobs=1),
    tools=(Tool(name="f", parameters={"a": [1, None, 2.5]}),),
    tool_choice=ToolChoice(mode="required", allowed=("f",)),
    template_tools=({"type": "function", "function": {"name": "f", "parameters": {"a": [1, None, 2.5]}}},),
    template_args={"enable_thinking": False},
    constraint=Constraint(kind="regex", source="a+"),
    reasoning=ReasoningOptions(effort="low", max_tokens=7),
    reasoning_marks=ReasoningMarks(start="<think>", end="</think>"),
    branches=(Branch(prompt="text", suffix=(1,)), Branch(prompt=(1, 2))),
)
ADAPTER = AdapterInfo(name="a", digest="d", num_parameters=3)
REQUESTS: tuple[Request, ...] = (
    GENERATE,
    Generate(prompt="text"),
    Generate(prompt=(1, 2, 3)),
    Embed(inputs=("text", (1, 2)), dimensions=4),
    Rerank(query="q", documents=("a", "b")),
    Decide(
        state="s",
        questions=(Question(kind="choice", instructions="i", options=(Option(name="o", description="d"),)),),
    ),
    Predict(inputs={"x": TENSOR}, outputs=("y",)),
    Tokenize(generate=GENERATE, has_texts=True),
    Detokenize(token_ids=(1, 2)),
    LabelTokens(labels=(("Yes", "yes"), ("No",))),
    LoadAdapter(name="a", path="/a", in_place=True),
    UnloadAdapter(name="a"),
)
LOGPROB = TokenLogprob(1, "\ufffd", b"\xff", -0.5, (TokenLogprob(2, "a", b"a", float("-inf")),), (-1.0,))
EVENTS: tuple[Event, ...] = (
    Delta(index=1, text="t", token_ids=(1,), logprobs=(LOGPROB,), prompt_logprobs=(None, LOGPROB), stop="x"),
    Delta(finish_reason="stop", stop=7),
    Result(
        vectors=(b"\0" * 4,),
        scores=(0.5,),
        decisions=(Decision(probabilities=(1.0,), label_mass=1.0, argmax_is_label=True),),
        tensors={"y": TENSOR},
        token_ids=((1, 2),),
        texts=("a",),
        label_tokens=((0, (1, 2)),),
        adapter=ADAPTER,
    ),
    Finish(reason="length", usage=Usage(prompt_tokens=3, decode_s=0.5)),
)
CARD = ModelCard(
    name="m", task="generate", digest="d", sampling=Sampling(top_p=0.5), template_args=("a",), marker_ids={"<x>": 3},
    max_adapters=2, adapters=(ADAPTER,),
)  # fmt: skip
INFO = ModelInfo(stats=EngineStats(num_running=1, num_waiting=2, running_adapters=("a",)), adapters=(ADAPTER,))


def crossed(value: Any, form: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=form)


def union(kinds: tuple[Any, ...]) -> Any:
    return functools.reduce(operator.or_, kinds)


def test_every_kind_of_request_and_event_is_tried_here() -> None:
    ours = {kind for kind in known_requests() if kind.__module__ == "tripos.types"}
    assert {type(request) for request in REQUESTS} == ours
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_a_request_crosses(request_: Request) -> None:
    assert crossed(request_, union(known_requests())) == request_


def test_a_call_crosses() -> None:
    call = Call(id="c", route="m", request=GENERATE, priority=Priority.BATCH, deadline_s=1.5)
    fields = [(each.name, each.type) for each in msgspec.structs.fields(Call) if each.name != "request"]
    form = msgspec.defstruct("Frame", [*fields, ("request", union(known_requests()))])
    assert msgspec.structs.asdict(crossed(call, form)) == msgspec.structs.asdict(call)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_crosses(event: Event) -> None:
    assert crossed(event, Event) == event


@pytest.mark.parametrize("known", [CARD, INFO], ids=lambda known: type(known).__name__)
def test_what_is_known_of_a_model_crosses(known: ModelCard | ModelInfo) -> None:
    assert crossed(known, type(known)) == known
