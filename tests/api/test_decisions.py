"""/v1/decisions through the official client and /v1/systemone over plain HTTP, on the demo model and real queries."""

from __future__ import annotations

import asyncio
import csv
import json
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio

from tests.api.running import Running, error_code, running
from tripos.build.language import BLOCK_SIZE, load_model
from tripos.config import ModelOptions
from tripos.engine.llm import LanguageModel
from tripos.runtime.executor import StepInput, StepOutput
from tripos.testing import ScriptedModel
from tripos.types import ModelCard

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODEL = "demo:assistant"
TEXT = "I was charged twice for my top-up, please help!"
PREDICATE = {"type": "predicate", "name": "money", "instructions": "The customer writes about money."}
CHOICE = {
    "type": "choice",
    "instructions": "Which team should answer?",
    "choices": [
        {"value": "billing", "description": "payments"},
        {"value": "cards"},
        {"value": True},
        {"value": "true"},
    ],
}
SCORE = {
    "type": "score",
    "name": "urgency",
    "instructions": "How urgent is it?",
    "levels": [{"label": "low"}, {"label": "high"}],
}
QUESTIONS: list[Any] = [PREDICATE, CHOICE, SCORE]
ENCODER = ModelCard(name="encoder", task="embed", digest="0" * 64)


@pytest.fixture(scope="module")
def demo() -> LanguageModel:
    return load_model(ModelOptions(source=MODEL))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(demo: LanguageModel) -> AsyncIterator[Running]:
    async with running(demo, ScriptedModel(card=ENCODER)) as server:
        yield server
        await server.service.wait_idle()
    assert demo.engine.pool.num_held == 0
    demo.close()


async def test_the_official_client_asks_all_kinds_of_questions(server: Running) -> None:
    decision = await server.openai.decisions.create(
        model=MODEL, input=TEXT, questions=QUESTIONS, safety_identifier="me", prompt_cache_key="k"
    )
    predicate, choice, score = decision.answers
    assert decision.model == MODEL
    assert predicate.type == "predicate"
    assert predicate.name == "money"
    assert 0 < predicate.probability < 1
    assert choice.type == "choice"
    assert choice.name is None
    assert [each.value for each in choice.probabilities] == ["billing", "cards", True, "true"]
    best = max(choice.probabilities, key=lambda each: each.probability)
    assert choice.choice == best.value
    assert math.fsum(each.probability for each in choice.probabilities) == pytest.approx(1, abs=1e-12)
    assert choice.confidence == pytest.approx((best.probability - 1 / 4) / (3 / 4))
    assert score.type == "score"
    assert [(each.value, each.label) for each in score.probabilities] == [(0, "low"), (1, "high")]
    assert score.score == pytest.approx(score.probabilities[1].probability)
    usage = decision.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert len(decision.diagnostics) == 3  # type: ignore[attr-defined]


async def test_the_synchronous_client_gets_the_same(server: Running) -> None:
    def ask() -> Any:
        with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            return client.decisions.create(model=MODEL, input=TEXT, questions=QUESTIONS)

    one = await asyncio.to_thread(ask)
    other = await server.openai.decisions.create(model=MODEL, input=TEXT, questions=QUESTIONS)
    assert one.answers == other.answers


async def test_a_refusal_is_an_answer_of_its_own(server: Running) -> None:
    decision = await server.openai.decisions.create(
        model=MODEL,
        input=TEXT,
        questions=[PREDICATE],
        extra_body={"min_label_mass": 1.0},  # type: ignore[list-item]
    )
    assert [(answer.type, answer.name) for answer in decision.answers] == [("refusal", "money")]


