"""Decisions: labels, reads and what becomes of their probabilities."""

from __future__ import annotations

import math
from typing import Any

import pytest
from msgspec.structs import replace

from tests.unit.engine.tiny import CARD, VOCAB_SIZE, make_engine
from tripos.dialects import stage as dialects
from tripos.engine.llm import LanguageModel
from tripos.errors import InvalidRequest, RequestFailed
from tripos.models.text.token_requests import Spellings
from tripos.pipeline.chain import chain
from tripos.pipeline.decide import decide, labels_of, prompt_of, read_of
from tripos.runtime.executor import ExecutorOptions
from tripos.testing import ScriptedExecutor, ScriptedModel, byte_tokenizer
from tripos.types import (
    Call,
    Decide,
    Decision,
    Delta,
    Event,
    Finish,
    Generate,
    Option,
    Question,
    Result,
    Usage,
)

STATE = "My card was charged twice."
PREDICATE = Question(kind="predicate", instructions="Is it about money?")
CHOICE = Question(
    kind="choice",
    instructions="Which team?",
    options=tuple(Option(name=name) for name in ("billing", "cards", "accounts", "other")),
)
SCORE = Question(
    kind="score", instructions="How urgent?", options=tuple(Option(name=n) for n in ("low", "mid", "high"))
)
MANY = Question(kind="choice", instructions="Which?", options=tuple(Option(name=f"o{i}") for i in range(60)))


class Words:
    """A tokenizer of a few words, without encoding: what is asked of `encode` is looked up too."""

    def __init__(self, *tokens: str, special: int | None = None, **encoded: list[int]) -> None:
        self.all_token_bytes = tuple(token.encode() for token in tokens)
        self.special_ids = frozenset() if special is None else frozenset({special})
        self._encoded = encoded

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        return self._encoded[text]


def model_of(**options: Any) -> tuple[LanguageModel, list[int]]:
    """The real engine, and the number of tokens of each of its steps."""
    counts: list[int] = []
    executor = ScriptedExecutor(
        VOCAB_SIZE, ExecutorOptions(block_size=4), before_run=lambda step: counts.append(len(step.token_ids))
    )
    engine = make_engine(num_blocks=4096, executor=executor, max_model_len=4096, **options)
    return LanguageModel(CARD, byte_tokenizer(), engine), counts


async def answers(*questions: Question, model: LanguageModel | None = None, **fields: Any) -> list[Event]:
    model = model or model_of()[0]
    call = Call(id="c", route="", request=Decide(state=STATE, questions=questions, **fields))
    await model.start()
    try:
        return [event async for event in chain((decide(),), model.run)(call)]
    finally:
        await model.stop()


async def decisions(*questions: Question, **fields: Any) -> tuple[Decision, ...]:
    events = await answers(*questions, **fields)
    assert isinstance(events[0], Result)
    return events[0].decisions


async def test_probabilities_sum_to_one_and_differ() -> None:
    for question, decision in zip(
        (PREDICATE, CHOICE, SCORE, MANY), await decisions(PREDICATE, CHOICE, SCORE, MANY), strict=True
    ):
        assert len(decision.probabilities) == (len(question.options) or 2)
        assert math.fsum(decision.probabilities) == pytest.approx(1.0, abs=1e-12)
        assert len(set(decision.probabilities)) > 1
        assert 0.0 <= decision.label_mass <= 1.0
        assert decision.order_shift is None


async def test_a_question_gets_the_same_bits_alone_and_among_others() -> None:
    questions = (SCORE, CHOICE, PREDICATE, MANY)
    together = await decisions(*questions)
    alone = [(await decisions(question))[0] for question in questions]
    assert list(together) == alone


