"""What chat and legacy completions share: the sampling fields, usage, metrics, and how choices are collected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from tripos.errors import InvalidRequest
from tripos.types import Delta, Event, Finish, Priority, Sampling, Usage
from tripos.wire.fields import Field, items, read
from tripos.wire.generation import (
    INT31,
    INT63,
    MAX_TIMEOUT_S,
    MODEL,
    RECOMMENDED,
    Asked,
    Choice,
    check_model,
    read_stop,
    read_token_ids,
)
from tripos.wire.json import encode, shown

SAMPLING = (
    Field("temperature", "number", "0: always the likeliest token. Default: the model's, else 1.", low=0, high=2),
    Field("top_p", "number", "Draw from this much of the probability. Default: the model's, else 1.", low=1e-9, high=1),
    Field(
        "top_k",
        "integer",
        "Draw from the k likeliest tokens; 0 or -1: from all. Default: the model's, else 0.",
        low=-1,
        high=INT31,
    ),
    Field(
        "min_p", "number", "Least probability relative to the likeliest. Default: the model's, else 0.", low=0, high=1
    ),
    Field(
        "repetition_penalty",
        "number",
        "Divides logits of tokens seen before. Default: the model's, else 1.",
        low=0.01,
        high=10,
    ),
    Field("presence_penalty", "number", "Subtracted once from tokens of the output.", low=-2, high=2),
    Field("frequency_penalty", "number", "Subtracted per occurrence in the output.", low=-2, high=2),
    Field("logit_bias", "object", "Token id → number from -100 to 100.", max_items=1024),
    Field("seed", "integer", "Makes draws repeatable.", low=0, high=INT63),
    Field("min_tokens", "integer", "No end of text before this many tokens.", low=0, high=INT31),
    Field("stop", "any", "A string or a list of up to 16, each of 1 to 256 bytes; matched exactly."),
    Field("stop_token_ids", "array", "Token ids that end the output.", max_items=128),
    Field("include_stop_str_in_output", "boolean", "Keep the matched stop string."),
    Field("ignore_eos", "boolean", "Go on after the end of text; for benchmarks."),
    Field("n", "integer", "Choices per prompt.", low=1, high=8),
    Field("best_of", "integer", "Only equal to n.", low=1, high=8),
)

DELIVERY = (
    MODEL,
    Field("stream", "boolean", "Send the answer as server-sent events."),
    Field("stream_options", "object", "With stream: {include_usage}."),
    Field("service_tier", "string", "flex: run as batch work.", choices=("auto", "default", "flex", "priority")),
    Field("priority", "integer", "0: online work; above 0: batch work.", low=0, high=INT31),
    Field("cache_salt", "string", "Narrows prefix reuse to requests with the same salt.", max_bytes=256),
    Field("timeout", "number", "Seconds after which the answer is worthless.", low=0.001, high=MAX_TIMEOUT_S),
)

IGNORED = (
    Field("user", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("metadata", "object", "For the client's own books.", max_items=16, use="ignored"),
    Field("safety_identifier", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("prompt_cache_key", "string", "Prefixes are always reused.", max_bytes=512, use="ignored"),
    Field("store", "boolean", "Nothing is stored.", use="ignored"),
)

_BIAS = Field("bias", "number", "", low=-100, high=100)
_STREAM_OPTIONS = {
    "include_usage": Field("include_usage", "boolean", "End with a chunk that holds the usage."),
    "include_obfuscation": Field("include_obfuscation", "boolean", "No padding is added.", use="ignored"),
}


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What every chunk of one answer repeats."""

    id: str
    created: int  # unix seconds
    model: str
    system_fingerprint: str


