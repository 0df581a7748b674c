"""What is told while a model is loaded: real files and kernels."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time

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
