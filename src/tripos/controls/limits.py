"""Size limits on a call that hold for every door, in one table. Refuses before any costly work.

What needs the tokenizer (context window, vocabulary) is checked by the model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from tripos.errors import InvalidRequest
from tripos.types import Call, Decide, Event, Generate, Run, Stage


class LimitsOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Ceilings per call."""

    max_n: int = 8
    max_prompt_chars: int = 4 * 2**20
    max_messages: int = 2048
    max_logprobs: int = 20
    max_stops: int = 16
    max_stop_bytes: int = 256
    max_stop_token_ids: int = 128
    max_logit_biases: int = 1024
    max_response_bytes: int = 64 * 2**20
    max_questions: int = 400
    max_options: int = 255  # of a question


class Limit(msgspec.Struct, frozen=True):
    """One line of the table: how much of what a request holds, and the option that bounds it."""

    param: str
    measure: Callable[[Generate], int]
    option: str
    code: str = "too_many_items"


LIMITS = (
    Limit("n", lambda r: r.n, "max_n", "out_of_range"),
    Limit("messages", lambda r: _num_messages(r), "max_messages"),
    Limit("prompt", lambda r: _num_chars(r), "max_prompt_chars", "context_length_exceeded"),
    Limit("stop", lambda r: len(r.sampling.stop), "max_stops"),
    Limit(
        "stop", lambda r: max((len(s.encode()) for s in r.sampling.stop), default=0), "max_stop_bytes", "out_of_range"
    ),
    Limit("stop_token_ids", lambda r: len(r.sampling.stop_token_ids), "max_stop_token_ids"),
    Limit("logit_bias", lambda r: len(r.sampling.logit_bias), "max_logit_biases"),
    Limit("logprobs", lambda r: max(r.sampling.logprobs or 0, r.prompt_logprobs or 0), "max_logprobs", "out_of_range"),
)

BYTES_PER_TOKEN = 8  # of text in an answer, generous
BYTES_PER_LOGPROB = 128  # of JSON per reported token


def limits(options: LimitsOptions | None = None, max_model_len: int = 0) -> Stage:
    """A stage that refuses calls beyond `options`. `max_model_len` bounds a request without max_tokens.

    Raises InvalidRequest: out_of_range, too_many_items, context_length_exceeded, response_too_large.
    """
    chosen = options or LimitsOptions()

    def stage(call: Call, run: Run) -> AsyncIterator[Event]:
        if isinstance(call.request, Generate):
            check(call.request, chosen, max_model_len)
        elif isinstance(call.request, Decide):
            check_questions(call.request, chosen)
        return run(call)

    return stage


def check(request: Generate, options: LimitsOptions, max_model_len: int = 0) -> None:
    """One request against the table. Raises InvalidRequest."""
    for limit in LIMITS:
        size, most = limit.measure(request), getattr(options, limit.option)
        if size > most:
            message = f"{limit.param}: {size} is more than {most}, the {limit.option.replace('_', ' ')}"
            raise InvalidRequest(message, code=limit.code, param=limit.param)
    estimate = response_bytes(request, max_model_len)
    if estimate > options.max_response_bytes:
        message = (
            f"the answer may take {estimate} bytes, at most {options.max_response_bytes} may be asked for: "
            "lower max_tokens, n or logprobs"
        )
        raise InvalidRequest(message, code="response_too_large", param="max_tokens")


def check_questions(request: Decide, options: LimitsOptions) -> None:
    """Each question is encoded together with the state. Raises InvalidRequest."""
    num_questions, num_options = (
        len(request.questions),
        max((len(each.options) for each in request.questions), default=0),
    )
    if not 1 <= num_questions <= options.max_questions:
        message = f"{num_questions} questions were asked, 1 to {options.max_questions} may be"
        raise InvalidRequest(message, code="too_many_items", param="questions")
    if num_options > options.max_options:
        message = f"a question has {num_options} options, at most {options.max_options} may be given"
        raise InvalidRequest(message, code="too_many_items", param="questions")
    own = sum(
        len(each.instructions) + sum(len(option.name) + len(option.description) for option in each.options)
        for each in request.questions
    )
    num_chars = num_questions * (len(request.state) + len(request.instructions)) + own
    if num_chars * request.option_orders > options.max_prompt_chars:
        message = (
            f"{num_questions} questions about {len(request.state)} characters make {num_chars} to read, "
            f"at most {options.max_prompt_chars} may be: ask fewer questions at once"
        )
        raise InvalidRequest(message, code="context_length_exceeded", param="questions")


def response_bytes(request: Generate, max_model_len: int = 0) -> int:
    """The most bytes that the answer may take."""
    ceiling = max_model_len or 2**31
    num_output = min(ceiling if request.max_tokens is None else request.max_tokens, ceiling)
    if request.max_tokens is None and not max_model_len:
        num_output = 0  # bounded by the model's window, which we do not know
    num_logprobs = 0 if request.sampling.logprobs is None else 1 + request.sampling.logprobs
    num_bytes = num_output * (BYTES_PER_TOKEN + num_logprobs * BYTES_PER_LOGPROB)
    if request.echo:
        per_token = 0 if request.prompt_logprobs is None else (1 + request.prompt_logprobs) * BYTES_PER_LOGPROB
        num_bytes += min(_num_chars(request), ceiling) * (BYTES_PER_TOKEN + per_token)
    return request.n * num_bytes


def _num_messages(request: Generate) -> int:
    prompt: Any = request.prompt
    return len(prompt) if isinstance(prompt, tuple) and prompt and not isinstance(prompt[0], int) else 0


def _num_chars(request: Generate) -> int:
    """Characters of text, or token ids: what bounds the number of tokens."""
    prompt: Any = request.prompt
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return len(prompt)
    return sum(len(message.content or "") for message in prompt)
