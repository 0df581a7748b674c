"""Carries the progress of a load out of C++, and what is raised meanwhile around it: no exception may pass through.

Tested in tests/ops/test_interrupts.py.
"""

from __future__ import annotations

from collections.abc import Generator

from tripos.runtime.executor import Progress


def relay(progress: Progress, raised: list[BaseException]) -> Generator[int, float, None]:
    """Is sent which part of a load is done and yields 1 to go on, 0 to end it: then `raised` holds why.

    A generator, because an interrupt strikes at the first step of the Python that C++ calls. Of a function that step
    precedes every try; here it lies within.
    """
    try:
        while True:
            progress((yield 1))
    except GeneratorExit:
        return
    except BaseException as error:
        raised.append(error)
    yield 0
