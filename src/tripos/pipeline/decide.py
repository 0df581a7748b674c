"""Typed decisions by a language model: a Decide becomes one Generate that reads how likely each option's label is.

Each question is a prompt of its own, and what all of them begin with (the state) is computed once. Nothing is written
by the model: a read is the distribution of the token after the prompt. Owns the prompt's wording and the labels;
calibration and thresholds belong between the read and the Decision.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from msgspec.structs import replace

from tripos.errors import InvalidRequest, RequestFailed
from tripos.pipeline.chain import result_of
from tripos.types import (
    Branch,
    Call,
    Decide,
    Decision,
    Delta,
    Event,
    Finish,
    Generate,
    LabelTokens,
    Message,
    Question,
    ReasoningOptions,
    Result,
    Run,
    Sampling,
    Stage,
    TokenLogprob,
)

_LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_PAIRS = tuple(one + other for one in _LETTERS for other in _LETTERS)
_REPLY = {
    "predicate": "Answer with Yes or No only.",
    "choice": "Answer with the letter of one option only.",
    "score": "Answer with the number of one level only.",
}


Labels = tuple[tuple[str, ...], ...]  # of the options of a question, each as texts that mean the same
Paths = tuple[tuple[int, tuple[int, ...]], ...]  # (index of the label, token ids)


def decide() -> Stage:
    """A stage that answers Decide with the model below it, a language model, which it asks once how labels are written.
    Every other request passes untouched. A model that reasons is read with its reasoning turned off.

    Raises InvalidRequest when the tokenizer has no tokens for the labels, and what the model raises.
    """
    paths: dict[Labels, Paths] = {}

    def stage(call: Call, run: Run) -> AsyncGenerator[Event, None]:
        return _decisions(call, run, paths) if isinstance(call.request, Decide) else run(call)

    return stage


async def _decisions(call: Call, run: Run, paths: dict[Labels, Paths]) -> AsyncGenerator[Event, None]:
    """`paths`: of labels that were looked up before."""
    request: Decide = call.request  # type: ignore[assignment]
    for labels in {labels_of(question) for question in request.questions} - paths.keys():
        paths[labels] = (await result_of(run(replace(call, request=LabelTokens(labels=labels))))).label_tokens
    readings = await asyncio.to_thread(_readings, request, paths)
    tokens: dict[int, TokenLogprob] = {}
    finish: Finish | None = None
    async with aclosing(run(replace(call, request=_generate(request, readings)))) as events:
        async for event in events:
            if isinstance(event, Delta) and event.logprobs:
                tokens[event.index] = event.logprobs[0]
            elif isinstance(event, Finish):
                finish = event
    if finish is None or len(tokens) != sum(len(each.reads) for each in readings):
        raise RequestFailed("the model ended without a token for each read: this is a bug in Tripos")
    yield Result(decisions=tuple(_decide(request, readings, tokens)))
    yield replace(finish, reason="stop")


# -- labels ---------------------------------------------------------------------------------------------------------
def labels_of(question: Question) -> Labels:
    """Each option's label, as the texts that mean it. No label is the beginning of another."""
    num_options = len(question.options)
    if question.kind == "predicate":
        return (("Yes", "yes"), ("No", "no"))
    if question.kind == "score":
        return tuple((str(i),) for i in range(num_options))
    codes = _LETTERS if num_options <= len(_LETTERS) else _PAIRS
    return tuple((code,) for code in codes[:num_options])


@dataclass
class Read:
    """What is looked at after a prompt and `path`: tokens, each telling a label apart or leading to another Read."""

    path: tuple[int, ...]
    leaves: dict[int, int] = field(default_factory=dict)  # token id -> index of the label
    inner: dict[int, Read] = field(default_factory=dict)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return (*self.leaves, *self.inner)

    def all(self) -> list[Read]:
        return [self, *(each for read in self.inner.values() for each in read.all())]


def read_of(paths: Sequence[tuple[int, tuple[int, ...]]], before: tuple[int, ...] = ()) -> Read:
    """The reads that tell labels apart by their first differing tokens. Raises InvalidRequest when they cannot be."""
    read = Read(before)
    by_token: dict[int, list[tuple[int, tuple[int, ...]]]] = {}
    for label, path in paths:
        if len(path) == len(before):
            raise InvalidRequest("the model's vocabulary cannot tell the labels of the options apart", param="model")
        by_token.setdefault(path[len(before)], []).append((label, path))
    for token_id, below in by_token.items():
        if len({label for label, _ in below}) == 1:
            read.leaves[token_id] = below[0][0]
        else:
            read.inner[token_id] = read_of(below, (*before, token_id))
    return read