def read_sampling(found: dict[str, Any], logprobs: int | None) -> Sampling:
    """The Sampling that checked fields ask for. Raises InvalidRequest."""
    top_k = found.get("top_k", 0)
    return Sampling(
        temperature=float(found.get("temperature", 1.0)),
        top_k=max(top_k, 0),
        top_p=float(found.get("top_p", 1.0)),
        min_p=float(found.get("min_p", 0.0)),
        repetition_penalty=float(found.get("repetition_penalty", 1.0)),
        presence_penalty=float(found.get("presence_penalty", 0.0)),
        frequency_penalty=float(found.get("frequency_penalty", 0.0)),
        logit_bias=_read_logit_bias(found.get("logit_bias", {})),
        seed=found.get("seed"),
        min_tokens=found.get("min_tokens", 0),
        stop=read_stop(found.get("stop", ()), "stop"),
        stop_token_ids=read_token_ids(found.get("stop_token_ids", []), "stop_token_ids"),
        include_stop=found.get("include_stop_str_in_output", False),
        ignore_eos=found.get("ignore_eos", False),
        logprobs=logprobs,
    )


def read_delivery(found: dict[str, Any]) -> dict[str, Any]:
    """The fields of Asked besides `requests`. Raises InvalidRequest."""
    n, best_of = found.get("n", 1), found.get("best_of")
    if best_of is not None and best_of != n:
        message = f"best_of is {best_of} and n is {n}: only equal values are supported"
        raise InvalidRequest(message, code="invalid_value", param="best_of")
    stream = found.get("stream", False)
    options = found.get("stream_options")
    if options is not None and not stream:
        message = "stream_options needs stream: true"
        raise InvalidRequest(message, code="invalid_value", param="stream_options")
    if found.get("cache_salt") == "":
        raise InvalidRequest("cache_salt is empty: leave it out", code="invalid_value", param="cache_salt")
    is_batch = found.get("service_tier") == "flex" or found.get("priority", 0) > 0
    return {
        "model": check_model(found),
        "given": RECOMMENDED & found.keys(),
        "stream": stream,
        "include_usage": read(options or {}, _STREAM_OPTIONS, "stream_options").get("include_usage", False),
        "priority": Priority.BATCH if is_batch else Priority.ONLINE,
        "timeout_s": found.get("timeout"),
    }


def _read_logit_bias(value: dict[str, Any]) -> dict[int, float]:
    found = {}
    for key, bias in value.items():
        path = f"logit_bias.{key[:20]}"
        if not (key.isascii() and key.isdigit() and int(key[:12]) <= INT31 and len(key) < 12):
            raise InvalidRequest(f"{shown(key)} is not a token id", code="out_of_range", param="logit_bias")
        items([bias], _BIAS, path)
        if int(key) in found:
            raise InvalidRequest(f"token {int(key)} appears twice", code="invalid_value", param="logit_bias")
        found[int(key)] = float(bias)
    return found


def encode_usage(usages: Iterable[Usage]) -> dict[str, Any]:
    usages = tuple(usages)
    prompt_tokens = sum(usage.prompt_tokens for usage in usages)
    output_tokens = sum(usage.output_tokens for usage in usages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": output_tokens,
        "total_tokens": prompt_tokens + output_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in usages)},
        "completion_tokens_details": {"reasoning_tokens": sum(usage.reasoning_tokens for usage in usages)},
    }


def encode_metrics(usages: Iterable[Usage], elapsed_s: float) -> dict[str, Any]:
    """Where the time went. Waits are the longest of the prompts, work is their sum.

    `elapsed_s`: wall time from arrival to the last token.
    """
    usages = tuple(usages)
    if len(usages) == 1:  # as nearly always
        return _encode_metrics(usages[0], usages[0].output_tokens, elapsed_s)
    return _encode_metrics(
        Usage(
            output_tokens=max((usage.output_tokens for usage in usages), default=0),
            ttft_s=max((usage.ttft_s for usage in usages), default=0.0),
            queue_s=max((usage.queue_s for usage in usages), default=0.0),
            prefill_s=sum(usage.prefill_s for usage in usages),
            decode_s=sum(usage.decode_s for usage in usages),
            num_preemptions=sum(usage.num_preemptions for usage in usages),
        ),
        sum(usage.output_tokens for usage in usages),
        elapsed_s,
    )


