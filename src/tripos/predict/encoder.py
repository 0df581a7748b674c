"""EncoderModel: the Model at the end of an embed or rerank route. Calls in, one Result and a Finish out.

Owns what turns texts into windows of tokens (prompts, special tokens, pairs, truncation) and rows into vectors or
scores. Batching is batcher.py's. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any
from weakref import finalize

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from tripos.errors import EngineFailed, InvalidRequest, Overloaded, RequestFailed, TriposError
from tripos.models.text.side_thread import SideThread
from tripos.models.text.token_requests import TokenRequests
from tripos.models.text.tokenizer import NO_FRAME, Frame, Tokenizer
from tripos.predict.batcher import Batcher, BatcherOptions, Text, Window
from tripos.runtime.executor import Executor, SamplingInput, StepInput
from tripos.runtime.machine import Birthplace
from tripos.types import (
    Call,
    Embed,
    EngineStats,
    Event,
    Finish,
    Generate,
    ModelCard,
    ModelInfo,
    Rerank,
    Result,
    Unmetered,
    Usage,
)

F32 = npt.NDArray[np.float32]
INLINE_CHARS = 2048  # longer inputs are encoded off the event loop
MAX_ENCODING_CHARS = 32 * 2**20  # of calls that wait there; one alone is always let in
CHARS_PER_TOKEN = 64  # no text that has more on average is read to its end
ENDING = "the model was closed: open it again to go on"
QUERY_PROMPTS, DOCUMENT_PROMPTS = ("query", "search_query"), ("document", "passage", "search_document")


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How rows become answers."""

    max_length: int  # tokens of the longest input, special ones included
    row: str = "first"  # the token row that the plan selects of each sequence: first or last
    normalize: bool = True  # to unit length
    has_sigmoid: bool = True  # rerank: the score is the logit's sigmoid
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None  # numbers of a vector that are kept; their length stays what it is
    has_special_tokens: bool = True  # around each text
    num_token_types: int = 2  # that the model tells apart; fewer than 2: none is fed
    empty_row: int = 0  # numbers, all 0, of a text without any token; 0: such a text is refused


