"""The thread that steps an engine while there is work, and the inbox through which others add and abort sequences.

Owns the thread and its inbox. The Outputs of a step are delivered from that thread; their readers are not known here.
Tested in tests/unit/engine/test_llm.py.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from tripos.engine.engine import Engine, Output
from tripos.engine.sequence import Sequence, Status
from tripos.errors import EngineFailed, TriposError

log = logging.getLogger(__name__)

STUCK_AFTER_S = 30.0
IDLE_CHECK_S = 0.5  # after so long without work the block pool checks its integrity

Command = Callable[[Engine, Sequence], None]


class EngineLoop:
    """The daemon thread that steps an Engine while there is work. All methods may be called from any thread."""

    def __init__(
        self, engine: Engine, deliver: Callable[[list[Output]], None], *, ending: str = "the model was stopped"
    ) -> None:
        """`ending`: the error message of sequences that `stop` leaves unfinished."""
        self.engine = engine
        self._deliver = deliver
        self._ending = ending
        self._inbox: deque[tuple[Command, Sequence]] = deque()
        # The lock is entered directly: an interrupt inside Condition.__enter__ could leave it held.
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._is_stopping = False
        self._is_busy = False
        self._heartbeat_s = engine.clock()
        self._thread = threading.Thread(target=self._loop, name="tripos-engine", daemon=True)

    def start(self) -> None:
        """Start the thread. Idempotent; without effect once stopped."""
        if self._thread.ident is None:
            with self._lock:
                if self._thread.ident is None and not self._is_stopping:
                    self._thread.start()

    def stop(self) -> None:
        """End after the current step; unfinished sequences get EngineFailed. Idempotent; waits for the thread."""
        self.begin_stop()
        if self._thread.is_alive():
            self._thread.join()

    def begin_stop(self) -> None:
        """As `stop`, without waiting."""
        with self._lock:
            self._is_stopping = True
            self._wake.notify()

    def add(self, sequence: Sequence) -> None:
        """Raises EngineFailed once it ends."""
        with self._lock:
            if self._is_stopping:
                raise self.engine.failure or self._end_error()
            self._inbox.append((Engine.add, sequence))
            self._wake.notify()

    def abort(self, sequence: Sequence) -> None:
        self._post(Engine.abort, sequence)

    def hold(self, sequence: Sequence) -> None:
        self._post(Engine.hold, sequence)

    def resume(self, sequence: Sequence) -> None:
        self._post(Engine.resume, sequence)

    @property
    def is_idle(self) -> bool:
        with self._lock:
            return not self._inbox and not self._is_busy

    def is_progressing(self) -> bool:
        """False when the engine failed, the thread died, or a step has taken longer than STUCK_AFTER_S."""
        if self.engine.failure is not None or not self._thread.is_alive():
            return False
        return self.is_idle or self.engine.clock() - self._heartbeat_s < STUCK_AFTER_S

    def _post(self, command: Command, sequence: Sequence) -> None:
        with self._lock:
            if not self._is_stopping:  # a loop that stops ends every sequence
                self._inbox.append((command, sequence))
                self._wake.notify()

    def _end_error(self) -> EngineFailed:
        return EngineFailed(self._ending, code="draining", retry_after_s=5.0)

    def _loop(self) -> None:
        ending = self._end_error()
        outputs: list[Output] = []
        try:
            while (commands := self._next_commands()) is not None:
                outputs = self._apply(commands)
                outputs += self.engine.step()
                if outputs:
                    self._deliver(outputs)
                outputs = []
        except BaseException:  # panics of libraries too: no other code would end the streams
            log.exception("the engine's loop failed: this is a bug in Tripos")
            ending = EngineFailed("the engine failed and is restarting", retry_after_s=5.0)
            self.engine.failure = ending
        with self._lock:
            self._is_stopping = True
            commands = tuple(self._inbox)
            self._inbox.clear()
            self._is_busy = False
        self._deliver(outputs + self._apply(commands) + self.engine.end_all(ending))

    def _next_commands(self) -> tuple[tuple[Command, Sequence], ...] | None:
        """The commands since the last step; waits while there is no work. None: stop."""
        with self._lock:
            self._is_busy = self.engine.has_work
            is_checked = self._is_busy
            while not (self._inbox or self._is_busy or self._is_stopping):
                if not self._wake.wait(timeout=None if is_checked else IDLE_CHECK_S) and not is_checked:
                    self.engine.pool.check_integrity()
                    is_checked = True
            if self._is_stopping:
                return None
            commands = tuple(self._inbox)
            self._inbox.clear()
            self._is_busy = True
            self._heartbeat_s = self.engine.clock()
            return commands

    def _apply(self, commands: Iterable[tuple[Command, Sequence]]) -> list[Output]:
        outputs = []
        for command, sequence in commands:
            try:
                command(self.engine, sequence)
            except TriposError as error:  # from Engine.add, which refuses the sequence
                for each in (sequence, *sequence.siblings):
                    each.status = Status.FINISHED
                    outputs.append(Output(each, [], [], error=error))
                if sequence.ticket is not None:
                    sequence.ticket.release()
        return outputs