async def test_both_dialects_read_the_same_probabilities(server: Running) -> None:
    questions = {
        "money": {"type": "noul", "instructions": PREDICATE["instructions"]},
        "team": {
            "type": "choice",
            "instructions": CHOICE["instructions"],
            "criteria": {"billing": "payments", "cards": None, "true": None, "other": None},
        },
        "urgency": {"type": "score", "instructions": SCORE["instructions"], "criteria": ["low", "high"]},
    }
    response = await server.post("/v1/systemone", {"model": MODEL, "state": TEXT, "questions": questions})
    assert response.status_code == 200, response.text
    body = response.json()
    assert list(body["answers"]) == list(body["diagnostics"]) == list(questions)
    team, urgency = body["answers"]["team"], body["answers"]["urgency"]
    choices = [{"value": "billing", "description": "payments"}, {"value": "cards"}, {"value": True}, {"value": "other"}]
    decision = await server.openai.decisions.create(
        model=MODEL,
        input=TEXT,
        questions=[PREDICATE, {**CHOICE, "choices": choices}, SCORE],  # type: ignore[list-item]
    )
    predicate, choice, score = decision.answers
    assert body["answers"]["money"] == {"type": "noul", "noul": predicate.probability}  # type: ignore[union-attr]
    assert list(team["probabilities"].values()) == [each.probability for each in choice.probabilities]  # type: ignore[union-attr]
    assert team["confidence"] == choice.confidence  # type: ignore[union-attr]
    assert (urgency["score"], urgency["legend"]) == (score.score, {"0": "low", "1": "high"})  # type: ignore[union-attr]
    assert list(urgency["probabilities"]) == ["0", "1"]
    assert all(set(each) == {"label_mass", "argmax_is_label"} for each in body["diagnostics"].values())


async def test_the_order_of_options_is_diagnosed(server: Running) -> None:
    body = {"model": MODEL, "input": TEXT, "questions": QUESTIONS, "option_orders": 2}
    predicate, choice, score = (await server.post("/v1/decisions", body)).json()["diagnostics"]
    assert 0 <= choice["order_shift"] <= 1
    assert "order_shift" not in {**predicate, **score}


async def test_a_conversation_is_a_state(server: Running) -> None:
    items: list[Any] = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Where is my card?"}]},
        {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "in the post"},
        {"type": "custom_tool_call", "call_id": "c2", "name": "note", "input": "late"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noted"}]},
        {
            "role": "assistant",
            "content": [{"type": "output_text", "text": "It is in the post."}],
            "phase": "final_answer",
        },
        {"role": "user", "content": [{"type": "input_json", "data": {"days": 3}}]},
    ]
    decision = await server.openai.decisions.create(model=MODEL, input=items, questions=[PREDICATE])  # type: ignore[list-item]
    text = "\n".join(
        (
            "developer: Be kind.", "user: Where is my card?", "call c1: look_up {}", "output of c1: in the post",
            "call c2: note late", "output of c2: noted", "assistant: It is in the post.", 'user: {"days":3}',
        )
    )  # fmt: skip
    same = await server.openai.decisions.create(model=MODEL, input=text, questions=[PREDICATE])  # type: ignore[list-item]
    assert decision.answers == same.answers


def intents(shared_data: Callable[[str], Path]) -> tuple[list[str], list[str]]:
    """Queries and 20 intents of banking77."""
    path = shared_data("examples/customer-service/banking77/test.csv")
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    chosen = sorted({category for _, category in rows})[:20]
    return [text for text, category in rows if category in chosen][::40], chosen


