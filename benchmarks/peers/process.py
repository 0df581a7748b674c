"""Driver processes: start, ask, stop. Every wait has an end, and a driver that fails says why in one line."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.peers.engines import BASELINE, OURS, Engine
from benchmarks.peers.work import Setup

ROOT = Path(__file__).resolve().parents[2]


class Failed(Exception):
    """An engine could not be installed, made, loaded or run; the text is the reason that the table shows."""


@dataclass(frozen=True)
class Places:
    """Where environments and models lie, and where drivers write what they have to say."""

    environments: Path
    models: Path
    threads: int
    baseline: Path | None = None  # the checkout of another build of ours

    @property
    def logs(self) -> Path:
        return self.models / "logs"

    def program(self, environment: str, name: str = "python") -> str:
        if environment == OURS:
            return sys.executable
        if environment == BASELINE:
            return str(self._baseline / ".venv" / "bin" / "python")
        path = self.environments / environment / "bin" / name
        failed = self.environments / environment / "failed"
        if failed.exists():
            raise Failed(f"not installed: {failed.read_text().strip()}")
        if not path.exists():
            raise Failed(f"not installed: no {environment}/bin/{name}")
        return str(path)

    @property
    def _baseline(self) -> Path:
        if self.baseline is None:
            raise Failed("no baseline was named")
        return self.baseline

    def preload(self, engine: Engine) -> dict[str, str]:
        """Those that are there."""
        found = [self.environments / engine.environment / library for library in engine.preload]
        paths = os.pathsep.join(str(path) for path in found if path.exists())
        return {"LD_PRELOAD": paths} if paths else {}

    def variables(self, environment: str) -> dict[str, str]:
        threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "DO_NOT_TRACK": "1"}
        ours = os.environ.get("PYTHONPATH", "") if environment == OURS else ""
        root = self._baseline if environment == BASELINE else ROOT
        path = os.pathsep.join(filter(None, (str(root), ours)))
        # Peers are installed with their bytecode; ours writes it with its first run.
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        return inherited | threads | quiet | {"PYTHONPATH": path}


def prepare(engine: Engine, places: Places, timeout_s: float) -> None:
    """Make the engine's model out of the checkpoint, unless it is there."""
    model = places.models / engine.model
    done = places.models / f"{engine.model}.done"
    if not engine.prepare or done.exists():
        return
    program = places.program(engine.prepare_in, engine.prepare[0])
    values = {"checkpoint": str(places.models / "checkpoint"), "model": str(model)}
    command = [program, *(word.format(**values) for word in engine.prepare[1:])]
    log = places.logs / f"{engine.name}.prepare.log"
    with log.open("w") as output:
        try:
            variables = places.variables(engine.prepare_in)
            subprocess.run(command, stdout=output, stderr=output, check=True, timeout=timeout_s, env=variables)
        except subprocess.TimeoutExpired:
            raise Failed(f"its model was not made within {timeout_s:.0f} s") from None
        except subprocess.CalledProcessError:
            raise Failed(f"its model was not made: {last_line(log)}") from None
    done.touch()


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


class Driver:
    """A started driver. While it waits to be asked it is stopped, lest its threads spin at the other side's expense."""

    def __init__(self, engine: Engine, setup: Setup, places: Places) -> None:
        self._log = places.logs / f"{engine.name}.log"
        self._began_s = time.time()
        module = f"benchmarks.peers.{engine.driver}"
        with self._log.open("w") as errors:
            self._process = subprocess.Popen(
                [places.program(engine.environment), "-P", "-m", module, json.dumps(asdict(setup))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=places.variables(engine.environment) | places.preload(engine),
                start_new_session=True,
            )
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self, timeout_s: float) -> dict[str, Any]:
        """Until it is loaded; what it says of itself. Raises Failed."""
        return self._reply(timeout_s)

    def ask(self, row: str, turn: int, timeout_s: float) -> dict[str, Any]:
        """One job's answer. Raises Failed."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"work": row, "turn": turn}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the answer says why
        self._signal(signal.SIGCONT)
        return self._reply(timeout_s)

    def since_start_s(self, answer: dict[str, Any]) -> float:
        return float(answer["done_s"]) - self._began_s

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended already
        self._signal(signal.SIGCONT)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        """To it and its own processes."""
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            os.killpg(self._process.pid, number)

    def _reply(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + timeout_s
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline_s - time.monotonic()))
            if not ready:
                self._signal(signal.SIGKILL)
                raise Failed(f"no answer within {timeout_s:.0f} s")
            read = os.read(descriptor, 1 << 16)
            if not read:
                raise Failed(last_line(self._log))
            self._unread += read
        self._signal(signal.SIGSTOP)
        line, _, self._unread = self._unread.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found
