"""What a draw is: order of operations, ties, ranges and the counter-based generator."""

from __future__ import annotations

from typing import Any

import numpy as np

from tripos.runtime.executor import SamplingInput
from tripos.runtime.sampling import keep, sample_row, uniform


def sampling(**fields: Any) -> SamplingInput:
    s = SamplingInput.greedy(1)
    for name, value in fields.items():
        like = getattr(s, name)
        setattr(s, name, np.atleast_1d(np.asarray(value, like.dtype)))
    return s


def draw(logits: list[float], **fields: Any) -> int:
    return sample_row(np.array(logits, np.float32), sampling(**fields), 0).token_id


def test_greedy_takes_the_lowest_id_of_a_tie() -> None:
    assert draw([0.0, 2.0, 2.0, 1.0]) == 1


def test_repetition_penalty_shrinks_seen_logits_toward_unlikely() -> None:
    history = {"history_start": [0, 2], "history_ids": [1, 0], "history_counts": [0, 0]}
    assert draw([-1.0, 2.0, 1.5], repetition_penalty=2.0, **history) == 2


def test_presence_and_frequency_count_output_tokens_only() -> None:
    history = {"history_start": [0, 2], "history_ids": [1, 2], "history_counts": [0, 3]}
    assert draw([0.0, 1.0, 3.0], presence_penalty=1.0, frequency_penalty=1.0, **history) == 1


def test_bias_bans_and_lifts() -> None:
    assert draw([5.0, 1.0, 0.0], bias_start=[0, 2], bias_ids=[0, 2], bias_values=[-np.inf, 3.0]) == 2


def test_mask_allows_only_set_bits() -> None:
    s = sampling(mask_row=0)
    s.mask = np.array([[0b110]], np.uint32)
    assert sample_row(np.array([9.0, 1.0, 2.0], np.float32), s, 0).token_id == 2


def test_top_k_keeps_ties_and_top_p_the_smallest_nucleus() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], np.float32))
    assert (keep(logits, top_k=3, top_p=1.0, min_p=0.0) > 0).sum() == 4
    assert (keep(logits, top_k=0, top_p=0.7, min_p=0.0) > 0).sum() == 2
    assert (keep(logits, top_k=0, top_p=1.0, min_p=0.5) > 0).sum() == 2


def test_draws_follow_the_distribution_and_repeat_by_seed_and_counter() -> None:
    logits = [float(np.log(p)) for p in (0.6, 0.3, 0.1)]
    draws = [draw(logits, temperature=1.0, seed=7, counter=i) for i in range(3000)]
    counts = np.bincount(draws, minlength=3) / 3000
    np.testing.assert_allclose(counts, [0.6, 0.3, 0.1], atol=0.03)
    assert draws[:50] == [draw(logits, temperature=1.0, seed=7, counter=i) for i in range(50)]


def test_uniform_numbers_are_even_and_independent_of_neighbours() -> None:
    u = np.array([[uniform(s, c) for c in range(200)] for s in range(20)])
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert abs(u.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(u[:, :-1].ravel(), u[:, 1:].ravel())[0, 1]) < 0.05
    assert len(np.unique(u)) == u.size


def test_logprobs_are_of_the_raw_distribution() -> None:
    s = sampling(num_logprobs=2, forced_token=2, temperature=0.1)
    got = sample_row(np.log(np.array([0.5, 0.3, 0.2], np.float32)), s, 0)
    assert got.token_id == 2
    np.testing.assert_allclose(got.logprob, np.log(0.2), rtol=1e-5)
    assert got.top_ids.tolist() == [0, 1]
    np.testing.assert_allclose(got.top_logprobs, np.log([0.5, 0.3]), rtol=1e-5)


def test_non_finite_logits_are_reported_not_drawn() -> None:
    assert not sample_row(np.array([0.0, np.nan], np.float32), sampling(), 0).ok
    everything_banned = sampling(bias_start=[0, 1], bias_ids=[0], bias_values=[-np.inf])
    assert not sample_row(np.array([1.0], np.float32), everything_banned, 0).ok
