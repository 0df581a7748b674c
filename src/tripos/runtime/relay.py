"""Reports the progress of a load from C++ to Python, and carries exceptions around C++, which they may not pass
through.

Tested in tests/ops/test_interrupts.py.
"""

from __future__ import annotations

from collections.abc import Generator

from tripos.runtime.executor import Progress


def relay(progress: Progress, raised: list[BaseException]) -> Generator[int, float, None]:
    """Receives the part of a load that is done and yields 1 to go on, 0 to end it; `raised` then holds the exception.

    A generator, because an interrupt is raised at the first instruction of the Python code that C++ calls: in a
    function that is before any try, in a generator it is inside.
    """
    try:
        while True:
            progress((yield 1))
    except GeneratorExit:
        return
    except BaseException as error:
        raised.append(error)
    yield 0
