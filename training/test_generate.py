"""What the data promises: the two sides share no phrase and no value, and every answer stands in its passage."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from training import phrases
from training.facts import Ask, Fact, choose, expand, fill
from training.generate import (
    ASKS,
    FACTS,
    KINDS,
    NEW_BOTH,
    NEW_PHRASING,
    TRAINING,
    PassageMaker,
    Split,
    conversations,
)
from training.phrases import SMALL_TALK, UNKNOWN, Sides
from training.values import MAKERS, SHARED, is_held_out, make_value

SPLITS = [TRAINING, NEW_PHRASING, NEW_BOTH]
SOURCES: list[Ask | Fact] = [*ASKS.values(), *FACTS]
WRAPPERS = [value for value in vars(phrases).values() if isinstance(value, Sides)]


def all_readings(texts: list[str]) -> set[str]:
    return set().union(*(expand(text) for text in texts))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: f"{type(source).__name__}-{source.name}")
def test_no_phrase_is_on_both_sides(source: Ask | Fact) -> None:
    assert source.training
    assert len(source.held_out) >= 2
    assert not all_readings(source.training) & all_readings(source.held_out)


def test_no_sentence_of_any_fact_is_on_both_sides() -> None:
    training = set().union(*(all_readings(source.training) for source in SOURCES))
    held_out = set().union(*(all_readings(source.held_out) for source in SOURCES))
    assert not training & held_out


@pytest.mark.parametrize("sides", [*WRAPPERS, *SMALL_TALK.values()])
def test_no_wrapper_or_small_talk_is_on_both_sides(sides: Sides) -> None:
    assert not {" ".join(text.lower().split()) for text in sides.training} & {
        " ".join(text.lower().split()) for text in sides.held_out
    }


@pytest.mark.parametrize("kind", sorted(set(MAKERS) - SHARED))
def test_no_value_is_on_both_sides(kind: str) -> None:
    rng = random.Random(kind)
    training = {make_value(rng, kind, held_out=False).lower() for _ in range(2000)}
    held_out = {make_value(rng, kind, held_out=True).lower() for _ in range(2000)}
    assert not training & held_out
    assert not any(is_held_out(kind, value) for value in training)


def test_every_sentence_states_every_slot() -> None:
    for fact in FACTS:
        for phrase in fact.training + fact.held_out:
            assert all(f"<{slot}>" in phrase for slot in fact.slots), phrase


def test_every_question_about_a_fact_is_known() -> None:
    assert {ask for fact in FACTS for ask in fact.asks} == set(ASKS)
    assert {ask.kind for ask in ASKS.values()} == set(KINDS)


def test_same_seed_gives_the_same_conversations() -> None:
    first, second = (list(islice(conversations(7, TRAINING, 4), 200)) for _ in range(2))
    assert first == second
    assert first != list(islice(conversations(8, TRAINING, 4), 200))


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_answers_stand_in_the_passage(split: Split) -> None:
    rng = random.Random(3)
    for _ in range(500):
        maker = PassageMaker(rng, split)
        passage = maker.write()
        drawn = maker.question(answerable=True)
        assert drawn is not None
        answers = [fill(ASKS[ask].answer, stated.values) for stated in maker.stated for ask in stated.fact.asks]
        assert drawn[1] in answers
        for stated in maker.stated:
            assert all(stated.values[slot] in passage for slot in stated.fact.slots)


@pytest.mark.parametrize("split", SPLITS, ids=str)
def test_all_kinds_of_answers_occur(split: Split) -> None:
    drawn = list(islice(conversations(5, split, 3), 1000))
    kinds = [kind for conversation in drawn for kind in conversation.kinds]
    assert 0.1 < kinds.count("unanswerable") / len(kinds) < 0.5
    assert kinds.count("greeting") >= 20
    for conversation in drawn:
        answers = [message["content"] for message in conversation.messages if message["role"] == "assistant"]
        for kind, answer in zip(conversation.kinds, answers, strict=True):
            assert (answer == UNKNOWN) == (kind == "unanswerable")
        assert not any(re.search(r"<\w+>", message["content"]) for message in conversation.messages)


def test_choose_and_expand_agree() -> None:
    rng = random.Random(1)
    phrase = "{When|At what time} does {the|your} shop[ in <place>] open{| today}?"
    readings = expand(phrase)
    assert len(readings) == 8
    assert {choose(rng, phrase, named=False).lower() for _ in range(200)} == readings
    assert "in <place>" in choose(rng, phrase, named=True)
