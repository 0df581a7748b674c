"""generation_config.json: every field is honoured in its range, refused by name, or told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tripos.engine.rules import TokenRules
from tripos.errors import ModelRefused
from tripos.models.files.generation import GenerationDefaults, generation_notes, parse_generation

INF = float("inf")


def test_generation_defaults_are_read() -> None:
    raw = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True, "transformers_version": "5"}
    assert parse_generation(raw) == GenerationDefaults(temperature=0.6, top_p=0.95, top_k=20)
    greedy = {"do_sample": False, "temperature": 0.6, "top_p": 0.5, "repetition_penalty": 1.2}
    assert parse_generation(greedy) == GenerationDefaults(temperature=0.0, repetition_penalty=1.2)


def test_fields_that_say_the_same_come_back() -> None:
    assert GenerationDefaults().fields() == {}
    defaults = GenerationDefaults(temperature=0.0, bad_words_ids=((1, 2),), no_repeat_ngram_size=2)
    assert defaults.fields() == {"temperature": 0.0, "bad_words_ids": ((1, 2),), "no_repeat_ngram_size": 2}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("temperature", -0.1), ("temperature", "hot"), ("top_p", 1.5), ("top_k", -1), ("top_k", 1.5), ("min_p", 2),
        ("repetition_penalty", 0), ("do_sample", 1), ("max_new_tokens", 0), ("max_length", 1.5), ("min_length", -1),
        ("min_new_tokens", "9"), ("no_repeat_ngram_size", -1), ("suppress_tokens", 5), ("suppress_tokens", ["a"]),
        ("begin_suppress_tokens", {}), ("bad_words_ids", [5]), ("bad_words_ids", [[]]), ("bad_words_ids", [[-1]]),
        ("bad_words_ids", [[100]]), ("sequence_bias", [[5]]), ("sequence_bias", [[[5], "x"]]),
        ("sequence_bias", [[[5], 1e9]]), ("sequence_bias", {"5": 1.0}),
    ],
)  # fmt: skip
def test_generation_default_out_of_range_is_refused_by_key(key: str, value: Any) -> None:
    with pytest.raises(ModelRefused, match=rf"generation_config\.json: {key}"):
        parse_generation({key: value}, vocab_size=100)


def test_fields_that_are_not_honoured_are_told() -> None:
    neutral = {"num_beams": 1, "typical_p": 1.0, "epsilon_cutoff": 0.0, "guidance_scale": 1, "max_time": None}
    assert generation_notes(neutral | {"use_cache": True, "length_penalty": 2.0}) == ()
    changing = {
        "num_beams": 4,
        "typical_p": 0.9,
        "forced_eos_token_id": 2,
        "exponential_decay_length_penalty": [5, 1.1],
    }
    notes = generation_notes(changing)
    assert len(notes) == len(changing)
    assert "generation_config.json: num_beams is '4', which is not honoured" in notes


def bias_of(rules: TokenRules, tokens: list[int], num_prompt: int) -> dict[int, float]:
    ids, values = rules.at(np.array(tokens, np.int32), num_prompt)
    return dict(zip(ids.tolist(), values.tolist(), strict=True))


def test_rules_that_depend_on_the_place_look_at_prompt_and_answer() -> None:
    rules = TokenRules(
        GenerationDefaults(
            bad_words_ids=((1, 2), (9, 9, 3)), sequence_bias=(((5, 6), 2.5),), no_repeat_ngram_size=3,
            begin_suppress_tokens=(7,),
        )
    )  # fmt: skip
    assert bias_of(rules, [1], 1) == {2: -INF, 7: -INF}
    assert bias_of(rules, [1], 0) == {2: -INF}
    assert bias_of(rules, [9, 9], 1) == {3: -INF}
    assert bias_of(rules, [9], 0) == {}
    assert bias_of(rules, [5], 0) == {6: 2.5}
    assert bias_of(rules, [4, 8, 3, 4, 8], 2) == {3: -INF}
    assert bias_of(rules, [], 0) == {7: -INF}
    assert len(rules.always[0]) == 0


def test_rules_of_single_tokens_hold_everywhere_and_spare_the_end() -> None:
    defaults = GenerationDefaults(bad_words_ids=((1,), (2,)), suppress_tokens=(3,), sequence_bias=(((4,), -1.0),))
    rules = TokenRules(defaults, eos_ids={2})
    ids, values = rules.always
    assert dict(zip(ids.tolist(), values.tolist(), strict=True)) == {1: -INF, 3: -INF, 4: -1.0}
    assert not rules.depends_on_place
    assert TokenRules().is_silent


def test_lengths_are_of_the_answer_or_of_the_whole() -> None:
    whole = TokenRules(GenerationDefaults(max_length=15, min_length=12))
    assert (whole.max_tokens(9), whole.min_tokens(9)) == (6, 3)
    assert (whole.max_tokens(15), whole.min_tokens(15)) == (None, 0)
    both = TokenRules(GenerationDefaults(max_length=15, min_length=12, max_new_tokens=20, min_new_tokens=0))
    assert (both.max_tokens(9), both.min_tokens(9)) == (20, 0)
    assert (TokenRules().max_tokens(9), TokenRules().min_tokens(9)) == (None, 0)
