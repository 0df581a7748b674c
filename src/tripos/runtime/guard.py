"""Reads mapped files that other processes may shorten meanwhile, which must not end this process.

Tested in tests/e2e/test_written_over.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tripos.errors import EnvironmentProblem, ModelRefused
from tripos.runtime.native import check, load_library


@contextmanager
def guarded() -> Iterator[None]:
    """Inside, bytes behind the new end of a mapped file read as zeros, in any thread, where the system would end the
    process by SIGBUS. Raises ModelRefused at its end if that happened. Without the native library: no guard."""
    try:
        library = load_library()
    except EnvironmentProblem:
        yield
        return
    check(library, library.tripos_guard(1), EnvironmentProblem)
    try:
        yield
    finally:
        status = library.tripos_guard(-1)
    check(library, status, ModelRefused)
