"""What a generate request must satisfy before any work is done for it: ranges, vocabulary, context.

Pure functions. Wire formats are checked in wire/; these checks hold for HTTP, the library and the command line.
Tested in tests/unit/engine/test_llm.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

from tripos.errors import ContextLengthExceeded, InvalidRequest, plain
from tripos.types import Generate, Prompt, Sampling

# field: lowest, highest
_RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 1e3),
    "top_k": (0, 2**31 - 1),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (1e-3, 1e3),
    "presence_penalty": (-1e3, 1e3),
    "frequency_penalty": (-1e3, 1e3),
    "seed": (0, 2**64 - 1),
    "min_tokens": (0, 2**31 - 1),
}
MAX_BIAS = 1e6


def is_token_ids(prompt: Prompt) -> TypeGuard[tuple[int, ...]]:
    return isinstance(prompt, tuple) and bool(prompt) and isinstance(prompt[0], int)


def check_request(request: Generate, vocab_size: int, max_num_tokens: int) -> None:
    """Check all that needs no tokens of the prompt. Raises InvalidRequest, ContextLengthExceeded."""
    _check_range("n", request.n, 1, 2**16)
    if request.max_tokens is not None:
        _check_range("max_tokens", request.max_tokens, 0, 2**63)
    if request.prompt_logprobs is not None:
        _check_range("prompt_logprobs", request.prompt_logprobs, 0, vocab_size)
    _check_sampling(request.sampling, vocab_size)
    for branch in request.branches:
        _check_requested(branch.logprob_token_ids, request.sampling, vocab_size)
    if request.branches and request.n != 1:
        raise InvalidRequest(f"n = {request.n}: a request with several prompts must have n = 1", param="n")
    if request.constraint is not None and request.sampling.min_tokens:
        raise InvalidRequest(
            "min_tokens cannot be combined with a constraint, which decides where an answer may end: leave min_tokens "
            "out, or put the length into the schema or grammar",
            param="min_tokens",
        )
    prompt = request.prompt
    if isinstance(prompt, tuple) and not prompt:
        raise InvalidRequest("the prompt is empty: send at least one token", code="out_of_range", param="prompt")
    if is_token_ids(prompt):
        max_tokens_of(request, len(prompt), max_num_tokens)
        check_token_ids("prompt", prompt, vocab_size)


def check_text_length(text: str, max_num_tokens: int, longest_token: int) -> None:
    """Refuse a text that cannot fit however it is encoded, as no token has more than `longest_token` bytes."""
    if len(text) > max_num_tokens * longest_token:
        raise ContextLengthExceeded(
            f"{len(text)} characters cannot fit the context length of {max_num_tokens} tokens: shorten the prompt",
            param="prompt",
        )


def check_token_ids(param: str, ids: Sequence[int], vocab_size: int) -> None:
    """Raises InvalidRequest naming the first id outside 0 .. vocab_size - 1."""
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(i for i in ids if not 0 <= i < vocab_size)
        raise InvalidRequest(
            f"token id {wrong} is outside the vocabulary of 0 to {vocab_size - 1}", code="out_of_range", param=param
        )


def max_tokens_of(request: Generate, num_prompt_tokens: int, max_num_tokens: int, usual: int | None = None) -> int:
    """The number of tokens to generate, at most what the context length leaves; `usual` is the model's own where the
    request does not say. Raises ContextLengthExceeded."""
    num_free = max_num_tokens - num_prompt_tokens
    if request.max_tokens is not None and request.max_tokens <= num_free:
        return request.max_tokens
    if num_free <= 0:
        raise ContextLengthExceeded(
            f"the prompt has {num_prompt_tokens} tokens and the context length is {max_num_tokens}: shorten the prompt",
            param="prompt",
        )
    if request.max_tokens is not None:
        raise ContextLengthExceeded(
            f"{num_prompt_tokens} prompt tokens and max_tokens = {request.max_tokens} make "
            f"{num_prompt_tokens + request.max_tokens}, the context length is {max_num_tokens}: "
            "shorten the prompt or lower max_tokens",
            param="max_tokens",
        )
    return num_free if usual is None else min(num_free, usual)


def _check_sampling(sampling: Sampling, vocab_size: int) -> None:
    for name, (lowest, highest) in _RANGES.items():
        value = getattr(sampling, name)
        if value is not None:
            _check_range(name, value, lowest, highest)
    _check_requested(sampling.logprob_token_ids, sampling, vocab_size)
    if sampling.top_p == 0.0:
        raise InvalidRequest(
            "top_p = 0 leaves no token: set temperature = 0 for greedy decoding", code="out_of_range", param="top_p"
        )
    if sampling.logprobs is not None:
        _check_range("logprobs", sampling.logprobs, 0, vocab_size)
    check_token_ids("logit_bias", tuple(sampling.logit_bias), vocab_size)
    for value in sampling.logit_bias.values():
        _check_range("logit_bias", value, -MAX_BIAS, MAX_BIAS)
    check_token_ids("stop_token_ids", sampling.stop_token_ids, vocab_size)
    if "" in sampling.stop:
        raise InvalidRequest("a stop string must not be empty", param="stop")


def _check_requested(ids: tuple[int, ...], sampling: Sampling, vocab_size: int) -> None:
    if ids and sampling.logprobs is None:
        raise InvalidRequest("logprob_token_ids requires logprobs", param="logprob_token_ids")
    check_token_ids("logprob_token_ids", ids, vocab_size)


def _check_range(param: str, value: float, lowest: float, highest: float) -> None:
    if not (lowest <= value <= highest and math.isfinite(value)):
        raise InvalidRequest(
            f"{param} = {plain(value)}: must lie between {plain(lowest)} and {plain(highest)}",
            code="out_of_range",
            param=param,
        )