class EncoderModel:
    """Implements types.Model over an executor that is loaded with an encoder's plan (and keeps its output)."""

    def __init__(
        self,
        card: ModelCard,
        tokenizer: Tokenizer,
        executor: Executor,
        options: EncoderOptions,
        batching: BatcherOptions,
    ) -> None:
        self.card = replace(card, has_tokenizer=True)
        self.tokenizer = tokenizer
        self._token_requests = TokenRequests(tokenizer, card.vocab_size, self.encode)
        self.options = options
        self._executor = executor
        self._readers = _Readers()
        self._batcher = Batcher(partial(_run_step, executor, options), batching, self._readers.deliver)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._encoders: SideThread | None = None
        self._num_encoding_chars = 0
        self._birthplace = birthplace = Birthplace()
        finalize(self, _let_go, self._batcher, birthplace)  # its thread knows nothing of us

    @property
    def _frame(self) -> Frame:
        """What stands around one text."""
        return self.tokenizer.frame if self.options.has_special_tokens else NO_FRAME

    # -- life -----------------------------------------------------------------------------------------------
    async def start(self) -> None:
        if self._loop is not None:
            return
        self._loop = self._readers.loop = asyncio.get_running_loop()
        self._encoders = SideThread()
        self._batcher.start()

    async def stop(self) -> None:
        """End now: unfinished calls get EngineFailed. Idempotent."""
        encoders, self._encoders = self._encoders, None
        if encoders is not None:
            closing = SideThread(most_s=None)  # the other one may never be free again
            await closing.run(self._batcher.stop)
            await closing.stop()
            await encoders.stop()
            await asyncio.sleep(0)  # what was delivered last reaches its readers
            self._loop = self._readers.loop = None

    def close(self) -> None:
        """Free the weights, once stopped. Threads that wait in `answer` get EngineFailed. Idempotent."""
        if self._loop is not None:
            raise RequestFailed("the model is started: await stop() first")
        if self._birthplace.is_here:
            self._batcher.begin_close(_closed())
            self._batcher.stop()
            self._executor.close()

    async def info(self) -> ModelInfo:
        """Progress: started, and the step in progress not too long ago begun. Counts of the batcher."""
        stats = EngineStats(num_running=self._batcher.num_running, num_waiting=self._batcher.num_waiting)
        return ModelInfo(is_progressing=self._batcher.is_progressing, stats=stats)

    async def encode(self, request: Generate) -> list[int]:
        """Token ids of a text, for those who count them. Raises InvalidRequest for chats: there is no template."""
        if not isinstance(request.prompt, str):
            raise InvalidRequest(f"{self.card.name} has no chat template: send prompt", param="messages")
        return await asyncio.to_thread(self.tokenizer.encode, request.prompt)

    # -- calls ----------------------------------------------------------------------------------------------
    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        """Answer one call. Raises InvalidRequest, Overloaded, DeadlineExceeded, RequestFailed, EngineFailed."""
        if isinstance(call.request, Unmetered):
            yield await self._token_requests.answer(call.request)
            yield Finish(reason="stop")
            return
        request = self._check(call)
        loop, encoders = self._loop, self._encoders
        if loop is None or encoders is None:
            raise EngineFailed("the model is not started", retry_after_s=1.0)
        self._batcher.check_room()
        if num_chars(request) <= INLINE_CHARS and self.tokenizer.is_quick(num_chars(request)):
            texts = self._texts(request)
        else:
            with self._encoding(num_chars(request)):
                texts = await encoders.run(lambda: self._texts(request))
        window = Window(texts, call.priority, call.deadline_s, call.arrival_s or time.monotonic())
        ended = asyncio.Event()
        self._readers.waiting[window] = ended.set
        try:
            self._batcher.add(window)
            await ended.wait()
        finally:
            del self._readers.waiting[window]
            if not window.is_over:
                self._batcher.cancel(window)
        for event in self._events(request, window):
            yield event

    def answer(self, calls: Sequence[Call]) -> Iterator[tuple[int, Event | TriposError]]:
        """Answer many calls without an event loop: (index of the call, event or its error), each call as it is over.

        For offline use, from any number of threads at once: their calls share steps. Raises InvalidRequest for the
        first call that is wrong, before any work; EngineFailed when closed; EnvironmentProblem in a fork.
        """
        if self._loop is not None:
            raise RequestFailed("the model is started: use run()")
        self._birthplace.check()
        requests = [self._check(call) for call in calls]
        windows = [Window(self._texts(request)) for request in requests]
        news: SimpleQueue[int] = SimpleQueue()
        self._batcher.start()
        try:
            for i, window in enumerate(windows):
                self._readers.waiting[window] = partial(news.put, i)
                self._batcher.add(window, is_bounded=False)  # whoever calls waits
            for i in (news.get() for _ in windows):
                error = windows[i].error
                if error is not None:
                    yield i, error
                else:
                    yield from ((i, event) for event in self._events(requests[i], windows[i]))
        finally:
            for window in windows:
                self._readers.waiting.pop(window, None)
                if not window.is_over:
                    self._batcher.cancel(window)

    @contextmanager
    def _encoding(self, size: int) -> Iterator[None]:
        """A place among the calls whose texts wait for the tokenizer, before the batcher counts them.

        Raises Overloaded.
        """
        if self._num_encoding_chars and self._num_encoding_chars + size > MAX_ENCODING_CHARS:
            waiting = f"{self._num_encoding_chars} characters wait to be encoded, at most {MAX_ENCODING_CHARS} may"
            raise Overloaded(f"{waiting}: retry in a second", retry_after_s=1.0)
        self._num_encoding_chars += size
        try:
            yield
        finally:
            self._num_encoding_chars -= size

    def _check(self, call: Call) -> Embed | Rerank:
        """What can be refused without encoding."""
        request = call.request
        name, task = self.card.name, self.card.task
        if isinstance(request, Embed) and task == "embed":
            self._check_embed(request)
            return request
        if isinstance(request, Rerank):
            self._check_rerank(request)
            return request
        wanted = {Embed: "embed", Generate: "generate text"}.get(type(request), "do that")
        able = "embeds texts and reranks documents" if task == "embed" else "scores and reranks documents"
        raise InvalidRequest(f"{name} {able}, it cannot {wanted}: /v1/models lists what is served", param="model")

    def _check_embed(self, request: Embed) -> None:
        if not request.inputs:
            raise InvalidRequest("input is empty: send at least one text", code="out_of_range", param="input")
        width = self.card.dimensions
        if request.dimensions is not None and not 1 <= request.dimensions <= width:
            message = f"dimensions is {request.dimensions}, {self.card.name} has vectors of 1 to {width}"
            raise InvalidRequest(message, code="out_of_range", param="dimensions")
        if request.prompt_name and request.prompt_name not in self.options.prompts:
            known = ", ".join(self.options.prompts) or "none"
            message = f"{self.card.name} has no prompt of that name; it has {known}"
            raise InvalidRequest(message, code="invalid_value", param="prompt_name")
        for i, each in enumerate(request.inputs):
            if len(each) == 0:
                raise InvalidRequest(f"input[{i}] is empty", code="out_of_range", param=f"input[{i}]")
            if isinstance(each, tuple) and max(each) >= self.card.vocab_size:
                message = f"input[{i}]: token id {max(each)} is outside the vocabulary of {self.card.vocab_size}"
                raise InvalidRequest(message, code="out_of_range", param=f"input[{i}]")
        self._check_kept(request.truncate_to, self._frame.num_tokens)

    def _check_rerank(self, request: Rerank) -> None:
        if not request.documents:
            raise InvalidRequest("documents is empty: send at least one", code="out_of_range", param="documents")
        if not request.query:
            raise InvalidRequest("query is empty", code="out_of_range", param="query")
        if request.top_n is not None and request.top_n < 1:
            raise InvalidRequest(f"top_n is {request.top_n}; expected 1 or more", code="out_of_range", param="top_n")
        frame = self._frame if self.card.task == "embed" else self.tokenizer.pair_frame
        self._check_kept(request.truncate_to, frame.num_tokens)

    def _check_kept(self, kept: int | None, num_special: int) -> None:
        longest = self.options.max_length
        if kept and not num_special < kept <= longest:
            message = (
                f"{kept} tokens are to be kept of an input, {num_special} special ones included; at most {longest}"
            )
            raise InvalidRequest(message, code="out_of_range", param="truncate_prompt_tokens")

    # -- texts to tokens ------------------------------------------------------------------------------------
    def _texts(self, request: Embed | Rerank) -> list[Text]:
        if isinstance(request, Embed):
            return self._texts_to_embed(request.inputs, request.prompt_name, request.truncate_to, "input[{}]".format)
        if self.card.task == "embed":
            return self._query_and_documents(request)
        return self._pairs(request)

    def _texts_to_embed(
        self,
        inputs: Sequence[str | tuple[int, ...]],
        prompt_name: str | None,
        truncate_to: int | None,
        where: Callable[[int], str],
    ) -> list[Text]:
        chosen = self.options.default_prompt if prompt_name is None else prompt_name
        prompt = self.options.prompts.get(chosen or "", "")
        strings = [
            self._cased(self._bounded(prompt + each, truncate_to, where(i)))
            for i, each in enumerate(inputs)
            if isinstance(each, str)
        ]
        encoded = iter(self.tokenizer.encode_all(strings))
        frame = self._frame
        texts = []
        for i, each in enumerate(inputs):
            # Token ids come as the client wants them, special ones included; only texts are framed.
            framed = list(each) if isinstance(each, tuple) else frame.around(next(encoded))[0]
            if not framed and not self.options.empty_row:
                message = f"{where(i)} holds no token for {self.card.name}: send text"
                raise InvalidRequest(message, code="invalid_value", param=where(i))
            limit = self._limit(len(framed), truncate_to, where(i))
            if len(framed) > limit:
                kept = limit - len(frame.runs[1])
                framed = framed[:limit] if isinstance(each, tuple) else [*framed[:kept], *frame.runs[1]]
            texts.append(Text(framed))
        return texts

    def _query_and_documents(self, request: Rerank) -> list[Text]:
        def prompt(names: tuple[str, ...]) -> str | None:
            return next((name for name in names if name in self.options.prompts), None)

        kept = request.truncate_to
        query = self._texts_to_embed([request.query], prompt(QUERY_PROMPTS), kept, lambda i: "query")
        documents = self._texts_to_embed(request.documents, prompt(DOCUMENT_PROMPTS), kept, "documents[{}]".format)
        return query + documents

    def _pairs(self, request: Rerank) -> list[Text]:
        kept = request.truncate_to
        prompt = self.options.prompts.get(self.options.default_prompt or "", "")
        strings = [self._bounded(prompt + request.query, kept, "query")]
        strings += [self._bounded(each, kept, f"documents[{i}]") for i, each in enumerate(request.documents)]
        query, *documents = self.tokenizer.encode_all(list(map(self._cased, strings)))
        frame = self.tokenizer.pair_frame
        texts = []
        for i, document in enumerate(documents):
            num_tokens = len(query) + len(document) + frame.num_tokens
            limit = self._limit(num_tokens, kept, f"documents[{i}] with the query") - frame.num_tokens
            first, second = _longest_first(query, document, limit)
            ids, types = frame.around(first, second)
            texts.append(Text(ids, types if self.options.num_token_types > 1 else ()))
        return texts

    def _cased(self, text: str) -> str:
        return text.lower() if self.options.lower_case else text

    def _bounded(self, text: str, truncate_to: int | None, where: str) -> str:
        """The text, cut where it must be far too long. Raises InvalidRequest when it must stay whole."""
        most = CHARS_PER_TOKEN * self.options.max_length
        if truncate_to is None and len(text) > most:
            longest = self.options.max_length
            message = f"{where} has {len(text)} characters, far more than the {longest} tokens of {self.card.name}"
            raise InvalidRequest(message, code="context_length_exceeded", param=where)
        return text[:most]

    def _limit(self, num_tokens: int, truncate_to: int | None, where: str) -> int:
        """How many tokens of an input are kept. Raises InvalidRequest when it is too long and must stay whole."""
        longest = self.options.max_length
        if truncate_to is None and num_tokens > longest:
            message = (
                f"{where} has {num_tokens} tokens, {self.card.name} takes {longest}: send less, or have it cut "
                "(truncate_prompt_tokens or truncate)"
            )
            raise InvalidRequest(message, code="context_length_exceeded", param=where.partition(" ")[0])
        return min(truncate_to or longest, longest)

    # -- rows to answers ------------------------------------------------------------------------------------
    def _events(self, request: Embed | Rerank, window: Window) -> list[Event]:
        if window.error is not None:
            raise window.error
        rows = np.stack(window.rows)
        result = (
            Result(vectors=tuple(row.astype("<f4").tobytes() for row in self._vectors(rows, request.dimensions)))
            if isinstance(request, Embed)
            else Result(scores=tuple(self._scores(rows)))
        )
        started_s = window.arrival_s if window.started_s is None else window.started_s
        usage = Usage(
            prompt_tokens=window.num_tokens,
            queue_s=max(0.0, started_s - window.arrival_s),
            prefill_s=window.run_s,
        )
        return [result, Finish(reason="stop", usage=usage)]

    def _vectors(self, rows: F32, dimensions: int | None) -> F32:
        """Matryoshka (Kusupati et al. 2022): the first dimensions of a vector are a vector, once normalised again."""
        rows = self._kept(rows)
        if dimensions is not None:
            rows = rows[:, :dimensions]
        return unit(rows) if dimensions is not None else rows

    def _kept(self, rows: F32) -> F32:
        """As the model's own modules leave them: normalised, and then cut."""
        return (unit(rows) if self.options.normalize else rows)[:, : self.options.truncate_dim]

    def _scores(self, rows: F32) -> list[float]:
        """Of each document: a cross-encoder's own, or the cosine of its vector with the query's."""
        if self.card.task == "embed":
            query, *documents = unit(self._kept(rows))
            return [float((query * document).sum()) for document in documents]
        logits = rows[:, 0].astype(np.float64)
        return [float(score) for score in (1.0 / (1.0 + np.exp(-logits)) if self.options.has_sigmoid else logits)]


