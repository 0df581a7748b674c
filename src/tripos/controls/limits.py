"""Size limits on a call that hold for every door. Refuses before any costly work.

What needs the tokenizer (context length, vocabulary) is checked by the model.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from tripos.errors import InvalidRequest
from tripos.types import Call, Decide, Event, Generate, Message, Prompt, Run, Stage, Tokenize


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


BYTES_PER_TOKEN = 8  # of text in an answer, generous
BYTES_PER_LOGPROB = 128  # of JSON per reported token


def limits(options: LimitsOptions | None = None, max_model_len: int = 0) -> Stage:
    """A stage that refuses calls beyond `options`. `max_model_len` bounds a request without max_tokens.

    Raises InvalidRequest: out_of_range, too_many_items, context_length_exceeded, response_too_large.
    """
    chosen = options or LimitsOptions()

    def stage(call: Call, run: Run) -> AsyncGenerator[Event, None]:
        if isinstance(call.request, Generate):
            check(call.request, chosen, max_model_len)
        elif isinstance(call.request, Tokenize):
            check(call.request.generate, chosen)
        elif isinstance(call.request, Decide):
            check_questions(call.request, chosen)
        return run(call)

    return stage


def check(request: Generate, options: LimitsOptions, max_model_len: int = 0) -> None:
    """One request against its ceilings. Raises InvalidRequest."""
    sampling = request.sampling
    if request.n > options.max_n:
        raise _too_much("n", request.n, "max_n", options.max_n, "out_of_range")
    num_chars, num_messages = _measure(request.prompt)
    if num_messages > options.max_messages:
        raise _too_much("messages", num_messages, "max_messages", options.max_messages)
    if num_chars > options.max_prompt_chars:
        code = "context_length_exceeded"
        raise _too_much("prompt", num_chars, "max_prompt_chars", options.max_prompt_chars, code)
    if sampling.stop:
        _check_stops(sampling.stop, options)
    if len(sampling.stop_token_ids) > options.max_stop_token_ids:
        num_ids = len(sampling.stop_token_ids)
        raise _too_much("stop_token_ids", num_ids, "max_stop_token_ids", options.max_stop_token_ids)
    if len(sampling.logit_bias) > options.max_logit_biases:
        raise _too_much("logit_bias", len(sampling.logit_bias), "max_logit_biases", options.max_logit_biases)
    num_logprobs = max(sampling.logprobs or 0, request.prompt_logprobs or 0)
    if num_logprobs > options.max_logprobs:
        raise _too_much("logprobs", num_logprobs, "max_logprobs", options.max_logprobs, "out_of_range")
    estimate = response_bytes(request, max_model_len, num_chars)
    if estimate > options.max_response_bytes:
        message = (
            f"the answer may take {estimate} bytes, at most {options.max_response_bytes} may be asked for: "
            "lower max_tokens, n or logprobs"
        )
        raise InvalidRequest(message, code="response_too_large", param="max_tokens")


def _check_stops(stops: tuple[str, ...], options: LimitsOptions) -> None:
    if len(stops) > options.max_stops:
        raise _too_much("stop", len(stops), "max_stops", options.max_stops)
    num_bytes = max(len(stop.encode()) for stop in stops)
    if num_bytes > options.max_stop_bytes:
        raise _too_much("stop", num_bytes, "max_stop_bytes", options.max_stop_bytes, "out_of_range")


def _too_much(param: str, size: int, option: str, most: int, code: str = "too_many_items") -> InvalidRequest:
    message = f"{param}: {size} is more than {most}, the {option.replace('_', ' ')}"
    return InvalidRequest(message, code=code, param=param)


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


def response_bytes(request: Generate, max_model_len: int = 0, num_chars: int = 0) -> int:
    """The most bytes that the answer may take. `num_chars`: of the prompt, or its tokens."""
    ceiling = max_model_len or 2**31
    num_output = min(ceiling if request.max_tokens is None else request.max_tokens, ceiling)
    if request.max_tokens is None and not max_model_len:
        num_output = 0  # bounded by the model's context length, which is not known here
    num_logprobs = 0 if request.sampling.logprobs is None else 1 + request.sampling.logprobs
    num_bytes = num_output * (BYTES_PER_TOKEN + num_logprobs * BYTES_PER_LOGPROB)
    if request.echo:
        per_token = 0 if request.prompt_logprobs is None else (1 + request.prompt_logprobs) * BYTES_PER_LOGPROB
        num_bytes += min(num_chars, ceiling) * (BYTES_PER_TOKEN + per_token)
    return request.n * num_bytes


def _measure(prompt: Prompt) -> tuple[int, int]:
    """Characters of text, or token ids, which bound the number of tokens; and messages."""
    if not prompt or isinstance(prompt, str) or isinstance(prompt[0], int):
        return len(prompt), 0
    return sum(len(each.content or "") for each in prompt if isinstance(each, Message)), len(prompt)
