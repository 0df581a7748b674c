"""Hands the Outputs of an engine to the streams of one event loop, and holds sequences whose output nobody reads.

Owns the engine's thread while the model is started, and which streams are unfinished. Knows nothing of requests.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tripos.engine.engine import Engine, Output
from tripos.engine.loop import EngineLoop
from tripos.engine.sequence import Sequence
from tripos.engine.stream import Stream
from tripos.errors import RequestFailed, RequestTimeout

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger(__name__)

READER_STALL_S = 30.0  # without reading while it is held; then its request is ended


class Readers:
    """The streams that tasks of an event loop read. All methods are called on that loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop: asyncio.AbstractEventLoop | None = None
        self.engine_loop: EngineLoop | None = None  # while started
        self.streams: dict[Sequence, Stream] = {}
        self.held: dict[Stream, asyncio.TimerHandle] = {}  # nobody reads them; the timer ends them

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.engine_loop = EngineLoop(self._engine, self._deliver)
        self.engine_loop.start()

    def detach(self) -> EngineLoop | None:
        """Give the engine's thread to the caller, who stops it. None: not started."""
        engine_loop, self.engine_loop = self.engine_loop, None
        return engine_loop

    def add(self, stream: Stream, engine_loop: EngineLoop) -> None:
        """Begin a stream. Raises EngineFailed once the engine's thread ends."""
        for sequence in stream.sequences:
            self.streams[sequence] = stream
        engine_loop.add(stream.sequences[0])

    def remove(self, stream: Stream) -> None:
        """Forget a stream; its unfinished sequences are aborted."""
        self.resume(stream)
        for sequence in stream.sequences:
            self.streams.pop(sequence, None)
        self._abort(stream.sequences)

    def resume(self, stream: Stream) -> None:
        """Let the sequences of a stream that is held go on."""
        if stream not in self.held:
            return
        self.held.pop(stream).cancel()
        if self.engine_loop is not None:
            for sequence in stream.sequences:
                self.engine_loop.resume(sequence)

    def _deliver(self, outputs: list[Output]) -> None:
        """From the engine's thread: one wake-up of the event loop per step."""
        try:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._receive, outputs)
        except RuntimeError:  # the loop was closed without stop(): nobody reads any more
            for output in outputs:
                self._engine.abort(output.sequence)

    def _receive(self, outputs: list[Output]) -> None:
        for output in outputs:
            stream = self.streams.get(output.sequence)
            if stream is None:
                continue
            if stream.is_full:  # and was not read since the last step
                self._hold(stream, output.sequence)
            try:
                self._abort(stream.push(output))
            except Exception:
                log.exception("a token could not be turned into text: this is a bug in Tripos")
                stream.end(RequestFailed("the answer could not be turned into text"))
                self._abort(stream.sequences)
            stream.wake()

    def _hold(self, stream: Stream, sequence: Sequence) -> None:
        """Give the place of a sequence to others until its stream is read."""
        if self._loop is None or self.engine_loop is None:
            return
        if stream not in self.held:
            self.held[stream] = self._loop.call_later(READER_STALL_S, self._end, stream)
        self.engine_loop.hold(sequence)

    def _end(self, stream: Stream) -> None:
        stream.end(RequestTimeout(f"the answer was not read for {READER_STALL_S:.0f} s"))
        stream.wake()
        self._abort(stream.sequences)

    def _abort(self, sequences: list[Sequence]) -> None:
        if self.engine_loop is not None:
            for sequence in sequences:
                if not sequence.is_finished:
                    self.engine_loop.abort(sequence)
