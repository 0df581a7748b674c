"""A separate process in which grammars are compiled before the server uses them: it may hang, swell or die.

Owns that process and the pipe to it, and starts another when it has ended. A frame is its length in 4 bytes and a
MessagePack message; the first one holds the vocabulary.
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

from tripos.errors import EngineFailed, InvalidRequest, Overloaded
from tripos.grammar.limits import Admitted, admit, try_out
from tripos.grammar.matcher import Vocabulary
from tripos.types import Constraint

MAX_CPU_S = 2.0  # for one grammar
MAX_WALL_S = 5.0  # then the attempt ends; the machine is busy unless the CPU time was used up
MAX_GROWTH_BYTES = 256 << 20  # of address space beyond that of the empty process
MAX_START_S = 60.0
MAX_FRAME_BYTES = 512 << 20
_STACK_BYTES = 4 << 20  # half of the server's threads' stacks: a grammar that compiles there compiles here
# The signals by which a grammar ends the process. Others come from outside.
_ENDS = (signal.SIGPROF, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
_RENEW_BYTES = 64 << 20  # grown by earlier grammars: then a new process takes over


class Tokens(msgspec.Struct):
    """The vocabulary, sent to the compiling process."""

    tokens: list[bytes]
    special_ids: list[int]
    eos_ids: list[int]


class Verdict(msgspec.Struct):
    """The answer about one constraint: admitted, with the memory that its grammar took, or the error."""

    admitted: Admitted | None = None
    num_bytes: int = 0
    code: str = ""
    message: str = ""
    is_last: bool = False  # the process ends after this answer


class CompileProcess:
    """Compiles constraints, one at a time; any thread may call. The first call starts the process."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: weakref.finalize[Any, CompileProcess] | None = (
            None  # ends the process of an owner that never calls close
        )

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    def check(self, constraint: Constraint) -> Verdict:
        """Raises InvalidRequest as limits.admit, and with grammar_too_complex when the grammar ended the process;
        Overloaded when the process got too little CPU time, EngineFailed when it was ended from outside or does not
        start.
        """
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
        for _ in range(2):
            process = self._running()
            before_s = _cpu_s(process.pid)
            try:
                self._send(constraint, MAX_WALL_S)
                verdict = msgspec.msgpack.decode(self._receive(MAX_WALL_S), type=Verdict)
            except TimeoutError:
                spent_s = _cpu_s(process.pid) - before_s
                self._kill()
                if spent_s >= MAX_CPU_S:
                    break
                raise Overloaded(
                    f"compiling the grammar got only {spent_s:.1f} s of CPU time in {MAX_WALL_S:.0f} s, as the machine "
                    "is busy: retry",
                    retry_after_s=5.0,
                ) from None
            except (OSError, EOFError):
                status = self._end()
                if status is None or status >= 0 or -status in _ENDS:
                    break
                continue  # the process was ended from outside: try a new one
            if verdict.is_last:
                self._kill()
            return verdict
        else:
            message = "the process that compiles grammars was ended from outside, twice: retry"
            raise EngineFailed(message, retry_after_s=5.0)
        return Verdict(
            code="grammar_too_complex",
            message=f"the grammar is too complex: compiling it takes more than {MAX_CPU_S:.0f} s or "
            f"{MAX_GROWTH_BYTES >> 20} MiB, which ended the attempt: make it smaller",
        )

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is not None:
            self._kill()  # it was ended from outside while idle
        if self._process is None:
            self._start()
        assert self._process is not None
        return self._process

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "tripos.grammar.compile_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)
            },  # nothing else of the server's environment
            bufsize=0,
        )
        is_reaping = threading.Lock()
        self._reaper = weakref.finalize(self, _reap, self._process, is_reaping)
        threading.Thread(
            target=_watch, args=(self._process, is_reaping), name="tripos-grammar-reaper", daemon=True
        ).start()
        os.set_blocking(_pipe(self._process.stdin).fileno(), False)
        try:
            self._send(self._tokens, MAX_START_S)
            self._receive(MAX_START_S)
        except (OSError, EOFError):
            self._kill()
            message = "the process that compiles grammars does not start: retry"
            raise EngineFailed(message, retry_after_s=5.0) from None

    def _send(self, value: Any, seconds: float) -> None:
        """Raises OSError when the process is gone, TimeoutError when it does not read on in time."""
        assert self._process is not None
        pipe = _pipe(self._process.stdin)
        end_s = time.monotonic() + seconds
        view = memoryview(_frame(msgspec.msgpack.encode(value)))
        while view:
            _wait(pipe, select.POLLOUT, end_s)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(pipe.fileno(), view) :]

    def _receive(self, seconds: float) -> bytes:
        """The next frame. Raises EOFError when the process is gone, TimeoutError when it does not answer in time."""
        assert self._process is not None
        pipe = _pipe(self._process.stdout)
        end_s = time.monotonic() + seconds
        data, requested = b"", 4
        while len(data) < requested:
            _wait(pipe, select.POLLIN, end_s)
            piece = os.read(pipe.fileno(), requested - len(data))
            if not piece:
                raise EOFError
            data += piece
            if len(data) == 4:
                requested = 4 + int.from_bytes(data, "little")
        return data[4:]

    def _end(self) -> int | None:
        """Release a process that closed its pipe; returns its exit status."""
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


def _watch(process: subprocess.Popen[bytes], is_reaping: threading.Lock) -> None:
    """Reap the process as soon as it ends, so that no zombie stays."""
    with contextlib.suppress(ChildProcessError):  # already reaped
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    with is_reaping:
        process.poll()


def _reap(process: subprocess.Popen[bytes], is_reaping: threading.Lock) -> None:
    with is_reaping:  # else the signal could reach a new process with the same id
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def _wait(pipe: IO[bytes], event: int, end_s: float) -> None:
    """Wait until a pipe is ready or closed. Raises TimeoutError. Uses poll(): select() takes no descriptor above 1023,
    which a server with many connections has.
    """
    poll = select.poll()
    poll.register(pipe, event)
    if not poll.poll(1000 * max(0.0, end_s - time.monotonic())):
        raise TimeoutError


def _cpu_s(pid: int) -> float:
    """CPU seconds of another process so far; 0 where it has ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _frame(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


def _write_frame(pipe: IO[bytes], data: bytes) -> None:
    view = memoryview(_frame(data))
    while view:
        view = view[pipe.write(view) :]


def _read_frame(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "little")
    data = pipe.read(size) if size <= MAX_FRAME_BYTES else b""
    return data if len(data) == size else None


# -- in the process ---------------------------------------------------------------------------------------------------
def main() -> None:
    """Answer until the pipe closes. Exceeded limits end the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt from a terminal is for the server
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # prints go to standard error, not into the answers
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
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_S)  # counts this process's CPU time; its signal ends the process
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
