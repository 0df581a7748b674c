"""The library: a language model, an embedder or a reranker in this process, without a server or an event loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Generic, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from tripos.build import load_encoder, load_model
from tripos.config import ModelOptions
from tripos.engine.llm import LanguageModel
from tripos.errors import ConfigError, InvalidRequest, TriposError
from tripos.models.tokenizer import Tokenizer
from tripos.predict.encoder import EncoderModel
from tripos.types import (
    Call,
    Constraint,
    Delta,
    Embed,
    Event,
    FinishReason,
    Generate,
    Message,
    ModelCard,
    Rerank,
    Result,
    Sampling,
    TokenLogprob,
    Usage,
)

M = TypeVar("M", LanguageModel, EncoderModel)
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


class _Opened(Generic[M]):
    """A model in this process: what is known of it, and its end."""

    _model: M

    @property
    def card(self) -> ModelCard:
        return self._model.card

    @property
    def tokenizer(self) -> Tokenizer:
        return self._model.tokenizer

    def close(self) -> None:
        """Free weights and cache. Idempotent."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LLM(_Opened[LanguageModel]):
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
        self._model = load_model(_options("LLM", source=str(model), adapters=named, **options))

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


@dataclass(frozen=True)
class Hit:
    """A document's place in the list that was given, and its score."""

    index: int
    score: float


class Embedder(_Opened[EncoderModel]):
    """An embedder or a reranker in this process, for offline work.

    >>> with Embedder("path/to/model") as embedder:                           # doctest: +SKIP
    ...     vectors = embedder.embed(["Where is my card?", "I lost my PIN"])
    """

    def __init__(self, model: str | Path, **options: object) -> None:
        """`options` are the fields of config.ModelOptions (threads, weights, max_model_len, token_budget ...).

        Raises ModelRefused, ConfigError, EnvironmentProblem.
        """
        self._model = load_encoder(_options("Embedder", source=str(model), **options))

    def embed(
        self,
        inputs: Iterable[str | Sequence[int]],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> npt.NDArray[np.float32]:
        """One vector for each text, or for its token ids: [len(inputs), dimensions], in their order.

        `prompt_name` is one of the model's prompts, put before each text (None: its default, "": none). `dimensions`
        keeps the first ones of each vector. `truncate` cuts longer texts, which are refused otherwise.

        Raises InvalidRequest before any work when an input is wrong.
        """
        if isinstance(inputs, str):
            raise InvalidRequest("inputs is one text: give a list of texts", param="inputs")
        given = tuple(each if isinstance(each, str) else tuple(each) for each in inputs)
        if not given:
            return np.zeros((0, dimensions or self.card.dimensions), np.float32)
        request = Embed(
            inputs=given, prompt_name=prompt_name, dimensions=dimensions, truncate_to=0 if truncate else None
        )
        return np.stack(self._answer(request).vectors)

    def rerank(
        self, query: str, documents: Iterable[str], *, top_n: int | None = None, truncate: bool = False
    ) -> list[Hit]:
        """The documents that fit the query best, the best first: by a cross-encoder's score, or by the cosine of an
        embedder's vectors. At most `top_n` of them; `truncate` as embed's.

        Raises InvalidRequest before any work.
        """
        if isinstance(documents, str):
            raise InvalidRequest("documents is one text: give a list of texts", param="documents")
        given = tuple(documents)
        request = Rerank(query=query, documents=given, top_n=top_n, truncate_to=0 if truncate else None)
        hits = [Hit(i, score) for i, score in enumerate(self._answer(request).scores)]
        return sorted(hits, key=lambda hit: -hit.score)[:top_n]

    def _answer(self, request: Embed | Rerank) -> Result:
        call = Call(id="library", route=self.card.name, request=request)
        for _, event in self._model.answer([call]):
            if isinstance(event, TriposError):
                raise event
            if isinstance(event, Result):
                return event
        raise AssertionError("a call ended without a result: this is a bug in Tripos")


def _options(name: str, **given: object) -> ModelOptions:
    """ModelOptions of a constructor's arguments. Raises ConfigError for one that is not known."""
    try:
        return replace(ModelOptions(), **given)  # type: ignore[arg-type]
    except TypeError as error:
        raise ConfigError(f"{name}(...): {error}") from None


def _frozen(prompt: Prompt) -> str | tuple[int, ...] | tuple[Message, ...]:
    return prompt if isinstance(prompt, str) else tuple(prompt)  # type: ignore[return-value]
