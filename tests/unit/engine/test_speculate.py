"""Speculation: what is drafted, when it pays, and that nobody can tell from the output."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.engine.test_invariance import NATIVE_BLOCK_SIZE, load, needs_native
from tests.unit.engine.tiny import BLOCK_SIZE, EOS, VOCAB_SIZE, call, make_engine, make_model
from tripos.engine.engine import Engine, EngineOptions, TokenOutput
from tripos.engine.scheduler import SchedulerOptions
from tripos.engine.sequence import Sequence
from tripos.engine.speculate import FIRST_RATES, FORGET_AFTER, NgramProposer, Speculator, StepCosts
from tripos.runtime.executor import Executor, ExecutorOptions, StepInput
from tripos.runtime.native import NativeExecutor
from tripos.testing import ScriptedExecutor
from tripos.types import Delta, Priority, Sampling

WINDOW = 96
Answer = tuple[list[TokenOutput], list[TokenOutput], str | None, int | None]


def known(tokens: list[int], max_tokens: int = 100) -> Sequence:
    return Sequence(np.array(tokens, np.int32), max_tokens)


# -- drafting -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([1, 2, 3, 4, 1, 2], [3, 4, 1]),
        ([9, 1, 2, 3, 8, 1, 2, 4, 9, 1, 2], [3, 8, 1]),  # the longest ending, not the latest
        ([1, 2, 3, 1, 2, 4, 1, 2], [4, 1, 2]),  # of equal ones the latest
        ([5, 6, 5, 6], [5, 6, 5]),  # what overlaps the end repeats itself
        ([7, 7, 7], [7, 7, 7]),
        ([1, 2, 3, 4], []),
        ([1], []),
    ],
)
def test_what_followed_the_longest_equal_ending_is_drafted(tokens: list[int], draft: list[int]) -> None:
    proposer = NgramProposer(FIRST_RATES)
    proposer.propose(known(tokens), 3)
    assert proposer.draft == draft


def test_an_index_that_grows_with_its_sequence_drafts_as_a_fresh_one() -> None:
    chance = random.Random(1)
    sequence, proposer = known([1, 2]), NgramProposer(FIRST_RATES)
    for _ in range(300):
        for _ in range(chance.randrange(4)):
            sequence.append(chance.randrange(4))
        fresh = NgramProposer(FIRST_RATES)
        for each in (proposer, fresh):
            each.propose(sequence, 5)
        assert proposer.draft == fresh.draft


def test_drafts_are_judged_even_if_no_step_computed_them() -> None:
    proposer = NgramProposer((0.5, 0.5))
    proposer.propose(known([1, 2, 3, 1, 2]), 3)
    proposer.settle([3])
    assert proposer.rates[0] > 0.5
    proposer.propose(known([1, 2, 3, 1, 2]), 3)
    proposer.settle([9])
    assert proposer.rates[0] < 0.5


# -- when it pays ---------------------------------------------------------------------------------------------------
def measured(seconds: Callable[[int], float], num_sequences: int, rounds: int = 30) -> StepCosts:
    costs = StepCosts()
    for _ in range(rounds):
        for num_drafts in (0, 1, 2, 4, 8, 16, 32):
            costs.observe(num_sequences, num_drafts, seconds(num_sequences + num_drafts))
    return costs


def test_where_weights_are_the_cost_likely_drafts_pay_and_unlikely_ones_do_not() -> None:
    costs = measured(lambda num_tokens: 3.0 + 0.3 * num_tokens, 1)
    assert costs.best(1, [0.9**i for i in range(1, 9)]) >= 4
    assert costs.best(1, [0.02, 0.01]) == 0


def test_where_arithmetic_is_the_cost_nothing_is_drafted() -> None:
    costs = measured(lambda num_tokens: 1.0 * num_tokens, 64)
    assert costs.best(64, [0.95] * 32) == 0


def test_nothing_is_drafted_before_a_plain_step_was_measured() -> None:
    assert StepCosts().best(1, [1.0]) == 0


def test_what_is_not_measured_is_tried_and_a_bad_experience_lasts_only_a_while() -> None:
    costs = StepCosts()
    costs.observe(1, 0, 3.0)
    assert costs.best(1, [0.5, 0.25]) == 2, "tried"
    costs.observe(1, 1, 6.0)
    costs.observe(1, 2, 9.0)
    assert costs.best(1, [0.5, 0.25]) == 0, "found too dear"
    for _ in range(FORGET_AFTER + 1):
        costs.observe(1, 0, 3.0)
    assert costs.best(1, [0.5, 0.25]) == 2, "tried again"


def test_a_large_batch_that_finds_nothing_seldom_looks() -> None:
    speculator = Speculator(8)
    sequences = [known([i, 1, 2, 3, i, 1]) for i in range(40)]
    num_looks = 0
    for _ in range(200):
        speculator.propose(sequences, 100)
        num_looks += bool(speculator._proposers)
        speculator._proposers.clear()
    assert 1 <= num_looks < 20


def test_forgotten_sequences_leave_nothing() -> None:
    engine = make_engine()
    engine.add(known([1, 2, 3, 1, 2], 8))
    while engine.has_work:
        engine.step()
    assert not engine.scheduler.speculator._proposers


# -- nobody can tell ------------------------------------------------------------------------------------------------
class Oracle:
    """Drafts what will come, up to a place where it begins to err. Stands in for Speculator.propose."""

    def __init__(self, chance: random.Random, text_of: dict[int, list[int]]) -> None:
        self.chance = chance
        self.text_of = text_of  # by seed

    def propose(self, sequences: list[Sequence], max_tokens: int) -> list[tuple[Sequence, list[int]]]:
        drafts = []
        for sequence in sequences:
            room = min(max_tokens, 9, sequence.max_num_tokens - sequence.num_tokens - 1)
            if sequence.history is None and room > 0 and self.chance.random() < 0.7:
                count = self.chance.randrange(1, room + 1)
                text = self.text_of[sequence.seed][sequence.num_output_tokens :][:count]
                text += [self.chance.randrange(VOCAB_SIZE) for _ in range(count - len(text))]
                if self.chance.random() < 0.5:
                    text[self.chance.randrange(count)] = self.chance.randrange(VOCAB_SIZE)
                drafts.append((sequence, text))
                max_tokens -= count
        return drafts


def make_sequences(chance: random.Random, count: int) -> Callable[[], list[Sequence]]:
    """A maker of always the same sequences; seeds tell them apart."""
    common = [chance.randrange(VOCAB_SIZE) for _ in range(24)]
    recipes = []
    for seed in range(count):
        prompt = chance.choice((common[: chance.randrange(24)], [])) + [
            chance.randrange(VOCAB_SIZE) for _ in range(chance.randrange(1, 20))
        ]
        sampling = Sampling(
            temperature=chance.choice((0.0, 0.0, 0.8)),
            top_p=chance.choice((1.0, 0.9)),
            presence_penalty=chance.choice((0.0, 0.0, 0.0, 0.5)),
            logit_bias=chance.choice(({}, {3: 2.0})),
            logprobs=chance.choice((None, 0, 3)),
            min_tokens=chance.choice((0, 0, 6)),
            stop_token_ids=tuple(chance.sample(range(VOCAB_SIZE), chance.choice((0, 0, 12)))),
        )
        max_tokens = min(chance.choice((1, 2, 7, 40)), WINDOW - len(prompt))
        recipes.append((prompt, max_tokens, sampling, seed, chance.choice((None, None, 1)), Priority(seed % 3 == 1)))

    def make() -> list[Sequence]:
        return [
            Sequence(np.array(prompt, np.int32), max_tokens, sampling, seed, frozenset({EOS}),
                     prompt_logprobs=prompt_logprobs, priority=priority)
            for prompt, max_tokens, sampling, seed, prompt_logprobs, priority in recipes
        ]  # fmt: skip

    return make


def run(engine: Engine, sequences: list[Sequence]) -> list[Answer]:
    found: dict[Sequence, Answer] = {each: ([], [], None, None) for each in sequences}
    arriving = list(sequences)
    while arriving or engine.has_work:
        for _ in range(min(len(arriving), 3)):
            engine.add(arriving.pop())
        for output in engine.step():
            assert output.error is None, output.error
            tokens, prompt, _, _ = found[output.sequence]
            tokens += output.tokens
            prompt += output.prompt_logprobs
            found[output.sequence] = (tokens, prompt, output.finish_reason, output.stop_token)
    engine.pool.check_integrity()
    assert engine.pool.num_held == 0
    return list(found.values())


def check(make: Callable[[], Executor], chance: random.Random, count: int, num_batches: int) -> tuple[int, int, int]:
    """Compares with plain decoding, one sequence at a time; returns tokens drafted, accepted, and preemptions."""
    recipes = make_sequences(chance, count)
    executor = make()
    size = executor.options.block_size  # type: ignore[attr-defined]
    roomy, tight = count * WINDOW // size, 2 * WINDOW // size
    executor.reserve(roomy)
    plain = []
    for each in recipes():
        engine = Engine(executor, EngineOptions(roomy, size, WINDOW, SchedulerOptions(max_draft_tokens=0)))
        plain += run(engine, [each])
    executor.close()
    totals = (0, 0, 0)
    for i in range(num_batches):
        executor = make()
        num_blocks = chance.choice((roomy, tight))
        executor.reserve(num_blocks)
        options = SchedulerOptions(
            max_num_seqs=chance.choice((1, 4, 16)), token_budget=chance.choice((16, 40, 256)),
            max_num_rows=chance.choice((16, 64)), max_prefill_tokens=chance.choice((3, 256)),
        )  # fmt: skip
        engine = Engine(executor, EngineOptions(num_blocks, size, WINDOW, options))
        speculator = engine.scheduler.speculator
        if i % 3:  # else as it is in earnest
            texts = {seed: [token.token_id for token in answer[0]] for seed, answer in enumerate(plain)}
            speculator.propose = Oracle(chance, texts).propose  # type: ignore[method-assign, assignment]
        assert run(engine, recipes()) == plain, f"batch {i}: {options}, {num_blocks} blocks"
        executor.close()
        found = (speculator.num_drafted, speculator.num_accepted, engine.scheduler.num_preemptions)
        totals = tuple(map(sum, zip(totals, found, strict=True)))  # type: ignore[assignment]
    return totals


def scripted() -> ScriptedExecutor:
    return ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE))


def test_drafts_right_or_wrong_change_nothing_in_the_output() -> None:
    drafted, accepted, preemptions = check(scripted, random.Random(3), 24, 9)
    assert 0 < accepted < drafted
    assert preemptions > 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_drafts_change_nothing_in_any_small_batch(seed: int) -> None:
    check(scripted, random.Random(seed), 5, 2)


@needs_native
@pytest.mark.parametrize(("model", "kind"), [("llama", "fp32"), ("qwen3", "fp16")])
def test_drafts_change_no_token_and_no_bit_of_a_logprob_natively(model: str, kind: str) -> None:
    def make() -> Executor:
        options = ExecutorOptions(
            block_size=NATIVE_BLOCK_SIZE, max_num_tokens=256, threads=1, weights=kind, kv_cache=kind
        )
        return load(NativeExecutor(options), model)

    drafted, accepted, _ = check(make, random.Random(4), 16, 6)
    assert 0 < accepted < drafted


def repeating(tokens: list[int], seed: int, counter: int) -> int:
    """abcdefghij over and over, whatever came before."""
    return 97 + counter % 10


def test_repeating_text_is_drafted_and_takes_fewer_steps() -> None:
    num_steps = {}
    for most in (0, 8):
        executor = ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE), next_token=repeating)
        engine = make_engine(executor=executor, max_draft_tokens=most)
        engine.scheduler.speculator.costs.best = lambda num_sequences, gains: len(gains)  # type: ignore[method-assign]
        run(engine, [known([1], 100)])
        num_steps[most] = executor.num_steps
        stats = engine.stats()
        assert stats.accepted_tokens <= stats.drafted_tokens
    assert num_steps[0] == 100
    assert num_steps[8] < 30


def test_drafts_end_anywhere_in_the_token_buffer() -> None:
    for num_prompt in range(1, 24):
        executor = ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE), next_token=repeating)
        engine = make_engine(executor=executor)
        engine.scheduler.speculator.costs.best = lambda num_sequences, gains: len(gains)  # type: ignore[method-assign]
        (answer,) = run(engine, [known([1] * num_prompt, 150)])
        assert [token.token_id for token in answer[0]] == [97 + (num_prompt + i) % 10 for i in range(150)]


@pytest.mark.parametrize("fields", [{"stop": ("efg",)}, {"stop": ("cde",), "min_tokens": 25}, {"max_tokens": 33}])
@pytest.mark.parametrize("include_stop", [False, True])
def test_stop_strings_cut_exactly_in_the_middle_of_drafts(fields: dict[str, object], include_stop: bool) -> None:
    found = []
    for most in (0, 8):
        executor = ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE), next_token=repeating)
        model = make_model(executor=executor, max_draft_tokens=most)
        model.engine.scheduler.speculator.costs.best = lambda num_sequences, gains: len(gains)  # type: ignore[method-assign]
        asked = call("xabcdexabcdefxabcd", include_stop=include_stop, **{"max_tokens": 60, **fields})
        events = [event for _, event in model.answer([asked])]
        deltas = [event for event in events if isinstance(event, Delta)]
        found.append((
            "".join(delta.text for delta in deltas), [t for delta in deltas for t in delta.token_ids],
            deltas[-1].finish_reason, deltas[-1].stop, events[-1].usage.output_tokens,  # type: ignore[union-attr]
        ))  # fmt: skip
        assert (model.engine.stats().drafted_tokens > 0) == (most > 0)
    assert found[0] == found[1]


def test_a_step_that_fails_runs_again_without_drafts() -> None:
    """A draft that the executor cannot take costs nobody an answer."""

    def refuse(step: StepInput) -> None:
        if len(step.token_ids) > len(step.seq_lens) and step.positions[0] > 0:
            raise ValueError("no drafts here")

    executor = ScriptedExecutor(
        VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE), next_token=repeating, before_run=refuse
    )
    engine = make_engine(executor=executor)
    engine.scheduler.speculator.costs.best = lambda num_sequences, gains: len(gains)  # type: ignore[method-assign]
    (answer,) = run(engine, [known([1], 40)])
    assert len(answer[0]) == 40
