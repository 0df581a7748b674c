"""Sampling of the native executor against runtime/sampling.py."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tests.ops.executors import native
from tests.ops.steps import Batch
from tripos.plan.ir import WeightTensor
from tripos.plan.ops import Tracer
from tripos.runtime.executor import SamplingInput, StepInput, StepOutput
from tripos.runtime.native import NativeExecutor
from tripos.runtime.sampling import sample_row, uniform

F32 = npt.NDArray[np.float32]


def executor_of(logits: F32, isa: str, threads: int = 2) -> NativeExecutor:
    """A model whose logits for token t are row t of `logits`."""
    t = Tracer()
    x = t.select(t.embed("logits", *logits.shape))
    plan = t.plan(x, vocab_size=logits.shape[1])
    return native(plan, {"logits": WeightTensor("logits", "f32", logits.shape, logits)}, isa=isa, threads=threads)


def step_of(num_rows: int, sampling: SamplingInput) -> StepInput:
    batch = Batch((num_rows,), num_rows)
    batch.tokens = [np.arange(num_rows, dtype=np.int32)]
    return batch.step({0: num_rows}, sampling=sampling)


def draw(logits: F32, sampling: SamplingInput, isa: str, threads: int = 2) -> StepOutput:
    return executor_of(logits, isa, threads).run(step_of(len(logits), sampling))


def random_logits(num_rows: int, vocab_size: int, seed: int = 0, spread: float = 3.0) -> F32:
    return (np.random.default_rng(seed).standard_normal((num_rows, vocab_size)) * spread).astype(np.float32)


def random_sampling(num_rows: int, vocab_size: int, seed: int) -> SamplingInput:
    rng = np.random.default_rng(seed)
    s = SamplingInput.greedy(num_rows)
    s.temperature = rng.choice([0.0, 0.3, 1.0, 1.7], num_rows, p=[0.1, 0.3, 0.3, 0.3]).astype(np.float32)
    s.top_k = rng.choice([0, 1, 2, 40, vocab_size, vocab_size + 9], num_rows).astype(np.int32)
    s.top_p = rng.choice([1.0, 0.95, 0.5, 0.01], num_rows).astype(np.float32)
    s.min_p = rng.choice([0.0, 0.0, 0.05, 1.0], num_rows).astype(np.float32)
    s.repetition_penalty = rng.choice([1.0, 1.3], num_rows).astype(np.float32)
    s.presence_penalty = rng.choice([0.0, 0.6], num_rows).astype(np.float32)
    s.frequency_penalty = rng.choice([0.0, 0.2], num_rows).astype(np.float32)
    s.seed = rng.integers(0, 2**64, num_rows, dtype=np.uint64)
    s.counter = rng.integers(0, 5000, num_rows).astype(np.uint64)
    s.num_logprobs = rng.integers(-1, 6, num_rows).astype(np.int32)
    s.forced_token = np.where(rng.random(num_rows) < 0.1, rng.integers(0, vocab_size, num_rows), -1).astype(np.int32)
    sizes = rng.integers(0, min(30, vocab_size), num_rows)
    s.history_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    s.history_ids = np.concatenate([rng.permutation(vocab_size)[:n] for n in sizes]).astype(np.int32)
    s.history_counts = rng.integers(0, 4, len(s.history_ids)).astype(np.int32)
    sizes = rng.integers(0, 4, num_rows)
    s.bias_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    s.bias_ids = rng.integers(0, vocab_size, s.bias_start[-1]).astype(np.int32)
    s.bias_values = rng.choice([-np.inf, 2.0, -3.0], len(s.bias_ids)).astype(np.float32)
    s.mask = rng.integers(0, 2**32, (2, -(-vocab_size // 32)), dtype=np.uint32)
    s.mask_row = rng.integers(-1, 2, num_rows).astype(np.int32)
    sizes = np.where(s.num_logprobs >= 0, rng.integers(0, 30, num_rows), 0)
    s.requested_start = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    s.requested_ids = rng.integers(0, vocab_size, s.requested_start[-1]).astype(np.int32)
    return s


@pytest.mark.parametrize("vocab_size", [1, 2, 31, 33, 500, 4099])
def test_draws_what_the_definition_draws(isa: str, threads: int, vocab_size: int) -> None:
    num_rows, differing = 64, 0
    for seed in range(4):
        logits = random_logits(num_rows, vocab_size, seed)
        s = random_sampling(num_rows, vocab_size, seed)
        got = draw(logits, s, isa, threads)
        for row in range(num_rows):
            with np.errstate(invalid="ignore"):
                want = sample_row(logits[row], s, row)
            assert got.ok[row] == want.ok
            differing += got.token_ids[row] != want.token_id
            if s.num_logprobs[row] >= 0 and got.token_ids[row] == want.token_id:
                assert got.logprobs[row] == pytest.approx(want.logprob, abs=1e-5)
            np.testing.assert_array_equal(got.top_ids[row, : len(want.top_ids)], want.top_ids)
            np.testing.assert_allclose(got.top_logprobs[row, : len(want.top_ids)], want.top_logprobs, atol=1e-5)
            requested = got.requested_logprobs[s.requested_start[row] : s.requested_start[row + 1]]
            if want.ok:
                np.testing.assert_allclose(requested, want.requested_logprobs, atol=1e-5)
    assert differing <= 1  # a draw within rounding of a threshold


def test_greedy_ties_go_to_the_lowest_id(isa: str) -> None:
    logits = np.zeros((3, 100), np.float32)
    logits[1, [40, 7, 99]] = 2.0
    s = SamplingInput.greedy(3)
    s.num_logprobs = np.array([4, 4, 0], np.int32)
    got = draw(logits, s, isa)
    assert got.token_ids.tolist() == [0, 7, 0]
    assert got.top_ids[:2].tolist() == [[0, 1, 2, 3], [7, 40, 99, 0]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 15, 16, 98, 99])
def test_rows_with_non_finite_logits_fail_alone(isa: str, bad: float, at: int) -> None:
    logits = random_logits(3, 100)
    logits[1, at] = bad
    s = SamplingInput.greedy(3)
    s.temperature[:] = 1.0
    assert draw(logits, s, isa).ok.tolist() == [1, 0, 1]


def test_a_row_with_every_token_banned_fails(isa: str) -> None:
    s = SamplingInput.greedy(1)
    s.mask, s.mask_row = np.zeros((1, 4), np.uint32), np.zeros(1, np.int32)
    assert draw(random_logits(1, 100), s, isa).ok.tolist() == [0]


def test_same_draws_alone_in_a_batch_and_with_more_threads(isa: str) -> None:
    logits, s = random_logits(16, 5000), random_sampling(16, 5000, 3)
    want = draw(logits, s, isa, 1)
    again = draw(logits, s, isa, 2)
    for name in ("token_ids", "logprobs", "top_ids", "top_logprobs", "requested_logprobs", "ok"):
        np.testing.assert_array_equal(getattr(again, name), getattr(want, name))


def test_frequencies_follow_the_distribution(isa: str) -> None:
    p = np.array([0.5, 0.2, 0.15, 0.1, 0.05])
    logits = np.repeat(np.log(p).astype(np.float32)[None], 4000, axis=0)
    s = SamplingInput.greedy(4000)
    s.temperature[:] = 1.0
    s.counter = np.arange(4000, dtype=np.uint64)
    counts = np.bincount(draw(logits, s, isa).token_ids, minlength=5)
    deviation = np.sqrt(4000 * p * (1 - p))
    assert (np.abs(counts - 4000 * p) < 4 * deviation).all()


def test_the_random_numbers_are_even() -> None:
    values = np.array([uniform(seed, counter) for seed in range(40) for counter in range(50)])
    assert abs(values.mean() - 0.5) < 4 / np.sqrt(12 * len(values))
