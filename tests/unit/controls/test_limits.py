"""Limits hold for every door, at the very bound."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from tripos.controls.limits import LimitsOptions, check, check_questions, response_bytes
from tripos.errors import InvalidRequest
from tripos.types import Decide, Generate, Message, Option, Question, Sampling

SMALL = LimitsOptions(
    max_n=2, max_prompt_chars=4, max_messages=2, max_logprobs=2, max_stops=2, max_stop_bytes=4, max_stop_token_ids=2,
    max_logit_biases=2, max_response_bytes=10_000,
)  # fmt: skip
PLAIN = Generate(prompt="x", max_tokens=1)
QUESTION = Question(kind="predicate", instructions="Is it?")


def sampling(**fields: Any) -> Generate:
    return replace(PLAIN, sampling=Sampling(**fields))


AT_THE_BOUND: list[tuple[Generate, Generate, str, str]] = [
    (replace(PLAIN, n=2), replace(PLAIN, n=3), "n", "out_of_range"),
    (replace(PLAIN, prompt="xxxx"), replace(PLAIN, prompt="xxxxx"), "prompt", "context_length_exceeded"),
    (replace(PLAIN, prompt=(1,) * 4), replace(PLAIN, prompt=(1,) * 5), "prompt", "context_length_exceeded"),
    (
        replace(PLAIN, prompt=(Message(role="user", content="x"),) * 2),
        replace(PLAIN, prompt=(Message(role="user", content="x"),) * 3),
        "messages",
        "too_many_items",
    ),
    (sampling(stop=("a",) * 2), sampling(stop=("a",) * 3), "stop", "too_many_items"),
    (sampling(stop=("éé",)), sampling(stop=("ééé",)), "stop", "out_of_range"),
    (sampling(stop_token_ids=(1, 2)), sampling(stop_token_ids=(1, 2, 3)), "stop_token_ids", "too_many_items"),
    (sampling(logit_bias={1: 0, 2: 0}), sampling(logit_bias={1: 0, 2: 0, 3: 0}), "logit_bias", "too_many_items"),
    (sampling(logprobs=2), sampling(logprobs=3), "logprobs", "out_of_range"),
    (replace(PLAIN, prompt_logprobs=2), replace(PLAIN, prompt_logprobs=3), "logprobs", "out_of_range"),
    (replace(PLAIN, max_tokens=1250), replace(PLAIN, max_tokens=1251), "max_tokens", "response_too_large"),
]


def test_every_limit_of_generation_is_tested() -> None:
    said = ""
    for _, bad, _, _ in AT_THE_BOUND:
        with pytest.raises(InvalidRequest) as caught:
            check(bad, SMALL)
        said += caught.value.message
    of_questions = {"max_questions", "max_options"}
    options = [name for name in LimitsOptions.__struct_fields__ if name not in of_questions]
    untold = {"max_response_bytes"}  # says what to lower
    assert [name for name in options if name.replace("_", " ") not in said] == list(untold)


@pytest.mark.parametrize(("good", "bad", "param", "code"), AT_THE_BOUND, ids=range(len(AT_THE_BOUND)))
def test_the_bound_is_allowed_and_one_more_is_not(good: Generate, bad: Generate, param: str, code: str) -> None:
    check(good, SMALL)
    with pytest.raises(InvalidRequest) as caught:
        check(bad, SMALL)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_window_bounds_the_estimate_of_a_request_without_max_tokens() -> None:
    open_ended = replace(PLAIN, max_tokens=None)
    assert response_bytes(open_ended, max_model_len=100) == response_bytes(replace(PLAIN, max_tokens=100))


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"questions": ()}, "too_many_items"),
        ({"questions": (QUESTION,) * 401}, "too_many_items"),
        ({"questions": (replace(QUESTION, options=(Option(name="x"),) * 256),)}, "too_many_items"),
        ({"state": "x" * 2**20, "questions": (QUESTION,) * 5}, "context_length_exceeded"),
        ({"state": "x" * 2**20, "questions": (QUESTION,) * 3, "option_orders": 2}, "context_length_exceeded"),
    ],
)
def test_questions_have_limits_too(fields: dict[str, Any], code: str) -> None:
    good = Decide(state="x" * 2**20, questions=(QUESTION,) * 3)
    check_questions(good, LimitsOptions())
    with pytest.raises(InvalidRequest) as refusal:
        check_questions(replace(good, **fields), LimitsOptions())
    assert (refusal.value.code, refusal.value.param) == (code, "questions")