# -- asking ---------------------------------------------------------------------------------------------------------
@dataclass
class Reading:
    """A question in one order of its options; `reads` are choices of the call, from `first_idx` on."""

    question: Question
    is_reversed: bool
    prompt: tuple[Message, ...]
    reads: list[Read]
    first_idx: int


def _readings(request: Decide, paths: Mapping[Labels, Paths]) -> list[Reading]:
    readings: list[Reading] = []
    num_reads = 0
    for question in request.questions:
        labels = labels_of(question)
        reads = read_of(paths[labels]).all()
        orders = request.option_orders if question.kind == "choice" else 1
        for is_reversed in (False, True)[:orders]:
            prompt = prompt_of(request, question, labels, is_reversed)
            readings.append(Reading(question, is_reversed, prompt, reads, num_reads))
            num_reads += len(reads)
    return readings


def prompt_of(
    request: Decide, question: Question, labels: Sequence[tuple[str, ...]], is_reversed: bool = False
) -> tuple[Message, ...]:
    """The state first, so that all questions share it; one message, since not every template knows system messages."""
    options = question.options[::-1] if is_reversed else question.options
    lines = [f"Question: {question.instructions.strip()}"]
    for texts, option in zip(labels, options, strict=False):  # a predicate may have none
        words = [option.name] if question.kind != "predicate" else []
        words += [option.description.strip()] if option.description.strip() else []
        lines += [f"{texts[0]}: {' - '.join(words)}"] if words else []
    parts = (request.instructions.strip(), request.state, "\n".join(lines), _REPLY[question.kind])
    return (Message(role="user", content="\n\n".join(part for part in parts if part)),)


def _generate(request: Decide, readings: Sequence[Reading]) -> Generate:
    reads = [(each.prompt, read) for each in readings for read in each.reads]
    (prompt, first), others = reads[0], reads[1:]
    return Generate(
        prompt=prompt,
        max_tokens=1,
        sampling=Sampling(temperature=0.0, seed=0, ignore_eos=True, logprobs=0, logprob_token_ids=first.token_ids),
        reasoning=ReasoningOptions(is_on=False),
        template_args=request.template_args,
        cache_salt=request.cache_salt,
        branches=tuple(
            Branch(prompt=prompt, suffix=read.path, logprob_token_ids=read.token_ids) for prompt, read in others
        ),
    )


# -- answering ------------------------------------------------------------------------------------------------------
def _decide(request: Decide, readings: Sequence[Reading], tokens: dict[int, TokenLogprob]) -> list[Decision]:
    decisions: list[Decision] = []
    for each in readings:
        decision = _read_out(each, tokens)
        decisions.append(_average(decisions.pop(), decision) if each.is_reversed else decision)
    return [
        replace(decision, probabilities=()) if decision.label_mass < request.min_label_mass else decision
        for decision in decisions
    ]


def _read_out(reading: Reading, tokens: dict[int, TokenLogprob]) -> Decision:
    token_of = {read.path: tokens[reading.first_idx + i] for i, read in enumerate(reading.reads)}
    found: dict[int, list[float]] = {}

    def collect(read: Read, before: float) -> None:
        logprobs = dict(zip(read.token_ids, token_of[read.path].requested, strict=True))
        for token_id, label in read.leaves.items():
            found.setdefault(label, []).append(before + logprobs[token_id])
        for token_id, inner in read.inner.items():
            collect(inner, before + logprobs[token_id])

    root = reading.reads[0]
    collect(root, 0.0)
    logprobs = [_log_sum(found[label]) for label in sorted(found)]
    total = _log_sum(logprobs)
    probabilities = [math.exp(logprob - total) for logprob in logprobs]
    if reading.is_reversed:
        probabilities.reverse()
    return Decision(
        probabilities=_normalized(probabilities),
        label_mass=min(1.0, math.exp(total)),
        argmax_is_label=tokens[reading.first_idx].token_id in root.token_ids,
    )


def _average(one: Decision, other: Decision) -> Decision:
    pairs = list(zip(one.probabilities, other.probabilities, strict=True))
    return Decision(
        probabilities=_normalized([(p + q) / 2 for p, q in pairs]),
        label_mass=(one.label_mass + other.label_mass) / 2,
        argmax_is_label=one.argmax_is_label and other.argmax_is_label,
        order_shift=min(1.0, sum(abs(p - q) for p, q in pairs) / 2),
    )


def _normalized(weights: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def _log_sum(logprobs: Sequence[float]) -> float:
    """log of the sum of exp, summed in the order given."""
    largest = max(logprobs)
    return largest + math.log(math.fsum(math.exp(each - largest) for each in logprobs))
