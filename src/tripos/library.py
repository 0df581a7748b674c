"""The library: a language model, an embedder or a reranker in this process, without a server or an event loop.

Any number of threads may call one of them at once: their calls share the model's steps, and each waits for its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from tripos.build.kinds import load_encoder
from tripos.build.language import load_model
from tripos.config import ModelOptions
from tripos.engine.llm import LanguageModel
from tripos.errors import ConfigError, EngineFailed, InvalidRequest, TriposError, shown
from tripos.models.text.tokenizer import Tokenizer
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

if TYPE_CHECKING:
    from tripos.predict.encoder import EncoderModel

M = TypeVar("M", LanguageModel, "EncoderModel")
Conversation = Sequence[Message | Mapping[str, Any]]
"""Messages, also as dicts: {"role": ..., "content": ...}."""
TokenIds = Sequence[int] | npt.NDArray[np.integer[Any]]
Prompt = str | TokenIds | Conversation
Text = str | TokenIds


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
    reasoning: str = ""  # of a chat, apart from the text


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
    """A language model in this process: no server, no event loop, every step as full as its callers make it.

    >>> with LLM("path/to/model") as llm:                                     # doctest: +SKIP
    ...     print(llm.generate("Once upon a time", max_tokens=32, temperature=0)[0].text)
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
        prompts: Prompt | Iterable[Prompt],
        sampling: Sampling | None = None,
        *,
        max_tokens: int | None = 128,
        n: int = 1,
        constraint: Constraint | None = None,
        adapter: str | Sequence[str] = "",
        **fields: Any,
    ) -> list[Completion]:
        """Continue a prompt, or each of several: text, token ids or chat messages. len(prompts) * n Completions,
        choices of a prompt side by side; of one prompt, n.

        `fields` are those of Sampling (temperature, top_p, seed, stop, logprobs ...), instead of `sampling`'s, which
        defaults to what the model's makers recommend. `constraint` is what each text must match. `adapter` names one of
        the adapters for all prompts, or one for each ("": the model as it is).

        Raises InvalidRequest before any work when a prompt is wrong, NotFound when an adapter's name is, TypeError for
        a field that Sampling has not, EngineFailed when the model is closed meanwhile.
        """
        _check_type("sampling", sampling, Sampling | None)
        _check_type("constraint", constraint, Constraint | None)
        _check_type("max_tokens", max_tokens, int | None)
        _check_type("n", n, int)
        sampling = _sampled(sampling or self.card.sampling, fields)
        listed = _listed(prompts)
        names = [adapter] * len(listed) if isinstance(adapter, str) else list(adapter)
        if len(names) != len(listed):
            raise ConfigError(f"{len(names)} adapters for {len(listed)} prompts: give one name, or one for each")
        asked = Generate(prompt="", max_tokens=max_tokens, n=n, sampling=sampling, constraint=constraint)
        requests = [
            msgspec.structs.replace(asked, prompt=_frozen(prompt), adapter=name)
            for prompt, name in zip(listed, names, strict=True)
        ]
        if any(map(_is_conversation, listed)):
            from tripos.dialects.lowering import lower  # with all dialects, which other prompts do without

            requests = [lower(request, self.card).request for request in requests]
        return self._answer(requests)

    def chat(
        self,
        messages: Conversation | Iterable[Conversation],
        sampling: Sampling | None = None,
        *,
        max_tokens: int | None = None,
        **options: Any,
    ) -> list[Completion]:
        """Answer a conversation, or each of several, through the model's chat template: a Completion each.

        Messages are dicts as OpenAI's clients send them, or types.Message. `options` and errors are generate's.
        """
        listed = _listed(messages)
        for each in listed:
            if not _is_conversation(each):
                raise InvalidRequest(
                    f"messages must be a list of messages, or a list of such lists; got {_typed(each)}: "
                    'write [{"role": "user", "content": "..."}], or call generate',
                    param="messages",
                )
        return self.generate(listed, sampling, max_tokens=max_tokens, **options)

    def score(self, prompts: Text | Iterable[Text]) -> list[list[float]]:
        """Natural-log probability of each token after the first, of a prompt or of each of several: a list each."""
        requests = [Generate(prompt=_frozen(prompt), max_tokens=0, prompt_logprobs=0) for prompt in _listed(prompts)]
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
            if isinstance(event, EngineFailed) and event.code == "draining":  # closed: nothing more comes
                raise event
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
            reasoning="".join(delta.reasoning for delta in deltas),
            usage=self._usage,
            error=self._error,
        )


@dataclass(frozen=True)
class Hit:
    """A document's place in the list that was given, and its score."""

    index: int
    score: float