async def test_the_state_is_computed_once_however_many_questions_there_are() -> None:
    model, counts = model_of()
    state = "a long state " * 100
    questions = tuple(Question(kind="choice", instructions=f"{i}?", options=CHOICE.options) for i in range(50))
    request = Decide(state=state, questions=questions)
    whole = [len(model.tokenizer.encode_chat(prompt_of(request, each, labels_of(each)))) for each in questions]
    await model.start()
    events = [event async for event in chain((decide(),), model.run)(Call(id="c", route="", request=request))]
    await model.stop()
    shared = len(f"user: {state}\n\nQuestion: ")
    computed = whole[0] + sum(num_tokens - shared // 4 * 4 for num_tokens in whole[1:])
    assert sum(counts) <= computed  # questions 1 and 10 share a little more than the state
    assert computed - sum(counts) <= 4 * len(questions)
    assert sum(counts) < 2 * shared + sum(whole) - 50 * shared
    finish = events[-1]
    assert isinstance(finish, Finish)
    assert (finish.reason, finish.usage.output_tokens) == ("stop", 50)


async def test_two_orders_are_averaged_and_compared() -> None:
    given = (await decisions(CHOICE))[0]
    backwards = Question(kind="choice", instructions=CHOICE.instructions, options=CHOICE.options[::-1])
    other = (await decisions(backwards))[0].probabilities[::-1]
    both = (await decisions(CHOICE, option_orders=2))[0]
    mean = [(p + q) / 2 for p, q in zip(given.probabilities, other, strict=True)]
    assert both.probabilities == pytest.approx(mean, abs=1e-12)
    assert both.order_shift == pytest.approx(
        sum(abs(p - q) for p, q in zip(given.probabilities, other, strict=True)) / 2
    )
    assert (await decisions(PREDICATE, SCORE, option_orders=2))[1].order_shift is None


@pytest.mark.parametrize("switch", ["", "enable_thinking"])
async def test_a_model_that_reasons_is_read_behind_its_reasoning(switch: str) -> None:
    """Though its template begins it, and a label of several tokens is read in between."""
    markers = ("<think>", "</think>")
    questions = (PREDICATE, CHOICE, SCORE, MANY)

    async def read(*endings: list[int], reasons: bool = False) -> tuple[Decision, ...]:
        """With a template that ends as the first of `endings`, or as the second when it is told not to think."""
        tokenizer = byte_tokenizer(markers)

        def encode_chat(messages: Any, tools: Any, args: dict[str, Any]) -> list[int]:
            return [*messages[0].content.encode(), *endings[args.get("enable_thinking") is False]]

        executor = ScriptedExecutor(tokenizer.vocab_size, ExecutorOptions(block_size=4))
        card = replace(
            CARD,
            vocab_size=tokenizer.vocab_size,
            max_model_len=4096,
            reasoning_dialect="think" if reasons else "",
            reasoning_switch=switch,
        )
        engine = make_engine(num_blocks=4096, executor=executor, max_model_len=4096)
        model = LanguageModel(card, tokenizer, engine, encode_chat)
        request = Decide(state=STATE, questions=questions)
        await model.start()
        try:
            run = chain((decide(), dialects.stage(card)), model.run)
            events = [e async for e in run(Call(id="c", route="", request=request))]
        finally:
            await model.stop()
        assert isinstance(events[0], Result)
        return events[0].decisions

    opened, off = [*b"a:", 257, *b"\n"], [*b"a:", 257, 258, *b"\n\n"]
    requested = await read(off if switch else [*opened, 258], [])
    assert await read(opened, off, reasons=True) == requested
    assert await read(opened, off) != requested


async def test_too_little_mass_on_the_labels_is_a_refusal() -> None:
    assert (await decisions(CHOICE, min_label_mass=1.0))[0].probabilities == ()
    assert (await decisions(CHOICE, min_label_mass=0.0))[0].probabilities


async def test_other_requests_pass_untouched() -> None:
    model = ScriptedModel()
    run = chain((decide(),), model.run)
    call = Call(id="c", route="", request=Generate(prompt="x"))
    assert [event async for event in run(call)] == list(model.events)
    assert model.calls == [call]


async def test_a_model_that_ends_early_is_an_error_and_no_decision() -> None:
    model = ScriptedModel([Delta(finish_reason="length"), Finish(reason="length", usage=Usage())])
    run = chain((decide(),), model.run)
    with pytest.raises(RequestFailed):
        [event async for event in run(Call(id="c", route="", request=Decide(state="", questions=(PREDICATE,))))]


async def test_what_the_model_would_rather_say_is_told() -> None:
    def draws(letter: str) -> LanguageModel:
        executor = ScriptedExecutor(
            VOCAB_SIZE, ExecutorOptions(block_size=4), next_token=lambda tokens, seed, counter: ord(letter)
        )
        return LanguageModel(CARD, byte_tokenizer(), make_engine(num_blocks=64, executor=executor))

    assert (await decisions(CHOICE, model=draws("B")))[0].argmax_is_label
    assert not (await decisions(CHOICE, model=draws("E")))[0].argmax_is_label


def test_labels_are_one_token_where_each_has_one() -> None:
    spellings = Spellings(Words("Yes", " no", " yes", "No", "yes", "x"))
    assert spellings.paths([("Yes", "yes"), ("No", "no")]) == [
        (0, (0,)), (0, (4,)), (0, (2,)), (1, (3,)), (1, (1,))
    ]  # fmt: skip


def test_labels_of_several_tokens_are_read_where_they_differ() -> None:
    paths = [(0, (5, 1)), (1, (5, 2, 3)), (2, (5, 2, 4)), (3, (6, 9))]
    root = read_of(paths)
    assert [(read.path, read.leaves) for read in root.all()] == [((), {6: 3}), ((5,), {1: 0}), ((5, 2), {3: 1, 4: 2})]
    assert root.token_ids == (6, 5)
    encoded = Spellings(Words("Yes", Yes=[0], yes=[7, 8], No=[5], no=[5, 6]))
    assert encoded.paths([("Yes", "yes"), ("No", "no")]) == [(0, (0,)), (0, (7, 8)), (1, (5,)), (1, (5, 6))]


def test_a_vocabulary_that_cannot_tell_labels_apart_is_refused() -> None:
    unknown = Spellings(Words("[unk]", special=0, A=[0], B=[0]))
    with pytest.raises(InvalidRequest, match="cannot tell"):
        read_of(unknown.paths([("A",), ("B",)]))


def test_no_label_begins_another() -> None:
    for kind, num_options in (("predicate", 2), ("choice", 2), ("choice", 26), ("choice", 255), ("score", 10)):
        options = tuple(Option(name=str(i)) for i in range(num_options))
        labels = labels_of(Question(kind=kind, instructions="", options=options))  # type: ignore[arg-type]
        assert len({texts[0] for texts in labels}) == len(labels) == num_options
        assert not [(a, b) for a, *_ in labels for b, *_ in labels if a != b and b.startswith(a)]


def test_the_prompt_puts_the_state_first_and_the_labels_to_the_options() -> None:
    question = Question(
        kind="choice", instructions="Which?", options=(Option(name="a", description="first"), Option(name="b"))
    )
    request = Decide(state="The state.", questions=(question,), instructions="Be brief.")
    (message,) = prompt_of(request, question, labels_of(question))
    assert message.content == (
        "Be brief.\n\nThe state.\n\nQuestion: Which?\nA: a - first\nB: b\n\nAnswer with the letter of one option only."
    )
    (message,) = prompt_of(request, question, labels_of(question), is_reversed=True)
    assert "A: b\nB: a - first" in str(message.content)
    meanings = (Option(name="true", description="it is"), Option(name="false"))
    predicate = Question(kind="predicate", instructions="Is it?", options=meanings)
    (message,) = prompt_of(request, predicate, labels_of(predicate))
    assert "Question: Is it?\nYes: it is\n\nAnswer with Yes or No only." in str(message.content)
