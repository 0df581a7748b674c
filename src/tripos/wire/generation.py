"""What all protocols of text generation share: the decoded body, the collected output, limits of fields, stop strings,
token ids.

Owns the rule that fields a client leaves out take what the model's makers recommend.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence, Set
from typing import Any

import msgspec
from msgspec.structs import replace

from tripos.errors import InvalidRequest
from tripos.types import (
    Delta,
    Event,
    Finish,
    FinishReason,
    Generate,
    Message,
    ModelCard,
    Priority,
    Sampling,
    TokenLogprob,
    ToolCall,
    Usage,
)
from tripos.wire.fields import Field, items
from tripos.wire.ignored import Ignored

MAX_MODEL_NAME = 256
MAX_MESSAGES = 2048
MAX_TIMEOUT_S = 86400.0  # what a route allows, its deadline says
MAX_TOKENS = 2**31 - 1
MAX_STOPS, MAX_STOP_BYTES = 16, 256
INT31, INT63 = 2**31 - 1, 2**63 - 1
# Of Sampling: what a model's makers may recommend, and a client's silence leaves to them.
RECOMMENDED = frozenset({"temperature", "top_k", "top_p", "min_p", "repetition_penalty"})

MODEL = Field("model", "string", "Name of a served model.", max_bytes=MAX_MODEL_NAME, required=True)
_NEUTRAL = Sampling()
_TOKEN_ID = Field("token id", "integer", "", low=0, high=INT31)


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded body: one Generate per prompt, and how the answer is to be delivered."""

    model: str
    requests: tuple[Generate, ...]
    given: Set[str] = RECOMMENDED  # names of fields that the client sent
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False  # in every chunk, what was used so far
    priority: Priority = Priority.ONLINE
    timeout_s: float | None = None
    min_context: int = 0  # tokens of context that the client wants at least
    ignored: tuple[Ignored, ...] = ()  # what the client sent and is not heeded; each step may add to it


def for_model(body: GenerationRequest, card: ModelCard) -> GenerationRequest:
    """The body with the model's values for what the client left out. A context is as large as the model's at most."""
    requests, ignored = body.requests, body.ignored
    if 0 < card.max_model_len < body.min_context:
        ignored = (*ignored, Ignored("options.num_ctx", "advisory"))
        body = replace(body, min_context=card.max_model_len)
    if card.sampling != _NEUTRAL:  # the makers recommend something
        missing = {name: getattr(card.sampling, name) for name in RECOMMENDED - body.given}
        requests = tuple(replace(each, sampling=replace(each.sampling, **missing)) for each in requests)
    if requests:
        ignored = (*ignored, *unread_args(requests[0].template_args, card))
    if requests is body.requests and len(ignored) == len(body.ignored):
        return body
    return replace(body, requests=requests, ignored=ignored)


def unread_args(args: Mapping[str, Any], card: ModelCard) -> tuple[Ignored, ...]:
    """Arguments for the template that it does not read."""
    if card.template_args is None or not args:
        return ()
    known = {*card.template_args, "add_generation_prompt", "continue_final_message"}
    return tuple(Ignored(f"chat_template_kwargs.{name}", "advisory") for name in args if name not in known)


def check_model(found: dict[str, Any]) -> str:
    """The model's name. Raises InvalidRequest (missing_field)."""
    if not found.get("model"):
        raise InvalidRequest("model is empty", code="missing_field", param="model")
    name: str = found["model"]
    return name


def join_parts(parts: Sequence[str]) -> str:
    """The text of a message that came in parts, for templates that take one text: a line each, as vLLM has it."""
    return "\n".join(parts)


def read_stop(value: Any, path: str) -> tuple[str, ...]:
    """A string or a list of them, none empty. Raises InvalidRequest: invalid_type, invalid_value, too_many_items."""
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list | tuple):
        raise InvalidRequest(f"{path} must be a string or an array", code="invalid_type", param=path)
    if len(stops) > MAX_STOPS:
        message = f"{path} has {len(stops)} items, at most {MAX_STOPS} may be given"
        raise InvalidRequest(message, code="too_many_items", param=path)
    for i, stop in enumerate(stops):
        where = path if isinstance(value, str) else f"{path}[{i}]"
        if not isinstance(stop, str) or not stop:
            raise InvalidRequest(f"{where} must be a string that is not empty", code="invalid_value", param=where)
        if len(stop.encode()) > MAX_STOP_BYTES:
            message = f"{where} is longer than {MAX_STOP_BYTES} bytes"
            raise InvalidRequest(message, code="invalid_value", param=where)
        if all(map(unicodedata.combining, stop)):
            raise InvalidRequest(f"{where} holds combining marks only", code="invalid_value", param=where)
    return tuple(stops)


def read_token_ids(values: Sequence[Any], path: str) -> tuple[int, ...]:
    """Non-negative 31-bit integers. Raises InvalidRequest: invalid_type, out_of_range."""
    if values and (set(map(type, values)) != {int} or min(values) < 0 or max(values) > INT31):
        items(values, _TOKEN_ID, path)  # finds the culprit
    return tuple(values)


class Collected:
    """The Deltas of one choice, put together."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.reasonings: list[str] = []
        self.tool_calls: tuple[ToolCall, ...] = ()
        self.logprobs: list[TokenLogprob] = []
        self.text_offsets: list[int] = []
        self.prompt_offsets: tuple[int, ...] = ()
        self.prompt_token_ids: tuple[int, ...] = ()
        self.prompt_start = ""
        self.prompt_logprobs: tuple[TokenLogprob | None, ...] = ()
        self.finish_reason: FinishReason | None = None
        self.stop: str | int | None = None

    def add(self, delta: Delta) -> None:
        self.texts.append(delta.text)
        if delta.reasoning:
            self.reasonings.append(delta.reasoning)
        self.tool_calls += delta.tool_calls
        if delta.logprobs:
            self.logprobs += delta.logprobs
            self.text_offsets += delta.text_offsets
        if delta.prompt_token_ids or delta.prompt_logprobs:
            self.prompt_offsets = delta.prompt_offsets
            self.prompt_token_ids = delta.prompt_token_ids
            self.prompt_start = delta.prompt_start
            self.prompt_logprobs = delta.prompt_logprobs or ()
        if delta.finish_reason is not None:
            self.finish_reason, self.stop = delta.finish_reason, delta.stop

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def reasoning(self) -> str:
        return "".join(self.reasonings)

    def take_logprobs(self) -> list[TokenLogprob]:
        """Those since the last time: they are large, and whoever streams them needs them once."""
        taken, self.logprobs = self.logprobs, []
        return taken

    @property
    def message(self) -> Message:
        """For the conversation that goes on from here."""
        text, calls = self.text, self.tool_calls
        content = text if text or not calls else None
        return Message(role="assistant", content=content, tool_calls=calls, reasoning=self.reasoning or None)


class SingleAnswer:
    """The answer to a request with one choice, as its events come."""

    def __init__(self) -> None:
        self.output = Collected()
        self.usage = Usage()

    def collect(self, events: Sequence[tuple[int, Event]]) -> list[Delta]:
        """Remember events; returns the Deltas among them."""
        deltas = []
        for _, event in events:
            if isinstance(event, Finish):
                self.usage = event.usage
            elif isinstance(event, Delta):
                self.output.add(event)
                deltas.append(event)
        return deltas
