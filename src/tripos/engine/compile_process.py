"""A process of its own in which grammars are tried before this one uses them: it may hang, swell or die.

Owns that process and the pipe to it, and starts another when it has gone. Frames are MessagePack behind their length in
4 bytes; the first one holds the vocabulary.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import IO, Any

import msgspec

from tripos.engine.gate import Admitted, admit, try_out
from tripos.engine.grammar import Vocabulary
from tripos.errors import EngineFailed, InvalidRequest
from tripos.types import Constraint

MAX_CPU_S = 2.0  # for one grammar
MAX_WALL_S = 5.0
MAX_GROWTH_BYTES = 256 << 20  # of address space, above what the empty process takes
MAX_START_S = 60.0
MAX_FRAME_BYTES = 512 << 20
_STACK_BYTES = 4 << 20  # half of what this process's threads have: what passes there passes here
_RENEW_BYTES = 64 << 20  # left behind by earlier grammars: then a new process takes over


class Tokens(msgspec.Struct):
    """The vocabulary, for the other process."""

    tokens: list[bytes]
    special_ids: list[int]
    eos_ids: list[int]


class Verdict(msgspec.Struct):
    """What became of a constraint: admitted, with the memory that its grammar took, or the reason why not."""

    admitted: Admitted | None = None
    num_bytes: int = 0
    code: str = ""
    message: str = ""
    is_last: bool = False  # the process ends after this answer


class CompileProcess:
    """Tries constraints, one at a time; any thread may ask. Started by the first one."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: weakref.finalize[Any, CompileProcess] | None = None  # for an owner that never calls close

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def check(self, constraint: Constraint) -> Verdict:
        """Raises InvalidRequest as gate.admit, and grammar_too_complex when the process died of it."""
        with self._lock:
            verdict = self._ask(constraint)
        if verdict.admitted is None:
            raise InvalidRequest(verdict.message, code=verdict.code)
        return verdict

    def close(self) -> None:
        """End the process. Idempotent; the next `check` starts another."""
        with self._lock:
            self._kill()

    def _ask(self, constraint: Constraint) -> Verdict:
        for is_last_try in (False, True):
            if self._process is None:
                self._start()
            try:
                self._send(constraint)
                verdict = msgspec.msgpack.decode(self._receive(MAX_WALL_S), type=Verdict)
            except TimeoutError:
                self._kill()
                break
            except (OSError, EOFError):  # it is gone: of this grammar, unless somebody killed it
                if self._end() == -signal.SIGKILL and not is_last_try:
                    continue
                break
            if verdict.is_last:
                self._kill()
            return verdict
        return Verdict(
            code="grammar_too_complex",
            message=f"the grammar is too complex: compiling it takes more than {MAX_CPU_S:.0f} s or "
            f"{MAX_GROWTH_BYTES >> 20} MiB, which ended the attempt: make it smaller",
        )

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tripos.engine.compile_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)},  # and nothing that is the server's
            bufsize=0,
        )
        self._reaper = weakref.finalize(self, _reap, self._process)
        try:
            self._send(self._tokens)
            self._receive(MAX_START_S)
        except (OSError, EOFError):
            self._kill()
            message = "the process that compiles grammars does not start: retry"
            raise EngineFailed(message, retry_after_s=5.0) from None

    def _send(self, value: Any) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        _write_frame(process.stdin, msgspec.msgpack.encode(value))

    def _receive(self, seconds: float) -> bytes:
        """The next frame. Raises EOFError when the process is gone, TimeoutError when it does not answer in time."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        end_s = time.monotonic() + seconds
        data, wanted = b"", 4
        while len(data) < wanted:
            if not select.select([process.stdout], [], [], max(0.0, end_s - time.monotonic()))[0]:
                raise TimeoutError
            piece = os.read(process.stdout.fileno(), wanted - len(data))
            if not piece:
                raise EOFError
            data += piece
            if len(data) == 4:
                wanted = 4 + int.from_bytes(data, "little")
        return data[4:]

    def _end(self) -> int | None:
        """Let go of a process that closed its pipe; returns what it died of."""
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process is not None:
                process.wait(timeout=1.0)
        status = None if process is None else process.returncode
        self._kill()
        return status

    def _kill(self) -> None:
        self._process = None
        if self._reaper is not None:
            self._reaper()


def _reap(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _write_frame(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(len(data).to_bytes(4, "little") + data)
    while view:
        view = view[pipe.write(view) :]


def _read_frame(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "little")
    data = pipe.read(size) if size <= MAX_FRAME_BYTES else b""
    return data if len(data) == size else None


# -- the other side ---------------------------------------------------------------------------------------------------
def main() -> None:
    """Answer until the pipe closes. Limits that are hit end the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal it is meant for the server
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # nothing else may write into the answers
    first = _read_frame(requests)
    if first is None:
        return
    tokens = msgspec.msgpack.decode(first, type=Tokens)
    vocabulary = Vocabulary(tokens.tokens, tokens.special_ids, tokens.eos_ids)
    threading.stack_size(_STACK_BYTES)
    start_bytes = _memory_bytes("VmRSS")
    limit = _memory_bytes("VmSize") + MAX_GROWTH_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    _write_frame(answers, b"")
    while (frame := _read_frame(requests)) is not None:
        verdict = _try(vocabulary, msgspec.msgpack.decode(frame, type=Constraint))
        verdict.is_last = verdict.is_last or _memory_bytes("VmRSS") - start_bytes > _RENEW_BYTES
        _write_frame(answers, msgspec.msgpack.encode(verdict))


def _try(vocabulary: Vocabulary, constraint: Constraint) -> Verdict:
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.append(_judge(vocabulary, constraint)))
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)  # counts this process's CPU time; its signal is the end
    thread.start()
    thread.join()
    signal.setitimer(signal.ITIMER_PROF, 0.0)
    return verdicts[0]


def _judge(vocabulary: Vocabulary, constraint: Constraint) -> Verdict:
    before = _memory_bytes("VmRSS")
    try:
        admitted = admit(constraint)
        grammar = try_out(vocabulary, admitted)
        num_bytes = max(0, _memory_bytes("VmRSS") - before)
        del grammar
        return Verdict(admitted=admitted, num_bytes=num_bytes)
    except InvalidRequest as problem:
        return Verdict(code=problem.code, message=problem.message)
    except MemoryError:
        return Verdict(
            code="grammar_too_complex",
            message=f"the grammar is too complex: it takes more than {MAX_GROWTH_BYTES >> 20} MiB: make it smaller",
            is_last=True,
        )
    except RecursionError:
        return Verdict(code="grammar_too_complex", message="the grammar is too complex: it is nested too deeply")


def _memory_bytes(name: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
    return 0


if __name__ == "__main__":
    main()
