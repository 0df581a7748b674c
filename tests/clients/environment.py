"""Where `make clients` puts the clients, and how a test runs one: in a home of its own, told to call nobody else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOWS = Path(__file__).parent / "flows"
PROGRAMS = ROOT / ".venv-clients" / "bin"
MODULES = Path(__file__).parent / "node_modules"
CALL_NOBODY = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    "DISABLE_ERROR_REPORTING": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


class Obliging:
    """The server of obliging.py; `url` is its address."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self.url = ""

    @property
    def conversations(self) -> list[str]:
        """What the model was given so far, in order."""
        return [json.loads(line) for line in self._output.read_text().splitlines()[1:]]


@contextmanager
def obliging(folder: Path) -> Iterator[Obliging]:
    """In a process of its own. Stopped by SIGTERM; then it must end well, without a traceback."""
    output, errors = folder / "conversations.jsonl", folder / "server.log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    with output.open("w") as out, errors.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.clients.obliging"], cwd=ROOT, env=environment, stdout=out, stderr=err
        )
    server = Obliging(output)
    try:
        while not server.url and process.poll() is None:
            server.url = next(iter(output.read_text().splitlines()), "")
        assert server.url, errors.read_text()
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=60)
    assert status == 0
    assert "Traceback" not in errors.read_text()


def run(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """The standard output of a client that ends well; `folder` is its working directory, with its home inside."""
    home = folder / "home"
    home.mkdir(exist_ok=True)
    path = os.pathsep.join((str(PROGRAMS), "/usr/local/bin", "/usr/bin", "/bin"))
    with tempfile.TemporaryDirectory(prefix="tripos-") as short:  # some put sockets there, whose paths must be short
        whole = {"PATH": path, "HOME": str(home), "TMPDIR": short, **CALL_NOBODY, **(environment or {})}
        done = subprocess.run(
            list(map(str, command)), cwd=folder, env=whole, stdin=subprocess.DEVNULL, text=True, capture_output=True,
            timeout=300,
        )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def run_flow(name: str, *arguments: str, folder: Path) -> Any:
    """What a program of flows/ printed, as JSON."""
    program = find_program("node" if name.endswith(".mjs") else "python")
    path = FLOWS / name
    if name.endswith(".mjs"):
        find_module("ai")
    return json.loads(run([program, path, *arguments], folder).splitlines()[-1])


def find_program(name: str) -> Path:
    """A program of the clients' environment, or the test is skipped."""
    return _found(PROGRAMS / name)


def find_module(path: str) -> Path:
    """A file of an npm package, or the test is skipped."""
    return _found(MODULES / path)


def _found(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs {path.relative_to(ROOT)}: make clients installs it")
    return path