def _encode_metrics(usage: Usage, num_tokens: int, elapsed_s: float) -> dict[str, Any]:
    """`usage.output_tokens`: of the longest prompt; `num_tokens`: of all."""
    longest = usage.output_tokens
    generation_s = max(elapsed_s - usage.ttft_s, 0.0)
    return {
        "time_to_first_token_ms": _ms(usage.ttft_s),
        "queue_time_ms": _ms(usage.queue_s),
        "generation_time_ms": _ms(generation_s),
        "mean_itl_ms": _ms(generation_s / (longest - 1)) if longest > 1 else 0.0,
        "tokens_per_second": round(num_tokens / elapsed_s, 3) if elapsed_s > 0 else 0.0,
        "prefill_time_ms": _ms(usage.prefill_s),
        "decode_time_ms": _ms(usage.decode_s),
        "num_preemptions": usage.num_preemptions,
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


Texts = Callable[[Sequence[int]], str]  # token ids → text


class Answer(ABC):
    """Encodes the events of one answer. Subclasses know the shapes; `prompt_idx` tells the prompts of a list apart."""

    object: str
    chunk_object: str

    def __init__(self, asked: Asked, identity: Identity) -> None:
        self.asked = asked
        self._choices = [Choice() for _ in range(len(asked.requests) * asked.n)]
        self._usages: list[Usage | None] = [None] * len(asked.requests)
        self._is_opened = False
        self._identity = msgspec.to_builtins(identity)
        self._before = self._after = b""  # what every chunk of a stream begins and ends with, written once
        if asked.stream:
            self._before = encode({**self._identity, "object": self.chunk_object})[:-1] + b',"choices":['
            self._after = b'],"usage":null}' if asked.include_usage else b"]}"

    def take(self, events: Sequence[tuple[int, Event]]) -> list[msgspec.Raw]:
        """Remember (index of the prompt, event) pairs; returns the chunks of a stream, as JSON text."""
        choices = []
        for prompt_idx, event in events:
            if isinstance(event, Finish):
                self._usages[prompt_idx] = event.usage
            if not isinstance(event, Delta):
                continue
            index = prompt_idx * self.asked.n + event.index
            self._add(index, event)
            if self.asked.stream and (choice := self._stream_choice(index, prompt_idx, event)) is not None:
                choices.append(choice)
        if choices and not self._is_opened:
            self._is_opened = True
            choices = self._opening() + choices
        return [msgspec.Raw(self._before + encode(choice) + self._after) for choice in choices]

    def end(self, elapsed_s: float) -> list[dict[str, Any]]:
        """The usage, if it was asked for."""
        if not self.asked.include_usage:
            return []
        return [{**self._identity, "object": self.chunk_object, "choices": [], **self._totals(elapsed_s)}]

    def response(self, elapsed_s: float) -> dict[str, Any]:
        choices = [self._whole_choice(index, choice) for index, choice in enumerate(self._choices)]
        return {**self._identity, "object": self.object, "choices": choices, **self._totals(elapsed_s)}

    def _add(self, index: int, delta: Delta) -> None:
        self._choices[index].add(delta)

    def _totals(self, elapsed_s: float) -> dict[str, Any]:
        usages = [usage for usage in self._usages if usage is not None]
        return {"usage": encode_usage(usages), "metrics": encode_metrics(usages, elapsed_s)}

    @abstractmethod
    def _opening(self) -> list[dict[str, Any]]:
        """The choices of the chunks that come before any text."""

    @abstractmethod
    def _stream_choice(self, index: int, prompt_idx: int, delta: Delta) -> dict[str, Any] | None:
        """One choice of a chunk; None: there is nothing to send yet."""

    @abstractmethod
    def _whole_choice(self, index: int, choice: Choice) -> dict[str, Any]:
        """One choice of the whole response."""
