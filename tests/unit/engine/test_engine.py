"""The synchronous engine: what a step does, and what becomes of a step that fails."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.engine.tiny import BLOCK_SIZE, EOS, VOCAB_SIZE, make_engine
from tripos.engine.engine import Engine, Output, TokenOutput
from tripos.engine.sequence import Sequence, TokenCounts, choice_seed
from tripos.errors import DeadlineExceeded, EngineFailed, RequestFailed, TriposError
from tripos.runtime.executor import ExecutorOptions, StepInput
from tripos.testing import ScriptedExecutor
from tripos.types import Sampling

OPTIONS = ExecutorOptions(block_size=BLOCK_SIZE)
POISON = 66


def sequence(prompt: list[int], max_tokens: int = 8, deadline_s: float | None = None, **sampling: object) -> Sequence:
    return Sequence(
        np.array(prompt, np.int32),
        max_tokens,
        Sampling(**sampling),  # type: ignore[arg-type]
        seed=7,
        eos_ids=frozenset({EOS}),
        deadline_s=deadline_s,
    )


class Seen:
    """All that an engine put out, by sequence."""

    def __init__(self) -> None:
        self.tokens: dict[Sequence, list[TokenOutput]] = {}
        self.last: dict[Sequence, Output] = {}

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            assert output.sequence not in self.last, "an output after the last"
            self.tokens.setdefault(output.sequence, []).extend(output.tokens)
            if output.is_last:
                self.last[output.sequence] = output

    def ids(self, one: Sequence) -> list[int]:
        return [token.token_id for token in self.tokens[one]]

    def error(self, one: Sequence) -> TriposError | None:
        return self.last[one].error


def finish(engine: Engine, *sequences: Sequence) -> Seen:
    for each in sequences:
        engine.add(each)
    seen = Seen()
    while engine.has_work:
        seen.take(engine.step())
    engine.pool.check_integrity()
    assert engine.pool.num_held == 0
    return seen


def next_is(*tokens: int) -> ScriptedExecutor:
    """Draws the given tokens after the prompt, whatever it was; the prompt is three tokens long."""
    return ScriptedExecutor(VOCAB_SIZE, OPTIONS, next_token=lambda known, seed, counter: tokens[counter - 3])


def test_max_tokens_ends_with_length() -> None:
    one = sequence([1, 2, 3], max_tokens=5)
    seen = finish(make_engine(), one)
    assert len(seen.ids(one)) == 5
    assert seen.last[one].finish_reason == "length"


@pytest.mark.parametrize(("sampling", "num_tokens"), [({}, 2), ({"ignore_eos": True}, 4)])
def test_eos_ends_unless_ignored(sampling: dict[str, object], num_tokens: int) -> None:
    one = sequence([1, 2, 3], 4, **sampling)
    seen = finish(make_engine(executor=next_is(9, EOS, 8, 7)), one)
    assert len(seen.ids(one)) == num_tokens
    assert seen.last[one].stop_token == (EOS if num_tokens == 2 else None)


def test_stop_tokens_end_and_are_named() -> None:
    one = sequence([1, 2, 3], 4, stop_token_ids=(8,), ignore_eos=True)
    seen = finish(make_engine(executor=next_is(9, EOS, 8, 7)), one)
    assert seen.ids(one) == [9, EOS, 8]
    assert (seen.last[one].finish_reason, seen.last[one].stop_token) == ("stop", 8)


def test_min_tokens_bans_every_ending_until_reached() -> None:
    one = sequence([1, 2, 3], 8, stop_token_ids=(8,), min_tokens=3)
    seen = finish(make_engine(executor=next_is(EOS, 8, 9, EOS, 5)), one)
    assert seen.ids(one) == [0, 9, 9, EOS], "the fake draws the next allowed token"


def test_the_window_ends_a_sequence() -> None:
    engine = make_engine(max_model_len=10)
    one = sequence([1, 2, 3], max_tokens=50)
    seen = finish(engine, one)
    assert len(seen.ids(one)) == 7
    assert seen.last[one].finish_reason == "length"


def test_nothing_wanted_computes_the_prompt_only() -> None:
    one = sequence(list(range(20)), max_tokens=0)
    one.prompt_logprobs = 2
    engine = make_engine(token_budget=8, max_num_seqs=4, max_num_rows=5)
    engine.add(one)
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    rows = [row for output in outputs for row in output.prompt_logprobs]
    assert [row.token_id for row in rows] == list(range(1, 20))
    assert all(len(row.top) == 2 for row in rows)
    assert outputs[-1].finish_reason == "length"
    assert not any(output.tokens for output in outputs)


def test_prompt_logprobs_come_with_the_first_token_at_the_latest_and_ignore_the_cache() -> None:
    engine = make_engine()
    finish(engine, sequence(list(range(20))))
    one = sequence(list(range(20)), max_tokens=1)
    one.prompt_logprobs = 0
    engine.add(one)
    output = engine.step()[0]
    assert (len(output.prompt_logprobs), len(output.tokens)) == (19, 1)
    assert one.num_cached_tokens == 0


def test_a_repeated_prompt_is_found_in_the_cache() -> None:
    engine = make_engine()
    first, again = sequence(list(range(21))), sequence(list(range(21)))
    seen = finish(engine, first)
    seen_again = finish(engine, again)
    assert (first.num_cached_tokens, again.num_cached_tokens) == (0, 20)
    assert seen.ids(first) == seen_again.ids(again)


def test_a_step_seconds_are_shared_out_completely() -> None:
    now = [0.0]

    def tick(step: StepInput) -> None:
        now[0] += 1.0

    engine = make_engine(executor=ScriptedExecutor(VOCAB_SIZE, OPTIONS, before_run=tick))
    engine.clock = lambda: now[0]
    sequences = [sequence(list(range(n, 2 * n)), max_tokens=5) for n in (3, 9, 30)]
    finish(engine, *sequences)
    total = sum(each.prefill_s + each.decode_s for each in sequences)
    assert total == pytest.approx(now[0])
    assert sequences[2].prefill_s > sequences[0].prefill_s
    assert all(each.first_token_s == 1.0 for each in sequences)


def test_deadlines_end_waiting_and_running_sequences() -> None:
    now = [0.0]
    engine = make_engine(max_num_seqs=1)
    engine.clock = lambda: now[0]
    running, waiting, other = (sequence([i, 2], 50, deadline_s=d) for i, d in enumerate((5.0, 3.0, None)))
    for each in (running, waiting, other):
        engine.add(each)
    seen = Seen()
    while engine.has_work:
        seen.take(engine.step())
        now[0] += 1.0
    for late, said in ((running, "after 5 tokens"), (waiting, "waiting")):
        error = seen.error(late)
        assert isinstance(error, DeadlineExceeded)
        assert said in error.message
    assert len(seen.ids(other)) == 50
    assert engine.pool.num_held == 0


def batch_of_16() -> list[Sequence]:
    prompts = [[POISON if i == 5 else 1, i, 2, 3, i] for i in range(16)]
    return [sequence(prompt, 6) for prompt in prompts]


class Poisoned(ScriptedExecutor):
    """Fails the sequence that begins with POISON once it is `length` tokens long."""

    def __init__(self, way: str, length: int) -> None:
        super().__init__(VOCAB_SIZE, OPTIONS, next_token=self.draw, is_ok=self.is_fine)
        self.way, self.length = way, length

    def is_guilty(self, known: list[int]) -> bool:
        return known[0] == POISON and len(known) == self.length

    def draw(self, known: list[int], seed: int, counter: int) -> int:
        if self.way == "raises" and self.is_guilty(known):
            raise ArithmeticError("poison")
        return self.script(known, seed, counter)

    def is_fine(self, known: list[int]) -> bool:
        return not (self.way == "non-finite" and self.is_guilty(known))


@pytest.mark.parametrize("way", ["raises", "non-finite"])
@pytest.mark.parametrize("length", [5, 8], ids=["in prefill", "in decode"])
def test_a_poison_request_fails_alone_and_the_others_do_not_notice(way: str, length: int) -> None:
    alone = [finish(make_engine(), each).ids(each) for each in batch_of_16()]
    engine = make_engine(executor=Poisoned(way, length), max_num_seqs=16)
    sequences = batch_of_16()
    seen = finish(engine, *sequences)
    for i, each in enumerate(sequences):
        if each.prompt[0] == POISON:
            assert isinstance(seen.error(each), RequestFailed)
            assert seen.ids(each) == alone[i][: length - 5]
        else:
            assert seen.error(each) is None
            assert seen.ids(each) == alone[i]
    assert engine.failure is None


def test_poison_after_poison_does_not_end_the_engine() -> None:
    engine = make_engine(executor=Poisoned("raises", 3))
    for _ in range(5):
        bad = [sequence([POISON, 1, 2]) for _ in range(3)]
        seen = finish(engine, *bad)
        assert all(isinstance(seen.error(each), RequestFailed) for each in bad)
    good = sequence([1, 2, 3])
    assert finish(engine, good).error(good) is None


@pytest.mark.parametrize("error", [EngineFailed("gone"), OSError("gone")])
def test_a_lost_executor_ends_everything_with_engine_failed(error: Exception) -> None:
    def before_run(step: StepInput) -> None:
        raise error

    engine = make_engine(executor=ScriptedExecutor(VOCAB_SIZE, OPTIONS, before_run=before_run), max_num_seqs=2)
    leader = sequence([1, 2, 3])
    leader.siblings = [sequence([1, 2, 3])]
    sequences = [leader, *leader.siblings, *(sequence([i, 1]) for i in range(4))]
    seen = finish(engine, *(each for each in sequences if each not in leader.siblings))
    assert all(isinstance(seen.error(each), EngineFailed) for each in sequences)
    with pytest.raises(EngineFailed):
        engine.add(sequence([1]))


def test_choice_seeds_are_the_documented_hash() -> None:
    assert choice_seed(42, 0) == 42
    assert choice_seed(42, 1) == 10357361405587144383  # sha256sum of the 25 bytes, first 8, little-endian
    assert len({choice_seed(42, i) for i in range(1000)}) == 1000


def test_token_counts_list_the_prompt_with_zero_and_the_output_as_often_as_it_came() -> None:
    counts = TokenCounts([5, 5, 3])
    for token in (3, 9, 9, *range(100, 300)):
        counts.add(token)
    found = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
    assert found == {5: 0, 3: 1, 9: 2} | dict.fromkeys(range(100, 300), 1)
