"""Generates customer-support conversations about made-up passages, the same ones for the same seed.

A passage states several facts (facts.txt) about made-up subjects (values.py); the questions are about stated
facts, or about what the passage leaves out. `Split` says on which side the phrasing and the values lie.

    python -m training.generate --count 3 --held-out
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from training.facts import Ask, Fact, choose, fill, load_facts
from training.phrases import (
    FILLERS,
    OFF_TOPIC,
    OPENERS,
    SMALL_TALK,
    SYSTEM_WITH_PASSAGE,
    SYSTEM_WITHOUT_PASSAGE,
    TITLES,
    UNKNOWN,
    USER_WITH_PASSAGE,
)
from training.values import MAKERS, make_value

Message = dict[str, str]

# What a place may be called; the phrases say store, shop or branch.
PLACE_NOUNS = [
    "office",
    "support desk",
    "showroom",
    "cafe",
    "library",
    "warehouse",
    "desk",
    "restaurant",
    "museum",
    "kiosk",
]

# Put in the place of, or beside, a word of a training question.
_BLUR_TEXT = """
the a your my our this that it any some of for to in on at with from by is are was do does can may must will have
get give take make find know need want use see much many long early late soon big good kind sort type period level
number name value point way thing date day time place
"""
BLUR_WORDS = _BLUR_TEXT.split()

ASKS, FACTS = load_facts()
KINDS = sorted({fact.kind for fact in FACTS})

# Questions that a careful reader could also answer from the other fact: never asked as unanswerable beside it.
NEAR = [
    {"open", "close", "hours", "days", "closedday"},
    {"address", "office"},
    {"shiptime", "arrival"},
    {"status", "arrival", "carrier"},
    {"email", "phone", "website"},
    {"cancel", "returns"},
    {"shipcost", "freeship"},
]


@dataclass(frozen=True)
class Split:
    """Which side the phrasing and the values come from (True: held out)."""

    phrasing: bool
    values: bool


TRAINING = Split(phrasing=False, values=False)
NEW_PHRASING = Split(phrasing=True, values=False)
NEW_BOTH = Split(phrasing=True, values=True)


@dataclass(frozen=True)
class Conversation:
    """Messages in turn; `kinds` names each answer: answerable, unanswerable or greeting."""

    messages: list[Message]
    kinds: list[str]


@dataclass
class Stated:
    """A fact as a passage states it: the subject's name is among the values, under its kind."""

    fact: Fact
    values: dict[str, str]
    named: bool