class _Readers:
    """Who waits for which window, and how they are told: tasks of the event loop while there is one, threads else."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waiting: dict[Window, Callable[[], None]] = {}

    def deliver(self, windows: list[Window]) -> None:
        """From the batcher's thread: one wake-up of the event loop per step."""
        if self.loop is None:
            self._tell(windows)
        elif windows and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._tell, windows)

    def _tell(self, windows: list[Window]) -> None:
        for window in windows:
            if (tell := self.waiting.get(window)) is not None:
                tell()


def _let_go(batcher: Batcher, birthplace: Birthplace) -> None:
    if birthplace.is_here:
        batcher.begin_close(_closed())


def _closed() -> EngineFailed:
    return EngineFailed(ENDING, code="draining", retry_after_s=1.0)


def _run_step(executor: Executor, options: EncoderOptions, texts: Sequence[Text]) -> tuple[F32, npt.NDArray[np.bool_]]:
    given = [i for i, text in enumerate(texts) if text.token_ids]
    rows = np.zeros((len(texts), options.empty_row), np.float32)  # of texts of which nothing is left
    are_finite = np.ones(len(texts), np.bool_)
    if not given:
        return rows, are_finite
    out = executor.run(pack([texts[i] for i in given], options.row))
    if out.logits is None:
        raise RequestFailed("the executor kept no output: this is a bug in Tripos")
    if len(given) == len(texts):
        return out.logits, out.ok.astype(np.bool_)
    rows[given], are_finite[given] = out.logits, out.ok
    return rows, are_finite


