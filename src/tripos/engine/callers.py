"""Threads and tasks that call one engine of the library: each waits for its own answers, and their calls share steps.

Owns which caller a sequence belongs to. The engine's thread hands Outputs over; the callers' threads make text of them.
Tested in tests/unit/engine/test_llm.py.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from collections.abc import Sequence as Many
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING
from weakref import finalize

from tripos.engine.engine import Engine, Output
from tripos.engine.loop import EngineLoop
from tripos.engine.sequence import Sequence
from tripos.engine.stream import Stream
from tripos.errors import TriposError
from tripos.runtime.machine import Birthplace
from tripos.types import Event

if TYPE_CHECKING:
    import asyncio

ENDING = "the model was closed: open it again to go on"
News = SimpleQueue[tuple[int, list[Output]]]


class _LoopNews:
    """News for a task of an event loop, put by the engine's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[tuple[int, list[Output]]]) -> None:
        self._loop, self._queue = loop, queue

    def put(self, item: tuple[int, list[Output]]) -> None:
        with suppress(RuntimeError):  # the loop was closed with the stream open: nobody reads it any more
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)


@dataclass(eq=False, slots=True)
class _Mail:
    """The Outputs of one stream that its caller has not got yet. `is_urgent`: they are handed over after each step,
    since the caller streams them or a stop string may end the stream; else once it is over."""

    news: News | _LoopNews
    place: int  # index of the stream among its caller's
    is_urgent: bool
    num_open: int  # sequences that have not ended
    outputs: list[Output] = field(default_factory=list)

    def add(self, output: Output) -> None:
        self.outputs.append(output)
        self.num_open -= output.is_last
        if self.is_urgent or not self.num_open or output.error is not None:
            self.news.put((self.place, self.outputs))
            self.outputs = []


class Callers:
    """Serves any number of threads. The engine's thread starts with the first call and ends with `close`, or when this
    object is collected.
    """

    def __init__(self, engine: Engine) -> None:
        self._mail: dict[Sequence, _Mail] = {}
        self._loop = EngineLoop(engine, partial(_deliver, self._mail), ending=ENDING)
        # The most sequences of one caller in the engine: another caller's are served soon, however many prompts it has.
        self._most_begun = 2 * engine.options.scheduler.max_num_seqs
        self._birthplace = birthplace = Birthplace()
        finalize(self, _let_go, self._loop, birthplace)

    def answer(self, streams: Many[Stream]) -> Iterator[tuple[int, Event | TriposError]]:
        """(index of the stream, event) of each stream as it ends. Closing the iterator aborts unfinished streams.

        Raises EngineFailed when closed.
        """
        news: News = SimpleQueue()
        num_begun = num_over = 0
        try:
            while num_over < len(streams):
                while num_begun < len(streams) and num_begun - num_over < self._most_begun:
                    num_begun += 1
                    self._begin(streams[num_begun - 1], num_begun - 1, news)
                place, outputs = news.get()
                stream = streams[place]
                if stream.is_complete:
                    continue  # a stop string ended the stream before the engine was told to abort it
                if self._push(stream, outputs):
                    num_over += 1
                    self._forget(stream)
                    yield from ((place, event) for event in stream.events_now())
        finally:
            for stream in streams[:num_begun]:
                if not stream.is_complete:
                    self._forget(stream)

    def stream(self, stream: Stream) -> Generator[Event, None, None]:
        """The stream's events as they come. Closing the generator aborts the stream. Raises the stream's error."""
        news: News = SimpleQueue()
        try:
            self._begin(stream, 0, news, is_streamed=True)
            while not stream.is_complete:
                self._push(stream, news.get()[1])
                yield from _raising(stream.events_now())
        finally:
            self._forget(stream)

    async def stream_async(self, stream: Stream) -> AsyncGenerator[Event, None]:
        """As `stream`, for a task: its event loop goes on while it waits."""
        import asyncio

        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[int, list[Output]]]()
        try:
            self._begin(stream, 0, _LoopNews(loop, queue), is_streamed=True)
            while not stream.is_complete:
                self._take(stream, (await queue.get())[1])
                if stream.is_unchecked:
                    await asyncio.to_thread(stream.verify)
                for event in _raising(stream.events_now()):
                    yield event
        finally:
            self._forget(stream)

    def close(self) -> None:
        """Stop now: waiting callers get EngineFailed. Idempotent."""
        self._loop.stop()

    def _begin(self, stream: Stream, place: int, news: News | _LoopNews, *, is_streamed: bool = False) -> None:
        mail = _Mail(news, place, is_streamed or stream.has_stops, len(stream.sequences))
        for sequence in stream.sequences:
            self._mail[sequence] = mail
        self._loop.start()
        self._loop.add(stream.sequences[0])

    def _push(self, stream: Stream, outputs: list[Output]) -> bool:
        """Hand Outputs to their stream; returns whether the stream is over."""
        self._take(stream, outputs)
        if stream.is_unchecked:
            stream.verify()
        return stream.is_complete

    def _take(self, stream: Stream, outputs: list[Output]) -> None:
        for output in outputs:
            for sequence in stream.push(output):
                self._abort(sequence)

    def _forget(self, stream: Stream) -> None:
        for sequence in stream.sequences:
            self._mail.pop(sequence, None)
            self._abort(sequence)

    def _abort(self, sequence: Sequence) -> None:
        if not sequence.is_finished:
            self._loop.abort(sequence)


def _raising(events: Iterable[Event | TriposError]) -> Iterator[Event]:
    for event in events:
        if isinstance(event, TriposError):
            raise event
        yield event


def _deliver(mail: dict[Sequence, _Mail], outputs: list[Output]) -> None:
    for output in outputs:
        found = mail.get(output.sequence)
        if found is not None:  # None: its caller is gone
            found.add(output)


def _let_go(loop: EngineLoop, birthplace: Birthplace) -> None:
    if birthplace.is_here:
        loop.begin_stop()