class Embedder(_Opened["EncoderModel"]):
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
        inputs: Text | Iterable[Text],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> npt.NDArray[np.float32]:
        """One vector for each text, or for its token ids: [len(inputs), dimensions], in their order; of one, [1, ...].

        `prompt_name` is one of the model's prompts, put before each text (None: its default, "": none). `dimensions`
        keeps the first ones of each vector. `truncate` cuts longer texts, which are refused otherwise.

        Raises InvalidRequest before any work when an input is wrong.
        """
        _check_type("dimensions", dimensions, int | None)
        given = tuple(map(_text, _listed(inputs)))
        if not given:
            return np.zeros((0, dimensions or self.card.dimensions), np.float32)
        request = Embed(
            inputs=given, prompt_name=prompt_name, dimensions=dimensions, truncate_to=0 if truncate else None
        )
        return np.stack([np.frombuffer(vector, "<f4") for vector in self._answer(request).vectors]).astype(np.float32)

    def rerank(
        self, query: str, documents: str | Iterable[str], *, top_n: int | None = None, truncate: bool = False
    ) -> list[Hit]:
        """The documents that fit the query best, the best first: by a cross-encoder's score, or by the cosine of an
        embedder's vectors. At most `top_n` of them; `truncate` as embed's.

        Raises InvalidRequest before any work.
        """
        _check_type("top_n", top_n, int | None)
        given = (documents,) if isinstance(documents, str) else tuple(documents)
        for name, text in (("query", query), *((f"documents[{i}]", each) for i, each in enumerate(given))):
            _check_type(name, text, str)
            _check_encodable(text)
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


def _sampled(sampling: Sampling, fields: dict[str, Any]) -> Sampling:
    """`sampling` with these fields instead of its own. Raises TypeError as a call with wrong arguments does."""
    if not fields:
        return sampling
    for name in fields:
        if name not in Sampling.__struct_fields__:
            import difflib

            near = difflib.get_close_matches(name, Sampling.__struct_fields__, 1)
            hint = f"did you mean {near[0]}?" if near else f"Sampling has {', '.join(Sampling.__struct_fields__)}"
            raise TypeError(f"{name} is no argument, and Sampling has no such field: {hint}")
    given = msgspec.structs.asdict(sampling) | fields
    if isinstance(given["stop"], str):
        given["stop"] = (given["stop"],)
    try:
        return msgspec.convert(given, Sampling)
    except msgspec.ValidationError as problem:
        raise TypeError(f"a field of Sampling has the wrong type: {problem}") from None


def _listed(given: Any) -> list[Any]:
    """Several prompts, texts or conversations as they are, and one as a list of one."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        return [given]
    listed = given if isinstance(given, np.ndarray) else list(given)
    if isinstance(given, Mapping) or (len(listed) and (_is_token_id(listed[0]) or _is_message(listed[0]))):
        return [given if isinstance(given, Mapping) else listed]
    return list(listed)


def _check_type(name: str, value: object, kind: Any) -> None:
    """Raises TypeError as a call with wrong arguments does."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} must be {getattr(kind, '__name__', kind)}, not {_typed(value)}")


def _check_encodable(text: str) -> None:
    """Raises InvalidRequest."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"the text holds half of a surrogate pair at character {error.start}: decode it as UTF-8 first"
        raise InvalidRequest(message, code="invalid_encoding", param="prompt") from None


def _is_token_id(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_message(value: object) -> bool:
    return isinstance(value, Message | Mapping)


def _is_conversation(prompt: Any) -> bool:
    return isinstance(prompt, Sequence) and not isinstance(prompt, str) and all(map(_is_message, prompt))


def _text(given: Any) -> str | tuple[int, ...]:
    """Text, or token ids. Raises InvalidRequest."""
    if isinstance(given, str):
        _check_encodable(given)
        return given
    ids = tuple(given) if isinstance(given, Iterable) and not isinstance(given, Mapping | bytes) else (None,)
    if not all(map(_is_token_id, ids)):
        raise InvalidRequest(f"expected text or token ids, got {_typed(given)}", code="invalid_type", param="prompt")
    return tuple(map(int, ids))


def _frozen(prompt: Any) -> str | tuple[int, ...] | tuple[Message, ...]:
    if isinstance(prompt, str) or not _is_conversation(prompt) or not prompt:
        return _text(prompt)
    if all(isinstance(message, Message) for message in prompt):
        return tuple(prompt)
    from tripos.wire.openai.chat import read_messages  # 30 ms, and wanted only here

    if any(isinstance(message, Message) for message in prompt):
        raise InvalidRequest("messages are types.Message or dicts: not both in one conversation", param="messages")
    return read_messages(list(map(dict, prompt)))


def _typed(value: object) -> str:
    return f"{type(value).__name__} {shown(value)}"