def pack(texts: Sequence[Text], row: str) -> StepInput:
    """One step of whole sequences, a row each."""
    lengths = np.array([len(text.token_ids) for text in texts], np.int32)
    ends = np.cumsum(lengths, dtype=np.int32)
    starts = ends - lengths
    num_tokens, num_texts = int(ends[-1]), len(texts)
    types: list[int] = []
    if any(text.token_types for text in texts):
        types = [kind for text in texts for kind in text.token_types or [0] * len(text.token_ids)]
    return StepInput(
        token_ids=np.fromiter((id for text in texts for id in text.token_ids), np.int32, num_tokens),
        positions=(np.arange(num_tokens, dtype=np.int32) - np.repeat(starts, lengths)).astype(np.int32),
        query_start=np.concatenate([[0], ends]).astype(np.int32),
        seq_lens=lengths,
        block_tables=np.zeros((num_texts, 0), np.int32),
        slots=np.zeros(num_tokens, np.int32),
        last_rows=starts if row == "first" else ends - 1,
        sampling=SamplingInput.greedy(num_texts),
        token_types=np.array(types, np.int32),
    )


def unit(rows: F32) -> F32:
    """Each row at length 1; a row of zeros stays one."""
    length = np.sqrt((rows * rows).sum(-1, keepdims=True, dtype=np.float32))
    return np.asarray(rows / np.maximum(length, np.float32(1e-12)), np.float32)


def num_chars(request: Embed | Rerank) -> int:
    """Characters of text, and token ids."""
    texts: Sequence[Any] = request.inputs if isinstance(request, Embed) else (request.query, *request.documents)
    return sum(map(len, texts))


def _longest_first(first: list[int], second: list[int], limit: int) -> tuple[list[int], list[int]]:
    """Both cut to `limit` tokens together, the longer one first, as tokenizers' "longest_first" does."""
    if len(first) + len(second) <= limit:
        return first, second
    short = min(len(first), len(second))
    long = max(short, limit - short)
    if short + long > limit:
        short, long = limit // 2, limit - limit // 2
    return (first[:short], second[:long]) if len(first) <= len(second) else (first[:long], second[:short])
