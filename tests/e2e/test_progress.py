"""What is told while a model is loaded: real files and kernels."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tripos.build import load_model
from tripos.config import ModelOptions


def test_packing_tells_how_far_it_is() -> None:
    told: list[tuple[str, float]] = []
    load_model(ModelOptions(threads=1, memory=256 << 20), lambda phase, done: told.append((phase, done))).close()
    shares = [done for phase, done in told if phase == "pack"]
    assert shares == sorted(shares)
    assert (shares[0], len(set(shares)) > 5) == (0.0, True)
    assert 0.99 < shares[-1] <= 1.0


def test_the_bar_in_a_terminal_moves_and_is_glued_to_nothing() -> None:
    terminal, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-m", "tripos", "serve", "--port", "0"], cwd="/", stderr=theirs)
    os.close(theirs)
    said, end_s = b"", time.monotonic() + 60
    try:
        while b"listening on " not in said:
            assert time.monotonic() < end_s, said
            if select.select((terminal,), (), (), 1)[0]:
                said += os.read(terminal, 1 << 16)
    finally:
        process.terminate()
        status = process.wait(30)
        os.close(terminal)
    assert status == 0
    lines = said.decode().split("\r\n")[:-1]
    shown = [line.split("\r\x1b[K") for line in lines]
    assert all(re.match(r"\d{4}-\d\d-\d\dT", parts[-1]) for parts in shown), lines  # a bar is gone before a line comes
    bars = [part for parts in shown for part in parts[:-1] if part]
    assert all(re.fullmatch(r"\w+ +\[#*\.*\] +\d+%", bar) for bar in bars)
    assert len({bar for bar in bars if bar.startswith("pack")}) > 1


def log_until_ready(folder: Path, *arguments: str) -> list[str]:
    """The lines of `tripos serve` from its start to its end, for which it is asked once it listens."""
    log = folder / "log"
    command = [sys.executable, "-m", "tripos", "serve", "--port", "0", *arguments]
    with log.open("w") as stderr:
        process = subprocess.Popen(command, cwd=folder, stderr=stderr)
    try:
        end_s = time.monotonic() + 60
        while "listening on " not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end_s, log.read_text()
            time.sleep(0.02)
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    return log.read_text().splitlines()


def test_the_log_names_each_model_and_then_the_address(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    stories = str(shared_data("lm/stories260K/derived-hf"))
    lines = [line.partition(" INFO ")[2] for line in log_until_ready(tmp_path, "demo:assistant", stories)]
    loaded = [line for line in lines if " was loaded: " in line]
    times = r"pack \d+\.\d\d s, cache \d+\.\d\d s, digest \d+\.\d\d s"
    assert [re.fullmatch(rf"(\S+) was loaded: {times}", line)[1] for line in loaded] == ["demo:assistant", "derived-hf"]  # type: ignore[index]
    assert sum(bool(re.fullmatch(r"files were opened: open \d+\.\d\d s", line)) for line in lines) == 1
    assert re.fullmatch(r"listening on http\S+ \(ready in \d+\.\d\d s\)", lines[-2])
    assert lines[-1] == "stopped"


def test_a_log_for_programs_has_the_memory_of_a_model_as_fields(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in log_until_ready(tmp_path, "--log-format", "json")]
    (table,) = [line for line in lines if line["message"] == "memory of a model"]
    assert table["model"] == "demo:assistant"
    assert {"weights", "cache", "sequences", "all_at_their_longest", "limit"} <= set(table)
    assert not [line for line in lines if "  " in line["message"] or "" in line.values()]
