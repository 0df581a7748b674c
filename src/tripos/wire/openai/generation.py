"""What chat and legacy completions share: the sampling fields, usage, metrics, and how choices are collected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tripos.errors import InvalidRequest, shown
from tripos.types import Delta, Event, Finish, Priority, Sampling, Usage
from tripos.wire.fields import Field, Found, items, table
from tripos.wire.generation import (
    INT31,
    INT63,
    MAX_TIMEOUT_S,
    MODEL,
    GenerationRequest,
    check_model,
    read_stop,
    read_token_ids,
)
from tripos.wire.ignored import Ignored
from tripos.wire.json import encode

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
    Field("seed", "integer", "Makes draws repeatable; -1: each its own.", low=0, high=INT63, nothing=(-1,)),
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
    Field("stream_options", "object", "With stream: {include_usage, continuous_usage_stats}.", nothing=({},)),
    Field("service_tier", "string", "flex: run as batch work.", max_bytes=64, nothing=("auto", "default")),
    Field("priority", "integer", "0: online work; above 0: batch work.", low=0, high=INT31),
    Field("cache_salt", "string", "Narrows prefix reuse to requests with the same salt.", max_bytes=256, nothing=("",)),
    Field("timeout", "number", "Seconds after which the answer is worthless.", low=0.001, high=MAX_TIMEOUT_S),
)

IGNORED = (
    Field("user", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("metadata", "object", "For the client's own books.", max_items=16, use="ignored"),
    Field("safety_identifier", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("prompt_cache_key", "string", "Prefixes are always reused.", max_bytes=512, use="met"),
    Field("store", "boolean", "Nothing is stored.", use="ignored"),
)

_BIAS = Field("bias", "number", "", low=-100, high=100)
_STREAM_OPTIONS = table(
    Field("include_usage", "boolean", "End with a chunk that holds the usage."),
    Field("continuous_usage_stats", "boolean", "Every chunk holds the usage so far."),
    Field("include_obfuscation", "boolean", "No padding is added.", use="ignored"),
)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What every chunk of one answer repeats."""

    id: str
    created: int  # unix seconds
    model: str
    system_fingerprint: str


def read_sampling(found: Found, logprobs: int | None) -> Sampling:
    """The Sampling that checked fields ask for. Raises InvalidRequest."""
    given: dict[str, Any] = {}
    for name, value in found.items():
        if name in _SAMPLING_FIELDS:
            given[_SAMPLING_FIELDS[name]] = _READERS[name](value) if name in _READERS else value
    return Sampling(logprobs=logprobs, **given)


def read_delivery(found: Found) -> dict[str, Any]:
    """The fields of GenerationRequest besides `requests`. Raises InvalidRequest."""
    if "best_of" in found and found["best_of"] != found.get("n", 1):
        message = f"best_of is {found['best_of']} and n is {found.get('n', 1)}: only equal values are supported"
        raise InvalidRequest(message, code="invalid_value", param="best_of")
    given: dict[str, Any] = {"model": check_model(found), "given": frozenset(found)}
    if found.get("stream"):
        given["stream"] = True
    if "stream_options" in found:
        if "stream" not in given:
            message = "stream_options needs stream: true"
            raise InvalidRequest(message, code="invalid_value", param="stream_options")
        options = found.inner("stream_options", _STREAM_OPTIONS)
        given["include_usage"] = options.get("include_usage", False)
        given["continuous_usage"] = options.get("continuous_usage_stats", False)
    if found.get("service_tier", "flex") != "flex":
        found.ignored.append(Ignored("service_tier", "advisory"))
    if found.get("service_tier") == "flex" or found.get("priority", 0) > 0:
        given["priority"] = Priority.BATCH
    if "timeout" in found:
        given["timeout_s"] = found["timeout"]
    return given


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


_READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(
        ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"), float
    ),
    "top_k": lambda value: max(value, 0),
    "logit_bias": _read_logit_bias,
    "stop": lambda value: read_stop(value, "stop"),
    "stop_token_ids": lambda value: read_token_ids(value, "stop_token_ids"),
}
_SAMPLING_FIELDS = {  # of a body → of Sampling
    **{name: name for name in (*_READERS, "seed", "min_tokens", "ignore_eos")},
    "include_stop_str_in_output": "include_stop",
}