async def test_banking_intents_alone_and_in_a_batch(server: Running, shared_data: Callable[[str], Path]) -> None:
    """Sums, equality to the bit and the cost of a request; how well so small a model decides is not promised."""
    texts, chosen = intents(shared_data)
    choice = {
        "type": "choice",
        "instructions": "Which intent does the customer have?",
        "choices": [{"value": name} for name in chosen],
    }
    others = [{**PREDICATE, "instructions": f"The customer writes about {name}."} for name in chosen[:8]]

    async def ask(text: str, questions: list[Any], salt: str) -> Any:
        body = {"model": MODEL, "input": text, "questions": questions, "cache_salt": salt}
        response = await server.post("/v1/decisions", body)
        assert response.status_code == 200, response.text
        return response.json()

    alone = [await ask(text, [choice], f"alone {i}") for i, text in enumerate(texts)]
    for answer in alone:
        probabilities = [each["probability"] for each in answer["answers"][0]["probabilities"]]
        assert math.fsum(probabilities) == pytest.approx(1, abs=1e-12)
        assert len(probabilities) == 20
    together = await asyncio.gather(*(ask(text, [choice, *others], "together") for text in texts))
    assert len(texts) >= 20
    assert [each["answers"][0] for each in together] == [each["answers"][0] for each in alone]


