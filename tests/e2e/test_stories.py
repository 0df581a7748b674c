"""A real model's files, from the command line to the text: karpathy's 260K-parameter Llama in two formats."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tripos import LLM
from tripos.types import Sampling

BEGINNING = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball."
)
FILES = ("derived-hf", "derived-stories260K-f32-v3.gguf")
Find = Callable[[str], Path]


def tripos(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "tripos", *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("file", FILES)
def test_generate_tells_the_known_story(shared_data: Find, file: str) -> None:
    model = str(shared_data(f"lm/stories260K/{file}"))
    done = tripos("generate", model, "", "--max-tokens", "64", "--temperature", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(BEGINNING)


def test_gguf_version_1_is_refused_with_the_next_step(shared_data: Find) -> None:
    model = str(shared_data("lm/stories260K/tinyllamas-stories-260k-f32.gguf"))
    done = tripos("generate", model, "", "--max-tokens", "4")
    assert done.returncode == 4
    assert done.stdout == ""
    assert "version 1" in done.stderr
    assert "tinyllamas-stories-260k-f32.gguf" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("file", FILES)
def test_perplexity_is_the_published_one(shared_data: Find, file: str) -> None:
    text = shared_data("eval/tinystories/tinystories_sample.txt").read_text(encoding="utf-8")
    stories = [story.strip() for story in text.split("<|endoftext|>") if story.strip()]
    with LLM(shared_data(f"lm/stories260K/{file}")) as llm:
        limit = llm.card.max_model_len - 1
        prompts = [tuple(llm.tokenizer.encode(story, add_special=True)[:limit]) for story in stories]
        scores = llm.score(prompts)
    logprobs = [value for score in scores for value in score]
    assert len(logprobs) > 1500
    assert math.exp(-sum(logprobs) / len(logprobs)) == pytest.approx(3.55, rel=0.01)


def test_many_prompts_share_steps_and_answer_as_alone(shared_data: Find) -> None:
    prompts = ["", "Once upon a time", "Lily and Tom", "The dog", "One day, a bird"] * 4
    sampling = Sampling(temperature=0.8, seed=3, logprobs=0)
    with LLM(shared_data("lm/stories260K/derived-hf")) as llm:
        together = llm.generate(prompts, max_tokens=40, sampling=sampling)
        alone = [llm.generate([prompt], max_tokens=40, sampling=sampling)[0] for prompt in prompts[:5]]
    for i, completion in enumerate(together):
        assert completion.token_ids == alone[i % 5].token_ids
        assert completion.logprobs == alone[i % 5].logprobs  # bit-equal