class PassageMaker:
    """Draws one passage and the questions about it."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self.rng = rng
        self.split = split
        self.stated: list[Stated] = []
        self.subjects: dict[str, list[str]] = {}
        self.named: dict[str, bool] = {}
        self.place_noun = rng.choice(PLACE_NOUNS) if rng.random() < 0.1 else ""

    def write(self) -> str:
        """Choose subjects and facts, then write them down."""
        self._choose_subjects()
        self._choose_facts(self.rng.choice((1, 2, 2, 3, 3, 4)))
        return self._join(self._sentences())

    def _choose_subjects(self) -> None:
        rng = self.rng
        for kind in rng.sample(KINDS, rng.choice((1, 1, 1, 2))):
            count = rng.choice((1, 1, 1, 2))
            names = [] if kind == "company" else [self._value(kind) for _ in range(count)]
            self.subjects[kind] = list(dict.fromkeys(names)) or [""]
            self.named[kind] = kind != "place" or len(self.subjects[kind]) > 1 or rng.random() < 0.5

    def _choose_facts(self, count: int) -> None:
        rng = self.rng
        taken: set[tuple[str, str]] = set()
        candidates = [(fact, name) for fact in FACTS for name in self.subjects.get(fact.kind, [])]
        rng.shuffle(candidates)
        if len(self.subjects) == 1 and rng.random() < 0.15:  # the same few facts about several subjects
            keep = {fact.name for fact, _ in candidates[:2]}
            candidates = [pair for pair in candidates if pair[0].name in keep]
        for fact, name in candidates:
            asks = {(ask, name) for ask in fact.asks}
            if len(self.stated) >= count:
                break
            if not asks & taken:
                taken |= asks
                values = {slot: self._value(kind) for slot, kind in fact.slots.items()} | {fact.kind: name}
                self.stated.append(Stated(fact, values, self.named[fact.kind]))
        if rng.random() < 0.5:
            self.stated.sort(key=lambda stated: stated.values[stated.fact.kind])

    def _sentences(self) -> list[str]:
        rng = self.rng
        sentences: list[str] = []
        previous = ""
        for stated in self.stated:
            text = self._phrase(stated.fact, stated.values, stated.named)
            subject = stated.values[stated.fact.kind]
            start = f"The {subject} "
            if subject and subject == previous and text.startswith(start):
                style = rng.random()
                if style < 0.2:  # one sentence for both facts
                    text = f"{sentences.pop()[:-1]} and {text[len(start) :]}"
                elif style < 0.5:
                    text = "It " + text[len(start) :]
            sentences.append(text)
            previous = subject
        for _ in range(rng.choice((0, 0, 0, 1))):
            filler = rng.choice(FILLERS.pick(self.split.phrasing))
            sentences.insert(rng.randint(0, len(sentences)), filler)
        return sentences

    def _join(self, sentences: list[str]) -> str:
        rng = self.rng
        style = rng.random()
        if style < 0.7:
            text = " ".join(sentences)
        elif style < 0.78:
            text = "\n".join(sentences)
        elif style < 0.86:
            text = "\n".join("- " + sentence for sentence in sentences)
        elif style < 0.93:
            text = "\n".join(f"[{number}] {sentence}" for number, sentence in enumerate(sentences, 1))
        else:
            text = "\n\n".join(sentences)
        if rng.random() < 0.12:
            title = rng.choice(TITLES.pick(self.split.phrasing))
            text = rng.choice((f"{title}\n{text}", f"{title}: {text}", f"# {title}\n\n{text}"))
        return text

    def _value(self, kind: str) -> str:
        return make_value(self.rng, kind, self.split.values)

    def _phrase(self, source: Ask | Fact, values: dict[str, str], named: bool) -> str:
        phrases = source.held_out if self.split.phrasing else source.training
        phrase = choose(self.rng, self.rng.choice(phrases), named)
        if source.kind == "place" and self.place_noun:
            phrase = re.sub(r"\b(store|shop|branch)\b(?! hours| manager)", self.place_noun, phrase)
        return fill(phrase, values)

    def question(self, answerable: bool) -> tuple[str, str] | None:
        """A question and its answer; None if the draw has no such question (draw again)."""
        return self._stated_question() if answerable else self._missing_question()

    def _stated_question(self) -> tuple[str, str]:
        stated = self.rng.choice(self.stated)
        ask = ASKS[self.rng.choice(stated.fact.asks)]
        named = stated.named and (len(self.subjects[ask.kind]) > 1 or self.rng.random() < 0.5)
        question = self._phrase(ask, stated.values, named)
        return self._restyle(question), fill(ask.answer, stated.values)

    def _missing_question(self) -> tuple[str, str] | None:
        rng = self.rng
        if rng.random() < 0.08:
            return self._restyle(rng.choice(OFF_TOPIC.pick(self.split.phrasing))), UNKNOWN
        fact = rng.choice(FACTS)
        if rng.random() < 0.6:  # close to what the passage is about
            fact = rng.choice([fact for fact in FACTS if fact.kind in self.subjects])
        ask = ASKS[rng.choice(fact.asks)]
        subject, named = self._missing_subject(ask)
        near = {ask.name}.union(*(group for group in NEAR if ask.name in group))
        for stated in self.stated:
            is_same = (
                ask.kind != "place" and stated.values[stated.fact.kind] != subject and ask.kind == stated.fact.kind
            )
            if near & set(stated.fact.asks) and not (is_same and named) and stated.values.get("trait") is None:
                return None
        values = {slot: self._value(kind) for slot, kind in fact.slots.items()} | {ask.kind: subject}
        if (
            ask.kind == "place"
            and named
            and subject not in self.subjects.get("place", [])
            and not self.named.get("place", True)
        ):
            return None
        if any(
            stated.values.get("trait") == values.get("trait") and stated.values[stated.fact.kind] == subject
            for stated in self.stated
            if "trait" in stated.values
        ):
            return None
        return self._restyle(self._phrase(ask, values, named)), UNKNOWN

    def _missing_subject(self, ask: Ask) -> tuple[str, bool]:
        rng = self.rng
        known = self.subjects.get(ask.kind, [])
        if ask.kind == "company":
            return "", False
        if known and rng.random() < 0.5:
            return rng.choice(known), self.named[ask.kind]
        while (subject := self._value(ask.kind)) in known:
            pass
        return subject, True

    def _restyle(self, question: str) -> str:
        rng = self.rng
        if rng.random() < 0.1:
            opener = rng.choice(OPENERS.pick(self.split.phrasing))
            question = opener + (
                question if opener.endswith((". ", "! ", ": ")) else question[0].lower() + question[1:]
            )
        if rng.random() < 0.1:
            question = question.rstrip("?.")
        if rng.random() < 0.1:
            question = question[0].lower() + question[1:]
        return question if self.split.phrasing else self._blur(question)

    def _blur(self, question: str) -> str:
        """Training questions lose or gain a plain word now and then, so that an unknown phrase does not by itself
        read as a question that the passage leaves open."""
        rng = self.rng
        words = question.split(" ")
        plain = [i for i, word in enumerate(words) if i and word.isalpha() and word.islower()]
        if not plain or rng.random() < 0.4:
            return question
        for _ in range(rng.choice((1, 1, 2))):
            place, choice = rng.choice(plain), rng.random()
            if choice < 0.5:
                words[place] = ""
            elif choice < 0.8:
                words[place] = rng.choice(BLUR_WORDS)
            else:
                words[place] += " " + rng.choice(BLUR_WORDS)
        return " ".join(word for word in words if word)


def make_conversation(rng: random.Random, split: Split, max_turns: int, answerable_share: float = 0.72) -> Conversation:
    """One conversation of 1 to `max_turns` questions; about one in sixteen has no passage."""
    if rng.random() < 0.06:
        return _talk_without_passage(rng, split, max_turns)
    maker = PassageMaker(rng, split)
    passage = maker.write()
    in_system = rng.random() < 0.5
    wrapper = rng.choice((SYSTEM_WITH_PASSAGE if in_system else USER_WITH_PASSAGE).pick(split.phrasing))
    messages: list[Message] = []
    kinds: list[str] = []
    if in_system:
        messages.append({"role": "system", "content": wrapper.replace("<p>", passage)})
    elif rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_WITHOUT_PASSAGE.pick(split.phrasing))})
    for turn in range(rng.randint(1, max_turns)):
        kind = "answerable" if rng.random() < answerable_share else "unanswerable"
        if in_system and rng.random() < 0.04:
            kind = "greeting"
            question, answer = _small_talk(rng, split)
        else:
            question, answer = _draw_question(maker, kind == "answerable", messages)
        if turn == 0 and not in_system:
            question = wrapper.replace("<q>", question).replace("<p>", passage)
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        kinds.append(kind)
    return Conversation(messages, kinds)


def _draw_question(maker: PassageMaker, answerable: bool, messages: list[Message]) -> tuple[str, str]:
    """A question whose answer has not been given before, if a few draws find one."""
    given = {message["content"] for message in messages}
    for attempt in range(1000):
        drawn = maker.question(answerable)
        if drawn and (drawn[1] == UNKNOWN or drawn[1] not in given or attempt > 5):
            return drawn
    raise RuntimeError("no question found in 1000 draws: this is a bug in the generator")


def _small_talk(rng: random.Random, split: Split) -> tuple[str, str]:
    answer = rng.choice(sorted(SMALL_TALK))
    text = rng.choice(SMALL_TALK[answer].pick(split.phrasing))
    text = text.lower() if rng.random() < 0.2 else text
    return rng.choice((text, text, text.rstrip("?!."), text.rstrip("?!.") + rng.choice("!."))), answer


def _talk_without_passage(rng: random.Random, split: Split, max_turns: int) -> Conversation:
    messages: list[Message] = []
    kinds: list[str] = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_WITHOUT_PASSAGE.pick(split.phrasing))})
    for _ in range(rng.randint(1, max_turns)):
        if rng.random() < 0.6:
            question, answer = _small_talk(rng, split)
            kinds.append("greeting")
        else:
            maker = PassageMaker(rng, split)
            maker.write()
            question, answer = maker._stated_question()[0], UNKNOWN
            kinds.append("unanswerable")
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Conversation(messages, kinds)


def make_repetition(rng: random.Random, split: Split) -> Conversation:
    """Some values to be said again: an exercise in copying, for training only."""
    kinds = rng.choices(sorted(MAKERS), k=rng.randint(4, 12))
    text = rng.choice((" ", ", ", ". ")).join(make_value(rng, kind, split.values) for kind in kinds)
    messages = [{"role": "user", "content": f"Repeat: {text}"}, {"role": "assistant", "content": text}]
    return Conversation(messages, ["repetition"])


def conversations(
    seed: int | str, split: Split, max_turns: int, answerable_share: float = 0.72, repetition_share: float = 0.0
) -> Iterator[Conversation]:
    """Endless conversations; the same seed gives the same ones."""
    rng = random.Random(seed)
    while True:
        if repetition_share and rng.random() < repetition_share:
            yield make_repetition(rng, split)
        else:
            yield make_conversation(rng, split, max_turns, answerable_share)


def main() -> None:
    """Print conversations as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-turns", type=int, default=3)
    parser.add_argument("--held-out", action="store_true", help="new phrasing and new values")
    options = parser.parse_args()
    source = conversations(options.seed, NEW_BOTH if options.held_out else TRAINING, options.max_turns)
    for conversation in islice(source, options.count):
        print(json.dumps({"messages": conversation.messages, "kinds": conversation.kinds}, ensure_ascii=False))


if __name__ == "__main__":
    main()
