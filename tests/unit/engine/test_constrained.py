"""Constrained sequences in the engine: forced text, guesses, preemption and neighbours change nothing but the speed."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from tests.unit.engine.test_invariance import NATIVE_BLOCK_SIZE, WINDOW, load, needs_native
from tests.unit.engine.tiny import BLOCK_SIZE, EOS, VOCAB_SIZE, call, make_model
from tripos.engine.engine import Engine, EngineOptions, Output, TokenOutput
from tripos.engine.llm import LanguageModel
from tripos.engine.scheduler import SchedulerOptions
from tripos.engine.sequence import Sequence
from tripos.errors import AnswerMismatch, GrammarProblem, InvalidRequest, RequestFailed
from tripos.grammar.compiler import CompiledConstraint
from tripos.grammar.limits import admit
from tripos.grammar.matcher import MAX_FORCED_LOOKS, Grammar, Matcher, Vocabulary
from tripos.grammar.verify import AnswerCheck
from tripos.runtime.executor import Executor, ExecutorOptions
from tripos.runtime.native import NativeExecutor
from tripos.testing import ScriptedExecutor
from tripos.types import Constraint, Delta, Priority, Sampling

VOCABULARY = Vocabulary([bytes([i]) for i in range(256)] + [b"</s>"], [EOS], [EOS])
PERSON = (
    '{"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}, "kind": {"enum": ["one", "other"]}},'
    ' "required": ["name", "kind"], "additionalProperties": false}'
)
CONSTRAINTS = [
    Constraint(kind="json_schema", source=PERSON),
    Constraint(kind="regex", source="The (yes|no) is [a-c]{2,9}, and the (yes|no) is [a-c]{2,9}\\."),
    Constraint(kind="lark", source='start: "<" %json {"type": "array", "items": {"const": "long"}, "maxItems": 3} ">"'),
    Constraint(kind="gbnf", source='root ::= "begin " x "end"\nx ::= [a-b] | [a-b] x'),
]  # fmt: skip
MAX_TOKENS = 60


def compiled(constraint: Constraint) -> Grammar:
    return VOCABULARY.compile(admit(constraint).text)


@dataclass(frozen=True)
class Request:
    """From which a fresh Sequence is made for each run; `which` is a place in CONSTRAINTS, None: free."""

    prompt: tuple[int, ...]
    sampling: Sampling
    seed: int
    which: int | None

    def sequence(self, grammars: list[Grammar], priority: Priority = Priority.ONLINE) -> Sequence:
        return Sequence(
            np.array(self.prompt, np.int32),
            MAX_TOKENS,
            self.sampling,
            self.seed,
            eos_ids=frozenset({EOS}),
            priority=priority,
            matcher=None if self.which is None else grammars[self.which].start(),
        )


def make_requests(chance: random.Random, count: int) -> list[Request]:
    requests = []
    for i in range(count):
        sampling = Sampling(
            temperature=chance.choice((0.0, 0.8, 1.5)),
            top_k=chance.choice((0, 0, 20)),
            top_p=chance.choice((1.0, 0.9)),
            repetition_penalty=chance.choice((1.0, 1.0, 1.2)),
            frequency_penalty=chance.choice((0.0, 0.3)),
            logit_bias=chance.choice(({}, {97: 3.0})),
            logprobs=chance.choice((None, None, None, 2)),
        )
        prompt = tuple(chance.randrange(256) for _ in range(chance.randrange(1, 40)))
        requests.append(Request(prompt, sampling, chance.getrandbits(64), None if i % 5 == 4 else i % 5))
    return requests


Answer = tuple[list[TokenOutput], str | None]


def answer(
    executor: Executor, requests: list[Request], num_blocks: int, options: EngineOptions, met: Counter[str]
) -> list[Answer]:
    """What requests give that share an engine and arrive one by one in two priorities."""
    grammars = [compiled(constraint) for constraint in CONSTRAINTS]
    engine = Engine(executor, options)
    sequences = [each.sequence(grammars, Priority(i % 3 == 1)) for i, each in enumerate(requests)]
    tokens: dict[Sequence, list[TokenOutput]] = {each: [] for each in sequences}
    reasons: dict[Sequence, str | None] = {}
    arriving = list(sequences)
    while arriving or engine.has_work:
        for _ in range(min(len(arriving), 4)):
            engine.add(arriving.pop())
        for output in engine.step():
            assert output.error is None, output.error
            tokens[output.sequence] += output.tokens
            met["jumps"] += len(output.tokens) > 1
            if output.is_last:
                reasons[output.sequence] = output.finish_reason
        engine.pool.check_integrity()
    assert engine.pool.num_held == 0
    met["steps"] += engine.num_steps
    met["preemptions"] += engine.scheduler.num_preemptions
    met["guesses that held"] += engine.scheduler.speculator.num_accepted
    return [(tokens[each], reasons[each]) for each in sequences]


def texts(answers: list[Answer]) -> list[bytes]:
    return [bytes(token.token_id for token in tokens if token.token_id != EOS) for tokens, _ in answers]


def check(make: Callable[[int], Executor], num_batches: int) -> None:
    chance = random.Random(8)
    requests = make_requests(chance, 48)
    executor = make(1)
    size = executor.options.block_size  # type: ignore[attr-defined]
    most = 48 * WINDOW // size
    executor.reserve(most)
    plain = SchedulerOptions(max_draft_tokens=0)
    slow = EngineOptions(most, size, WINDOW, plain, jump_ahead=False)
    alone = [answer(executor, [request], most, slow, Counter())[0] for request in requests]
    executor.close()
    for request, (_, reason), text in zip(requests, alone, texts(alone), strict=True):
        if request.which is not None and reason == "stop":
            assert compiled(CONSTRAINTS[request.which]).accepts(list(text)), text
    assert sum(reason == "stop" for _, reason in alone) > 20
    met: Counter[str] = Counter()
    for i in range(num_batches):
        executor = make(1 + i % 2)
        num_blocks = most if i % 2 else 150 // size  # one fits, and a half
        executor.reserve(num_blocks)
        scheduler = SchedulerOptions(
            max_num_seqs=chance.choice((1, 7, 48)) if i else 48,
            token_budget=chance.choice((64, 100)),
            max_prefill_tokens=chance.choice((1, 5, 64)),
            max_draft_tokens=chance.choice((0, 8)),
        )
        options = EngineOptions(num_blocks, size, WINDOW, scheduler)
        chosen = chance.sample(range(len(requests)), chance.randrange(1, len(requests) + 1) if i else len(requests))
        together = answer(executor, [requests[k] for k in chosen], num_blocks, options, met)
        executor.close()
        for k, found in zip(chosen, together, strict=True):
            assert found == alone[k], f"request {k} differs in batch {i}: {options}"
    assert met["preemptions"] > 0
    assert met["jumps"] > 0


def even_clock() -> Callable[[], float]:
    """Every step takes a second. By a real clock a busy machine may find that guesses cost more than they bring, and
    none are made.
    """
    return itertools.count(1.0).__next__


def scripted(threads: int) -> Executor:
    return ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE))


def test_same_tokens_with_jumps_guesses_and_neighbours_as_alone_without() -> None:
    check(scripted, 6)


@needs_native
def test_same_bits_with_jumps_guesses_and_neighbours_as_alone_without() -> None:
    def make(threads: int) -> Executor:
        options = ExecutorOptions(block_size=NATIVE_BLOCK_SIZE, max_num_tokens=512, threads=threads, weights="fp32")
        return load(NativeExecutor(options), "llama")

    check(make, 4)


def test_guesses_are_held_against_the_grammar() -> None:
    """A text that repeats itself is guessed right, within a grammar too; wrong guesses cost nothing but time."""
    pattern = Constraint(kind="regex", source="(?:abcabcabd|abcabcabe){2,9}")
    grammar = compiled(pattern)
    executor = scripted(1)
    executor.reserve(64)
    runs = []
    for drafts in (0, 8):
        options = EngineOptions(64, BLOCK_SIZE, WINDOW, SchedulerOptions(max_draft_tokens=drafts), jump_ahead=False)
        engine = Engine(executor, options, clock=even_clock())
        sequence = Sequence(np.array([1], np.int32), 60, Sampling(), 3, frozenset({EOS}), matcher=grammar.start())
        engine.add(sequence)
        while engine.has_work:
            assert all(output.error is None for output in engine.step())
        runs.append((sequence.tokens[: sequence.num_tokens].tolist(), engine.scheduler.speculator.num_accepted))
    assert runs[0][0] == runs[1][0]
    assert runs[1][1] > 0


def test_forced_text_takes_no_step_per_token() -> None:
    executor = scripted(1)
    executor.reserve(64)
    engine = Engine(executor, EngineOptions(64, BLOCK_SIZE, WINDOW))
    text = "a text of which every byte is known"
    matcher = compiled(literal(f"{text}!|{text}?")).start()
    sequence = Sequence(np.array([1], np.int32), 60, eos_ids=frozenset({EOS}), matcher=matcher)
    engine.add(sequence)
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    assert bytes(token.token_id for output in outputs for token in output.tokens).decode()[:-1] == text
    assert outputs[-1].finish_reason == "stop"
    assert engine.num_steps == 2  # the first byte with the prompt, the others at once with the draw of the last


def test_long_forced_text_takes_turns_with_the_others() -> None:
    """All that is forced is looked at for each token of it: one step takes a part."""
    executor = scripted(1)
    executor.reserve(64)
    text = "".join(chr(97 + i % 26) for i in range(150))
    runs = []
    for jump_ahead in (True, False):
        plain = SchedulerOptions(max_draft_tokens=0)
        engine = Engine(executor, EngineOptions(64, BLOCK_SIZE, WINDOW, plain, jump_ahead=jump_ahead))
        matcher = compiled(literal(text)).start()
        sequence = Sequence(np.array([1], np.int32), 180, eos_ids=frozenset({EOS}), matcher=matcher)
        engine.add(sequence)
        jumps = []
        while engine.has_work:
            jumps += [len(output.tokens) for output in engine.step()]
        runs.append((sequence.tokens[: sequence.num_tokens].tolist(), jumps))
    assert runs[0][0] == runs[1][0]
    assert bytes(token for token in runs[0][0][1:] if token != EOS).decode() == text
    assert MAX_FORCED_LOOKS / 150 < runs[0][1][0] < 20  # of the first step: what it takes, and no more
    assert len(runs[0][1]) < len(runs[1][1]) / 5


def test_forced_text_ends_at_max_tokens() -> None:
    executor = scripted(1)
    executor.reserve(64)
    engine = Engine(executor, EngineOptions(64, BLOCK_SIZE, WINDOW))
    sequence = Sequence(np.array([1], np.int32), 5, matcher=compiled(literal("longer than five")).start())
    engine.add(sequence)
    outputs = engine.step()
    assert [len(output.tokens) for output in outputs] == [5]
    assert outputs[0].finish_reason == "length"
    assert engine.pool.num_held == 0


def literal(text: str) -> Constraint:
    return Constraint(kind="regex", source=text.replace("?", "\\?"))


# -- whole calls ------------------------------------------------------------------------------------------------------
def collect(model: LanguageModel, constraint: Constraint, **fields: object) -> list[tuple[str, str | None]]:
    """Text and finish reason of each choice."""
    asked = call("x", constraint=constraint, **{"max_tokens": 80, "ignore_eos": False, **fields})
    found: dict[int, tuple[str, str | None]] = {}
    for _, event in model.answer([asked]):
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Delta):
            text, reason = found.get(event.index, ("", None))
            found[event.index] = (text + event.text, event.finish_reason or reason)
    return [found[index] for index in sorted(found)]


@pytest.fixture
def model() -> LanguageModel:
    return make_model(num_blocks=128)


def test_choices_are_constrained_each_for_itself() -> None:
    letters = ScriptedExecutor(
        VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE), next_token=lambda tokens, seed, n: 97 + (seed >> n) % 26
    )
    model = make_model(executor=letters)
    answers = collect(model, Constraint(kind="regex", source="[a-z]{8}"), n=4)
    assert len({text for text, _ in answers}) == 4
    assert all(reason == "stop" and len(text) == 8 for text, reason in answers)
    model.close()


def test_an_answer_cut_off_by_max_tokens_says_length(model: LanguageModel) -> None:
    assert collect(model, Constraint(kind="regex", source="[a-z]{8}"), max_tokens=5)[0][1] == "length"
    model.close()


def test_json_is_not_cut_by_a_stop_string(model: LanguageModel) -> None:
    [(text, reason)] = collect(model, Constraint(kind="json_schema", source=PERSON), stop=('"', "na", "}"))
    assert reason == "stop"
    assert text.endswith("}")
    model.close()


def test_a_stop_string_ends_a_text_only_where_it_is_complete(model: LanguageModel) -> None:
    free = collect(model, Constraint(kind="regex", source="(?:ab-cd-ef)(?:-[a-z])*"), stop=("-",))
    assert free == [("ab-cd-ef", "stop")]
    tokens = collect(model, Constraint(kind="regex", source="ab-cd-ef(?:-[a-z])+"), stop_token_ids=(ord("-"),))
    assert tokens[0][0].startswith("ab-cd-ef-")
    model.close()


def test_min_tokens_and_a_constraint_contradict_each_other(model: LanguageModel) -> None:
    with pytest.raises(InvalidRequest, match="min_tokens"):
        collect(model, Constraint(kind="json_object"), min_tokens=2)


def test_logprobs_are_those_of_single_steps(model: LanguageModel) -> None:
    asked = call("x", constraint=literal("forced text"), logprobs=1, max_tokens=40, ignore_eos=False)
    deltas = [event for _, event in model.answer([asked]) if isinstance(event, Delta)]
    logprobs = [each for delta in deltas for each in delta.logprobs or ()]
    assert "".join(each.text for each in logprobs) == "forced text"
    assert all(each.logprob < 0 and len(each.top) == 1 for each in logprobs)
    model.close()


def run_to_end(engine: Engine, sequences: list[Sequence]) -> dict[Sequence, Output]:
    """The last output of each."""
    last: dict[Sequence, Output] = {}
    for sequence in sequences:
        engine.add(sequence)
    while engine.has_work:
        last |= {output.sequence: output for output in engine.step()}
    return last


def test_a_grammar_that_the_vocabulary_cannot_spell_ends_with_an_error_and_others_go_on() -> None:
    """Bytes above 127 are missing from this one."""
    vocabulary = Vocabulary([bytes([i]) if i < 128 else b"" for i in range(256)] + [b"</s>"], [EOS], [EOS])
    stuck, fine = (vocabulary.compile(admit(Constraint(kind="regex", source=s)).text) for s in ("ab?é", "[a-z]{6}"))
    executor = scripted(1)
    executor.reserve(64)
    engine = Engine(executor, EngineOptions(64, BLOCK_SIZE, WINDOW))
    sequences = [Sequence(np.array([i], np.int32), 30, matcher=each.start()) for i, each in enumerate((stuck, fine))]
    last = run_to_end(engine, sequences)
    assert isinstance(last[sequences[0]].error, GrammarProblem)
    assert last[sequences[1]].finish_reason == "stop"


class Panic(BaseException):
    """As a failure inside a compiled library arrives."""


class Failing:
    """A parser that fails in one of its ways, once it has let some calls of it pass."""

    def __init__(self, matcher: Any, way: str, num_good: int) -> None:
        self._matcher, self._way, self._num_good = matcher, way, num_good

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._matcher, name)

        def ask(*args: Any) -> Any:
            self._num_good -= name == self._way
            if self._num_good < 0:
                raise Panic("planted")
            return method(*args)

        return ask


def test_what_a_parser_says_of_its_own_failure_is_neither_told_nor_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Fails:
        def get_error(self) -> str:
            return "panic: a secret at /build/parser.rs:12\n  in a frame"

        def stop_reason(self) -> str:
            return "InternalError"

        def consume_token(self, token: int) -> bool:
            return False

        def compute_ff_tokens(self) -> list[int]:
            raise Panic("a secret at /build/parser.rs:12")

    for asks in (lambda each: each.accept(1), lambda each: list(each.forced())):
        matcher = compiled(CONSTRAINTS[1]).start()
        matcher._matcher = Fails()  # type: ignore[assignment]
        assert not asks(matcher)
        assert matcher.problem is not None
        assert matcher.problem.message == "the grammar cannot be used: the parser fails on it"

    def encode(data: bytes) -> list[int]:
        raise ValueError(f"a secret: {data!r}")

    tokens = [bytes([i]) for i in range(256)] + [b"</s>"]
    assert Vocabulary(tokens, [EOS], [EOS], encode).encode(b"a secret") == list(b"a secret")
    assert len(caplog.records) == 3
    assert "secret" not in caplog.text


# -- answers on an event loop -----------------------------------------------------------------------------------------
async def stream(
    model: LanguageModel, constraint: Constraint, **fields: object
) -> tuple[list[Delta], Exception | None]:
    """What a reader sees, and the error that ended it."""
    deltas: list[Delta] = []
    await model.start()
    try:
        asked = call("x", constraint=constraint, **{"max_tokens": 80, "ignore_eos": False, **fields})
        async for event in model.run(asked):
            if isinstance(event, Delta):
                deltas.append(event)
    except Exception as error:
        return deltas, error
    finally:
        await model.stop()
        assert model.engine.pool.num_held == 0
        model.close()
    return deltas, None


async def test_a_stream_that_does_not_match_ends_with_an_error_and_without_an_ending(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tripos.schema.conformance._Checker._of_object", lambda self, *_: iter(["planted"]))
    deltas, error = await stream(model, Constraint(kind="json_schema", source=PERSON), n=3)
    assert isinstance(error, AnswerMismatch)
    assert "planted" in error.message
    assert all(delta.finish_reason is None for delta in deltas)


@pytest.mark.parametrize("stop", [(), ("-",)], ids=["at its end", "at a stop string"])
async def test_an_answer_that_cannot_be_checked_names_the_check(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch, stop: tuple[str, ...]
) -> None:
    def fail(self: Grammar, tokens: list[int]) -> bool:
        raise GrammarProblem("planted")

    monkeypatch.setattr(Grammar, "accepts", fail)
    monkeypatch.setattr(Matcher, "may_end_behind", fail)
    pattern = Constraint(kind="regex", source="ab-cd-ef")
    _, error = await stream(model, pattern, stop=stop)
    assert isinstance(error, RequestFailed)
    assert error.message == "the answer could not be held against its grammar once more: planted"
    with pytest.raises(RequestFailed, match="once more: planted"):
        collect(make_model(), pattern, stop=stop)


@pytest.mark.parametrize("num_words", [40, 400])
def test_a_stop_string_costs_as_much_late_as_early(model: LanguageModel, num_words: int) -> None:
    """Of a long answer full of the stop string, each token is followed a few times, however many came before."""
    grammar = model._grammars.compile(Constraint(kind="regex", source="(?:ab-)*end")).grammar
    check = AnswerCheck(CompiledConstraint(grammar, "", None, 0), has_stops=True)
    before = grammar.num_tokens
    for i, char in enumerate("ab-" * num_words):
        check.push(ord(char), char)
        if char == "-":
            assert not check.may_stop(i)
    assert grammar.num_tokens - before <= 2 * 3 * num_words
    for char in "end-":
        check.push(ord(char), char)
    assert check.may_stop(3 * num_words + 3)
    assert not check.may_stop(3 * num_words + 2)  # backwards
    assert check.may_stop(3 * num_words + 3)


def test_text_within_a_token_may_end_an_answer(model: LanguageModel) -> None:
    grammar = model._grammars.compile(Constraint(kind="regex", source="a(?:b-)?")).grammar
    check = AnswerCheck(CompiledConstraint(grammar, "", None, 0), has_stops=True)
    check.push(ord("a"), "a")
    check.push(ord("b"), "b-")  # as if one token had both characters
    assert check.may_stop(1)
    assert not check.may_stop(2)
    assert check.may_stop(1)


async def test_a_long_check_holds_nobody_up(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    checking, may_end = threading.Event(), threading.Event()

    def slow(self: AnswerCheck, stop_token: int | None) -> None:
        checking.set()
        assert may_end.wait(10), "the event loop stands still"

    monkeypatch.setattr(AnswerCheck, "violation", slow)
    reading = asyncio.create_task(stream(model, literal("a text")))
    while not checking.is_set():
        await asyncio.sleep(0.001)
    may_end.set()
    deltas, error = await reading
    assert error is None
    assert "".join(delta.text for delta in deltas) == "a text"
    assert deltas[-1].finish_reason == "stop"


# -- parsers that fail ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("num_good", [0, 2])
@pytest.mark.parametrize(
    "way",
    ["consume_token", "validate_tokens", "compute_ff_tokens", "is_stopped", "is_accepting", "unsafe_compute_mask_ptr"],
)
def test_a_parser_that_panics_ends_its_sequence_and_no_other(way: str, num_good: int) -> None:
    executor = scripted(1)
    executor.reserve(64)
    options = EngineOptions(64, BLOCK_SIZE, WINDOW, jump_ahead=way == "compute_ff_tokens")
    engine = Engine(executor, options, clock=even_clock())
    pattern = compiled(Constraint(kind="regex", source="(?:abcabcabd|abcabcabe){6,9}"))
    stops = Sampling(stop_token_ids=tuple(b"abcde"))
    sequences = [Sequence(np.array([i], np.int32), 60, stops, 3, matcher=pattern.start()) for i in range(2)]
    matcher = sequences[0].matcher
    assert isinstance(matcher, Matcher)
    matcher._matcher = Failing(matcher._matcher, way, num_good)  # type: ignore[assignment]
    last = run_to_end(engine, sequences)
    assert isinstance(last[sequences[0]].error, GrammarProblem)
    assert last[sequences[1]].finish_reason == "stop"
    assert engine.pool.num_held == 0


def test_an_executor_that_ignores_the_mask_is_found_out() -> None:
    class Deaf(ScriptedExecutor):
        def run(self, step):  # type: ignore[no-untyped-def]
            step.sampling.mask_row[:] = -1
            return super().run(step)

    model = make_model(executor=Deaf(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE)))
    with pytest.raises((RequestFailed, InvalidRequest)):
        collect(model, Constraint(kind="regex", source="[0-9]{20}"))
    model.close()


def test_a_finished_text_that_does_not_match_is_an_error_not_an_answer(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tripos.schema.conformance._Checker._of_object", lambda self, *_: iter(["planted"]))
    with pytest.raises(AnswerMismatch, match="planted"):
        collect(model, Constraint(kind="json_schema", source=PERSON))
    model.close()
