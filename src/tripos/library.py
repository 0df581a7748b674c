"""The library: a language model in this process, without a server or an event loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import msgspec

from tripos.build import load_model
from tripos.config import ModelOptions
from tripos.errors import ConfigError, TriposError
from tripos.models.tokenizer import Tokenizer
from tripos.types import (
    Call,
    Constraint,
    Delta,
    Event,
    FinishReason,
    Generate,
    Message,
    ModelCard,
    Sampling,
    TokenLogprob,
    Usage,
)

Prompt = str | Sequence[int] | Sequence[Message]


@dataclass(frozen=True)
class Completion:
    """One choice of one prompt. When `error` is set the choice ended early; the others are not affected."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    usage: Usage = field(default_factory=Usage)  # of the whole prompt's call
    error: TriposError | None = None


class LLM:
    """A language model in this process, for offline work: no server, no event loop, every step full.

    >>> with LLM("path/to/model") as llm:                                     # doctest: +SKIP
    ...     print(llm.generate(["Once upon a time"], max_tokens=32)[0].text)
    """

    def __init__(
        self, model: str | Path, *, adapters: Mapping[str, str | Path] | None = None, **options: object
    ) -> None:
        """`options` are the fields of config.ModelOptions (threads, weights, kv_cache, max_sequences ...); `adapters`
        are directories of LoRA adapters, by the names that generate takes.

        Raises ModelRefused, InvalidRequest (an adapter's name), ConfigError, EnvironmentProblem.
        """
        named = tuple((name, str(path)) for name, path in (adapters or {}).items())
        try:
            model_options = replace(ModelOptions(), source=str(model), adapters=named, **options)  # type: ignore[arg-type]
        except TypeError as error:
            raise ConfigError(f"LLM(...): {error}") from None
        self._model = load_model(model_options)

    @property
    def card(self) -> ModelCard:
        return self._model.card

    @property
    def tokenizer(self) -> Tokenizer:
        return self._model.tokenizer

    def generate(
        self,
        prompts: Iterable[Prompt],
        *,
        max_tokens: int | None = 128,
        sampling: Sampling | None = None,
        n: int = 1,
        constraint: Constraint | None = None,
        adapter: str | Sequence[str] = "",
    ) -> list[Completion]:
        """Continue every prompt (text, token ids or chat messages): len(prompts) * n Completions, choices of a
        prompt side by side. `sampling` defaults to what the model's makers recommend. `constraint` is what each text
        must match. `adapter` names one of the adapters for all prompts, or one for each ("": the model as it is).

        Raises InvalidRequest before any work when a prompt is wrong, NotFound when an adapter's name is.
        """
        sampling = sampling or self.card.sampling
        prompts = list(prompts)
        names = [adapter] * len(prompts) if isinstance(adapter, str) else list(adapter)
        if len(names) != len(prompts):
            raise ConfigError(f"{len(names)} adapters for {len(prompts)} prompts: give one name, or one for each")
        asked = Generate(prompt="", max_tokens=max_tokens, n=n, sampling=sampling, constraint=constraint)
        return self._answer([
            msgspec.structs.replace(asked, prompt=_frozen(prompt), adapter=name)
            for prompt, name in zip(prompts, names, strict=True)
        ])  # fmt: skip

    def chat(
        self, messages: Sequence[Message], *, max_tokens: int | None = None, sampling: Sampling | None = None
    ) -> Completion:
        """Answer a conversation through the model's chat template."""
        return self.generate([messages], max_tokens=max_tokens, sampling=sampling)[0]

    def score(self, prompts: Iterable[str | Sequence[int]]) -> list[list[float]]:
        """Natural-log probability of each token of each prompt after its first."""
        requests = [Generate(prompt=_frozen(prompt), max_tokens=0, prompt_logprobs=0) for prompt in prompts]
        scores = []
        for completion in self._answer(requests):
            if completion.error is not None:
                raise completion.error
            scores.append([each.logprob for each in completion.prompt_logprobs or () if each is not None])
        return scores

    def close(self) -> None:
        """Free weights and cache. Idempotent."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, requests: list[Generate]) -> list[Completion]:
        calls = [Call(id=f"library-{i}", route=self.card.name, request=request) for i, request in enumerate(requests)]
        collected = [_Collector(request.n) for request in requests]
        for i, event in self._model.answer(calls):
            collected[i].take(event)
        return [completion for each in collected for completion in each.completions()]


class _Collector:
    """The events of one call, joined per choice."""

    def __init__(self, n: int) -> None:
        self._deltas: list[list[Delta]] = [[] for _ in range(n)]
        self._usage = Usage()
        self._error: TriposError | None = None

    def take(self, event: Event | TriposError) -> None:
        if isinstance(event, Delta):
            self._deltas[event.index].append(event)
        elif isinstance(event, TriposError):
            self._error = event
        else:
            self._usage = getattr(event, "usage", self._usage)

    def completions(self) -> list[Completion]:
        return [self._completion(deltas) for deltas in self._deltas]

    def _completion(self, deltas: list[Delta]) -> Completion:
        has_logprobs = any(delta.logprobs is not None for delta in deltas)
        return Completion(
            text="".join(delta.text for delta in deltas),
            token_ids=tuple(token for delta in deltas for token in delta.token_ids),
            finish_reason=deltas[-1].finish_reason if deltas else None,
            logprobs=tuple(each for delta in deltas for each in delta.logprobs or ()) if has_logprobs else None,
            prompt_logprobs=next((d.prompt_logprobs for d in deltas if d.prompt_logprobs is not None), None),
            usage=self._usage,
            error=self._error,
        )


def _frozen(prompt: Prompt) -> str | tuple[int, ...] | tuple[Message, ...]:
    return prompt if isinstance(prompt, str) else tuple(prompt)  # type: ignore[return-value]