async def test_a_request_costs_one_prefill_of_its_state_however_many_questions(
    server: Running, demo: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    run = demo.engine.executor.run

    def counting(step: StepInput) -> StepOutput:
        counts.append(len(step.token_ids))
        return run(step)

    monkeypatch.setattr(demo.engine.executor, "run", counting)
    state = "The customer writes a long story about a card and a trip. " * 40
    computed = {}
    for num_questions in (1, 40):
        counts.clear()
        questions = [{**PREDICATE, "instructions": f"Is it {i}?"} for i in range(num_questions)]
        body = {"model": MODEL, "input": state, "questions": questions, "cache_salt": str(num_questions)}
        response = await server.post("/v1/decisions", body)
        assert response.status_code == 200, response.text
        computed[num_questions] = sum(counts)
    own = len(demo.tokenizer.encode("\n\nQuestion: Is it 39?\n\nAnswer with Yes or No only.", False)) + 8
    assert computed[1] > 600
    assert computed[40] - computed[1] < 39 * (own + BLOCK_SIZE)  # a question's own tokens, and a part of a block


MANY = [{"value": str(i)} for i in range(256)]
BAD: dict[str, tuple[str, dict[str, Any], str, str | None]] = {
    "no questions": ("/v1/decisions", {"questions": []}, "out_of_range", "questions"),
    "401 questions": ("/v1/decisions", {"questions": [PREDICATE] * 401}, "too_many_items", "questions"),
    "a question of a new kind": (
        "/v1/decisions", {"questions": [{"type": "box", "instructions": ""}]}, "invalid_value", "questions[0].type",
    ),
    "a question that is text": ("/v1/decisions", {"questions": ["?"]}, "invalid_type", "questions[0]"),
    "a question without a type": (
        "/v1/decisions", {"questions": [{"instructions": "?"}]}, "missing_field", "questions[0].type",
    ),
    "one choice": (
        "/v1/decisions", {"questions": [{**CHOICE, "choices": MANY[:1]}]}, "out_of_range", "questions[0].choices",
    ),
    "256 choices": (
        "/v1/decisions", {"questions": [{**CHOICE, "choices": MANY}]}, "too_many_items", "questions[0].choices",
    ),
    "a choice twice": (
        "/v1/decisions", {"questions": [{**CHOICE, "choices": [{"value": True}] * 2}]},
        "invalid_value", "questions[0].choices[1].value",
    ),
    "a choice that is a number": (
        "/v1/decisions", {"questions": [{**CHOICE, "choices": [{"value": 1}, {"value": 2}]}]},
        "invalid_type", "questions[0].choices[0].value",
    ),
    "a choice without a name": (
        "/v1/decisions", {"questions": [{**CHOICE, "choices": [{"value": ""}, {"value": "b"}]}]},
        "out_of_range", "questions[0].choices[0].value",
    ),
    "eleven levels": (
        "/v1/decisions", {"questions": [{**SCORE, "levels": [{"label": "x"}] * 11}]},
        "too_many_items", "questions[0].levels",
    ),
    "an image": (
        "/v1/decisions",
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,"}]}]},
        "invalid_value", "input[0].content[0].type",
    ),
    "an input of a new kind": ("/v1/decisions", {"input": [{"type": "reasoning"}]}, "invalid_value", "input[0].type"),
    "no input": ("/v1/decisions", {"input": []}, "out_of_range", "input"),
    "three orders": ("/v1/decisions", {"option_orders": 3}, "out_of_range", "option_orders"),
    "a state beyond the window": ("/v1/decisions", {"input": "word " * 4000}, "context_length_exceeded", "prompt"),
    "a state read too often": (
        "/v1/decisions", {"input": "x" * 40_000, "questions": [PREDICATE] * 400},
        "context_length_exceeded", "questions",
    ),
    "an unknown model": ("/v1/decisions", {"model": "absent"}, "model_not_found", "model"),
    "system one without questions": ("/v1/systemone", {"questions": {}}, "out_of_range", "questions"),
    "questions as a list": ("/v1/systemone", {"questions": []}, "invalid_type", "questions"),
    "a question of OpenAI's": (
        "/v1/systemone", {"questions": {"q": {"type": "predicate"}}}, "invalid_value", "questions.q.type",
    ),
    "choice criteria as a list": (
        "/v1/systemone", {"questions": {"q": {"type": "choice", "criteria": ["a", "b"]}}},
        "invalid_type", "questions.q.criteria",
    ),
    "score criteria as an object": (
        "/v1/systemone", {"questions": {"q": {"type": "score", "criteria": {}}}},
        "invalid_type", "questions.q.criteria",
    ),
    "a meaning of maybe": (
        "/v1/systemone", {"questions": {"q": {"type": "noul", "criteria": {"maybe": "so"}}}},
        "unknown_field", "questions.q.criteria.maybe",
    ),
    "an option without a name": (
        "/v1/systemone", {"questions": {"q": {"type": "choice", "criteria": {"": None, "b": None}}}},
        "out_of_range", "questions.q.criteria",
    ),
    "images": ("/v1/systemone", {"images": ["x"]}, "invalid_value", "images"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_bad_bodies_are_refused_by_name(server: Running, name: str) -> None:
    path, fields, code, param = BAD[name]
    good: dict[str, Any] = (
        {"input": TEXT, "questions": QUESTIONS}
        if path == "/v1/decisions"
        else {"state": TEXT, "questions": {"q": {"type": "noul", "instructions": "?"}}}
    )
    response = await server.post(path, {"model": MODEL, **good, **fields})
    assert response.status_code == (404 if code == "model_not_found" else 400)
    assert (error_code(response), response.json()["error"]["param"]) == (code, param)
    assert (await server.post(path, {"model": MODEL, **good})).status_code == 200


@pytest.mark.parametrize(
    ("path", "asked", "status", "code", "param"),
    [
        ("/v1/decisions", {"questions": QUESTIONS, "input": TEXT}, 400, "invalid_value", "model"),
        ("/v1/systemone", {"questions": {"q": {"type": "noul"}}, "state": TEXT}, 501, "not_implemented", None),
    ],
    ids=["decisions", "systemone"],
)
async def test_a_model_of_another_kind_is_told_apart(
    server: Running, path: str, asked: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    response = await server.post(path, {"model": "encoder", **asked})
    assert (response.status_code, error_code(response)) == (status, code)
    assert response.json()["error"]["param"] == param
    assert MODEL in response.text


async def test_a_client_that_leaves_frees_everything(server: Running, demo: LanguageModel) -> None:
    body = json.dumps({"model": MODEL, "input": TEXT * 20, "questions": [CHOICE] * 60}).encode()
    head = b"POST /v1/decisions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for wait_s in (0.0, 0.01, 0.05, 0.1):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()
        await asyncio.sleep(wait_s)
        writer.transport.abort()
    await server.service.wait_idle()
    async with asyncio.timeout(5):
        while demo.engine.pool.num_held:
            await asyncio.sleep(0.01)
    demo.engine.pool.check_integrity()
