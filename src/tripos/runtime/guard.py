"""Reading mapped files that others may change: a file that is shortened meanwhile must not end this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tripos.errors import EnvironmentProblem
from tripos.runtime.native import load_library


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, what lies behind the new end of a mapped file reads as zeros, in any thread, where the system would end
    the process by SIGBUS. Compare the file with what it was afterwards. Without the native library: no guard."""
    try:
        library = load_library()
    except EnvironmentProblem:
        yield
        return
    library.tripos_guard(1)
    try:
        yield
    finally:
        library.tripos_guard(-1)
