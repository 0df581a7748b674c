"""Encoding beside the event loop: in order, errors passed on; what does not end is waited for only so long."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from tripos.errors import DeadlineExceeded
from tripos.models.text.side_thread import SideThread


async def test_answers_and_errors_come_back() -> None:
    thread = SideThread()
    assert await thread.run(lambda: [1, 2]) == [1, 2]
    with pytest.raises(ValueError, match="no text"):
        await thread.run(lambda: _raise(ValueError("no text")))
    assert await thread.run(lambda: 3) == 3
    await thread.stop()


async def test_what_does_not_end_is_given_up() -> None:
    thread, gate = SideThread(most_s=0.05), threading.Event()
    with pytest.raises(DeadlineExceeded, match="could not be tokenized within"):
        await thread.run(gate.wait)
    with pytest.raises(DeadlineExceeded):  # it waits behind it
        await thread.run(lambda: 1)
    gate.set()
    await thread.stop()


def test_a_process_ends_though_an_encoding_does_not() -> None:
    program = "import threading; from tripos.models.text.side_thread import SideThread; "
    program += "SideThread().submit(threading.Event().wait); print('ends')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "ends\n")


def _raise(problem: Exception) -> None:
    raise problem
