"""EncoderModel: the Model at the end of an embed or rerank route. Calls in, one Result and a Finish out.

Owns the life of the model and who waits for which answer. Texts become tokens in inputs.py, steps run in batcher.py,
rows become answers in outputs.py. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from weakref import finalize

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from tripos.errors import EngineFailed, InvalidRequest, RequestFailed, TriposError
from tripos.models.text.side_thread import SideThread
from tripos.models.text.token_requests import TokenRequests, WaitingText
from tripos.models.text.tokenizer import Tokenizer
from tripos.predict.batcher import Batcher, BatcherOptions, PendingCall
from tripos.predict.inputs import EncoderInputs, num_chars
from tripos.predict.outputs import EncoderOptions, EncoderOutputs, run_step
from tripos.runtime.executor import Executor
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
    Unmetered,
    Usage,
)

F32 = npt.NDArray[np.float32]
INLINE_CHARS = 2048  # longer inputs are encoded off the event loop
ENDING = "the model was closed: open it again to go on"


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
        self._waiting = WaitingText()
        self._token_requests = TokenRequests(tokenizer, card.vocab_size, self.encode, self._waiting)
        self.options = options
        self._inputs = EncoderInputs(card, tokenizer, options)
        self._outputs = EncoderOutputs(card.task, options)
        self._executor = executor
        self._readers = _Readers()
        self._batcher = Batcher(partial(run_step, executor, options), batching, self._readers.deliver)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._encoders: SideThread | None = None
        self._birthplace = birthplace = Birthplace()
        finalize(self, _let_go, self._batcher, birthplace)  # the batcher's thread holds no reference to the model

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
            await asyncio.sleep(0)  # the last deliveries reach their readers
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
        """`is_progressing`: started, and the step in progress began not too long ago. The counts are the batcher's."""
        stats = EngineStats(num_running=self._batcher.num_running, num_waiting=self._batcher.num_waiting)
        return ModelInfo(is_progressing=self._batcher.is_progressing, stats=stats)

    async def encode(self, request: Generate) -> list[int]:
        """Token ids of a text. Raises InvalidRequest for chats: an encoder has no template."""
        if not isinstance(request.prompt, str):
            raise InvalidRequest(
                f"{self.card.name} has no chat template: send prompt instead of messages", param="messages"
            )
        return await asyncio.to_thread(self.tokenizer.encode, request.prompt)

    # -- calls ----------------------------------------------------------------------------------------------
    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        """Answer one call. Raises InvalidRequest, Overloaded, DeadlineExceeded, RequestFailed, EngineFailed."""
        if isinstance(call.request, Unmetered):
            yield await self._token_requests.answer(call.request)
            yield Finish(reason="stop")
            return
        request = self._inputs.check(call)
        loop, encoders = self._loop, self._encoders
        if loop is None or encoders is None:
            raise EngineFailed("the model is not started", retry_after_s=1.0)
        self._batcher.check_capacity()
        if num_chars(request) <= INLINE_CHARS and self.tokenizer.is_quick(num_chars(request)):
            texts = self._inputs.texts(request)
        else:
            with self._waiting.hold(num_chars(request)):
                texts = await encoders.run(lambda: self._inputs.texts(request))
        pending = PendingCall(texts, call.priority, call.deadline_s, call.arrival_s or time.monotonic())
        ended = asyncio.Event()
        self._readers.waiting[pending] = ended.set
        try:
            self._batcher.add(pending)
            await ended.wait()
        finally:
            del self._readers.waiting[pending]
            if not pending.is_over:
                self._batcher.cancel(pending)
        for event in self._events(request, pending):
            yield event

    def answer(self, calls: Sequence[Call]) -> Iterator[tuple[int, Event | TriposError]]:
        """Answer many calls without an event loop: (index of the call, event or its error), each call as it is over.

        For offline use, from any number of threads at once: their calls share steps. Raises InvalidRequest for the
        first call that is wrong, before any work; EngineFailed when closed; EnvironmentProblem in a fork.
        """
        if self._loop is not None:
            raise RequestFailed("the model is started: use run()")
        self._birthplace.check()
        requests = [self._inputs.check(call) for call in calls]
        pending_calls = [PendingCall(self._inputs.texts(request)) for request in requests]
        news: SimpleQueue[int] = SimpleQueue()
        self._batcher.start()
        try:
            for i, pending in enumerate(pending_calls):
                self._readers.waiting[pending] = partial(news.put, i)
                self._batcher.add(pending, is_bounded=False)  # unbounded: the callers of `answer` wait
            for i in (news.get() for _ in pending_calls):
                error = pending_calls[i].error
                if error is not None:
                    yield i, error
                else:
                    yield from ((i, event) for event in self._events(requests[i], pending_calls[i]))
        finally:
            for pending in pending_calls:
                self._readers.waiting.pop(pending, None)
                if not pending.is_over:
                    self._batcher.cancel(pending)

    # -- rows to answers ------------------------------------------------------------------------------------
    def _events(self, request: Embed | Rerank, pending: PendingCall) -> list[Event]:
        if pending.error is not None:
            raise pending.error
        rows = np.stack(pending.rows)
        result = self._outputs.result(request, rows)
        started_s = pending.arrival_s if pending.started_s is None else pending.started_s
        usage = Usage(
            prompt_tokens=pending.num_tokens,
            queue_s=max(0.0, started_s - pending.arrival_s),
            prefill_s=pending.run_s,
        )
        return [result, Finish(reason="stop", usage=usage)]


class _Readers:
    """Who waits for which call, and how each is woken: a task of the event loop while there is one, else a thread."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.waiting: dict[PendingCall, Callable[[], None]] = {}

    def deliver(self, pending_calls: list[PendingCall]) -> None:
        """From the batcher's thread: one wake-up of the event loop per step."""
        if self.loop is None:
            self._tell(pending_calls)
        elif pending_calls and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._tell, pending_calls)

    def _tell(self, pending_calls: list[PendingCall]) -> None:
        for pending in pending_calls:
            if (tell := self.waiting.get(pending)) is not None:
                tell()


def _let_go(batcher: Batcher, birthplace: Birthplace) -> None:
    if birthplace.is_here:
        batcher.begin_close(_closed())


def _closed() -> EngineFailed:
    return EngineFailed(ENDING, code="draining", retry_after_s=1.0)
