"""Greedy answers under every field of generation_config.json that is honoured are those of transformers 5.24."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.models.make_golden_generation import CONFIG, GOLDEN, LONGEST, PROMPT, cases, weights
from tests.unit.models.files.writing import model_folder, safetensors_bytes
from tripos import LLM
from tripos.build.kinds import quantize_model
from tripos.config import ModelOptions
from tripos.types import Constraint, Sampling

CASES = json.loads(GOLDEN.read_text())


def opened(folder: Path, generation: dict[str, Any], **options: Any) -> LLM:
    model_folder(
        folder, config__json=CONFIG, generation_config__json=generation, tokenizer_config__json={},
        model__safetensors=safetensors_bytes(weights()),
    )  # fmt: skip
    return LLM(folder, weights="fp32", kv_cache="fp32", **options)


def asked(generation: dict[str, Any]) -> dict[str, Any]:
    has_limit = "max_new_tokens" in generation or "max_length" in generation
    return {"max_tokens": None if has_limit else LONGEST}


@pytest.mark.parametrize("case", CASES, ids=lambda case: "+".join(case["generation_config"]) or "nothing")
def test_greedy_answers_are_those_of_transformers(tmp_path: Path, case: dict[str, Any]) -> None:
    generation = case["generation_config"]
    with opened(tmp_path, generation) as llm:
        sampling = Sampling(temperature=0.0, repetition_penalty=llm.card.sampling.repetition_penalty)
        [alone] = llm.generate([PROMPT], sampling=sampling, **asked(generation))
        assert list(alone.token_ids) == case["answer"]
        together = llm.generate([PROMPT, PROMPT[:4], PROMPT], sampling=sampling, **asked(generation))
        assert [together[0].token_ids, together[2].token_ids] == [alone.token_ids] * 2


def test_the_cases_are_those_that_were_made() -> None:
    assert [case["generation_config"] for case in CASES] == cases(CASES[0]["answer"])
    assert sum(case["answer"] != CASES[0]["answer"] for case in CASES) > len(CASES) - 4  # nearly every field shows


def test_guesses_change_nothing_under_rules(tmp_path: Path) -> None:
    generation = {"no_repeat_ngram_size": 5, "bad_words_ids": [[1, 2]]}
    answers = []
    for speculate in ("off", "auto"):
        (folder := tmp_path / speculate).mkdir()
        with opened(folder, generation, speculate=speculate) as llm:
            answers.append(llm.generate([PROMPT * 3] * 2, max_tokens=120, sampling=Sampling(temperature=0.0)))
    assert [each.token_ids for each in answers[0]] == [each.token_ids for each in answers[1]]
    tokens = [*(PROMPT * 3), *answers[0][0].token_ids]
    runs = [tuple(tokens[at : at + 5]) for at in range(len(PROMPT) * 3 - 4, len(tokens) - 4)]
    assert len(set(runs)) == len(runs)


def test_a_request_goes_before_the_makers_word(tmp_path: Path) -> None:
    end = CASES[0]["answer"][4]
    with opened(tmp_path, {"max_new_tokens": 7, "min_new_tokens": 3, "do_sample": False, "eos_token_id": end}) as llm:
        assert llm.card.sampling.temperature == 0.0
        assert len(llm.generate([PROMPT], max_tokens=None)[0].token_ids) == 5
        assert len(llm.generate([PROMPT], max_tokens=2)[0].token_ids) == 2
        longer = llm.generate([PROMPT], max_tokens=20, sampling=Sampling(temperature=0.0, min_tokens=12))
        assert len(longer[0].token_ids) >= 12


def test_a_constraint_decides_alone(tmp_path: Path) -> None:
    digits = {"suppress_tokens": list(range(256)), "min_new_tokens": 50, "no_repeat_ngram_size": 1}
    with opened(tmp_path, digits) as llm:
        [answer] = llm.generate([PROMPT], constraint=Constraint(kind="regex", source="aaa"))
        assert (answer.text, answer.finish_reason) == ("aaa", "stop")


def test_a_tied_models_own_head_and_the_makers_word_survive_packing(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    plain.mkdir()
    opened(plain, {"no_repeat_ngram_size": 2}).close()
    (plain / "config.json").write_text(json.dumps({**CONFIG, "tie_word_embeddings": True}))
    quantize_model(ModelOptions(source=str(plain), weights="fp32"), packed)
    answers = []
    for folder in (plain, packed):
        with LLM(folder, weights="fp32", kv_cache="fp32") as llm:
            answers.append(llm.generate([PROMPT], max_tokens=LONGEST, sampling=Sampling(temperature=0.0))[0].token_ids)
    of_transformers = next(each for each in CASES if each["generation_config"] == {"no_repeat_ngram_size": 2})
    assert [list(answer) for answer in answers] == [of_transformers["answer"]] * 2