def encode_usage(usages: Sequence[Usage]) -> dict[str, Any]:
    """Of all prompts together."""
    usage = usages[0] if len(usages) == 1 else _sum(usages)
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def encode_metrics(usages: Sequence[Usage], elapsed_s: float) -> dict[str, Any]:
    """Where the time went. Waits are the longest of the prompts, work is their sum.

    `elapsed_s`: wall time from arrival to the last token. All numbers have three digits after the point.
    """
    usage = usages[0] if len(usages) == 1 else _sum(usages)
    longest = usage.output_tokens if len(usages) == 1 else max((each.output_tokens for each in usages), default=0)
    generation_s = max(elapsed_s - usage.ttft_s, 0.0)
    return {
        "time_to_first_token_ms": int(usage.ttft_s * 1e6 + 0.5) / 1e3,
        "queue_time_ms": int(usage.queue_s * 1e6 + 0.5) / 1e3,
        "generation_time_ms": int(generation_s * 1e6 + 0.5) / 1e3,
        "mean_itl_ms": int(generation_s * 1e6 / (longest - 1) + 0.5) / 1e3 if longest > 1 else 0.0,
        "tokens_per_second": int(usage.output_tokens / elapsed_s * 1e3 + 0.5) / 1e3 if elapsed_s > 0 else 0.0,
        "prefill_time_ms": int(usage.prefill_s * 1e6 + 0.5) / 1e3,
        "decode_time_ms": int(usage.decode_s * 1e6 + 0.5) / 1e3,
        "num_preemptions": usage.num_preemptions,
    }


def _sum(usages: Sequence[Usage]) -> Usage:
    """Of several prompts. Waits are the longest of them."""
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        output_tokens=sum(usage.output_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
        ttft_s=max((usage.ttft_s for usage in usages), default=0.0),
        queue_s=max((usage.queue_s for usage in usages), default=0.0),
        prefill_s=sum(usage.prefill_s for usage in usages),
        decode_s=sum(usage.decode_s for usage in usages),
        num_preemptions=sum(usage.num_preemptions for usage in usages),
    )


class Answer(ABC):
    """Encodes the events of one answer. Subclasses know the shapes; `prompt_idx` tells the prompts of a list apart."""

    object: str
    chunk_object: str
    _is_opened = False
    _before = _after = b""  # what every chunk of a stream begins and ends with, written once

    def __init__(self, body: GenerationRequest, identity: Identity) -> None:
        self.body = body
        self._identity = identity
        self._n = body.requests[0].n
        self._usages: list[Usage | None] = [None] * len(body.requests)
        self._so_far = [Usage()] * len(body.requests)  # where every chunk tells
        if body.stream:
            self._before = encode(self._head(self.chunk_object))[:-1] + b',"choices":['
            self._after = b'],"usage":null}' if body.include_usage else b"]}"

    def take(self, events: Sequence[tuple[int, Event]]) -> list[msgspec.Raw]:
        """Remember (index of the prompt, event) pairs; returns the chunks of a stream, as JSON text."""
        choices = []
        for prompt_idx, event in events:
            if type(event) is Delta:
                if self.body.continuous_usage:
                    self._count(prompt_idx, event)
                choice = self._add(prompt_idx * self._n + event.index, event)
                if choice is not None:
                    choices.append(choice)
            elif type(event) is Finish:
                self._usages[prompt_idx] = event.usage
        if choices and not self._is_opened:
            self._is_opened = True
            choices = self._opening() + choices
        after = self._after
        if choices and self.body.continuous_usage:
            after = b'],"usage":' + encode(encode_usage(self._so_far)) + b"}"
        return [msgspec.Raw(self._before + encode(choice) + after) for choice in choices]

    def _count(self, prompt_idx: int, delta: Delta) -> None:
        before = self._so_far[prompt_idx]
        self._so_far[prompt_idx] = Usage(
            prompt_tokens=before.prompt_tokens or delta.num_prompt_tokens,
            output_tokens=before.output_tokens + len(delta.token_ids),
        )

    def end(self, elapsed_s: float) -> list[dict[str, Any]]:
        """The usage, if the client wants it."""
        return [self._whole(self.chunk_object, [], elapsed_s)] if self.body.include_usage else []

    def response(self, elapsed_s: float) -> dict[str, Any]:
        return self._whole(self.object, self._whole_choices(), elapsed_s)

    def _head(self, kind: str) -> dict[str, Any]:
        identity = self._identity
        return {
            "id": identity.id,
            "created": identity.created,
            "model": identity.model,
            "system_fingerprint": identity.system_fingerprint,
            "object": kind,
        }

    def _whole(self, kind: str, choices: list[dict[str, Any]], elapsed_s: float) -> dict[str, Any]:
        usages = [usage for usage in self._usages if usage is not None]
        whole = self._head(kind)
        whole["choices"] = choices
        whole["usage"] = encode_usage(usages)
        whole["metrics"] = encode_metrics(usages, elapsed_s)
        return whole

    @abstractmethod
    def _add(self, index: int, delta: Delta) -> Any:
        """Remember more of a choice; returns the choice of a stream's next chunk, None if there is nothing to send."""

    @abstractmethod
    def _opening(self) -> list[dict[str, Any]]:
        """The choices of the chunks that come before any text."""

    @abstractmethod
    def _whole_choices(self) -> list[dict[str, Any]]:
        """The choices of the whole response."""
