"""POST /v1/completions: prompts of text, of token ids and of lists, echo, logprobs."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, both, post

PATH = "/v1/completions"
DEMO: dict[str, Any] = {"model": "assistant", "prompt": "The cat", "temperature": 0, "max_tokens": 6}

VARIANTS: dict[str, dict[str, Any]] = {
    "text": {},
    "token ids": {"prompt": [5, 6, 7]},
    "two texts": {"prompt": ["The cat", "A dog"]},
    "two lists of token ids": {"prompt": [[5, 6], [7, 8, 9]]},
    "two choices of two texts": {"prompt": ["The cat", "A dog"], "n": 2, "temperature": 0.8, "seed": 5},
    "echo": {"echo": True},
    "logprobs": {"logprobs": 2},
    "echo and logprobs": {"echo": True, "logprobs": 1},
    "echo and nothing more": {"echo": True, "max_tokens": 0, "logprobs": 0},
    "a stop string": {"stop": ["."], "max_tokens": 24},
    "no limit": {"max_tokens": None},
    "a seed": {"temperature": 1.0, "seed": 11, "max_tokens": 12},
    "another seed": {"temperature": 1.0, "seed": 12, "max_tokens": 12},
    "top_p": {"temperature": 1.0, "seed": 11, "top_p": 0.5, "max_tokens": 12},
    "top_k": {"temperature": 1.5, "seed": 11, "top_k": 3, "max_tokens": 12},
    "min_p": {"temperature": 1.5, "seed": 11, "min_p": 0.1, "max_tokens": 12},
    "a repetition penalty": {"repetition_penalty": 1.8, "max_tokens": 16},
    "presence and frequency penalties": {"presence_penalty": 2, "frequency_penalty": 2, "max_tokens": 16},
    "a bias": {"logit_bias": {"300": 100}, "max_tokens": 3},
}
ERRORS: dict[str, dict[str, Any]] = {
    "no prompt": {"prompt": None},
    "an empty prompt": {"prompt": ""},
    "an empty list": {"prompt": []},
    "too many prompts": {"prompt": ["x"] * 65},
    "a token beyond the vocabulary": {"prompt": [10_000_000]},
    "mixed prompts": {"prompt": ["x", 5]},
    "nothing at all": {"max_tokens": 0},
    "a prompt beyond the window": {"prompt": "word " * 2000},
    "a suffix": {"suffix": "end"},
    "too many logprobs": {"logprobs": 21},
    "logprobs as chat has them": {"logprobs": True},
    "messages": {"messages": [{"role": "user", "content": "x"}]},
    "an embedder": {"model": "embedder"},
}

REQUESTS: list[Request] = [
    *(each for name, fields in VARIANTS.items() for each in both(name, PATH, {**DEMO, **fields})),
    *(post(f"refused: {name}", PATH, {**DEMO, **fields}) for name, fields in ERRORS.items()),
    *both(
        "characters of several tokens, with logprobs",
        PATH,
        {**DEMO, "model": "talker", "prompt": "x" * 15, "logprobs": 1, "max_tokens": 16},
    ),
    post("usage in the stream", PATH, {**DEMO, "stream": True, "stream_options": {"include_usage": True}}),
]
