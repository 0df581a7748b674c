"""Shared fixtures and options. `shared_data` is the one place that knows where the optional data sets live.

`--soak N`: tests that draw random cases draw N times as many. `make soak` runs these tests alone, with N = 500.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The machine may be busy: an example that takes long is no failure, the test's own timeout is.
settings.register_profile("tripos", deadline=None, print_blob=True)
settings.load_profile("tripos")

SOAK_S = 4 * 3600  # the most that one test may take when it is multiplied


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", type=int, default=1, metavar="N", help="multiply the cases of tests marked soak")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "soak: draws random cases, `soak` times as many with --soak")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--soak") > 1:
        for item in items:
            if item.get_closest_marker("soak") is not None:
                item.add_marker(pytest.mark.timeout(SOAK_S), append=False)


@pytest.fixture(scope="session")
def soak(request: pytest.FixtureRequest) -> int:
    """How many times the usual number of cases a test draws (--soak)."""
    times: int = request.config.getoption("--soak")
    return times


SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Returns a function that gives the path of a shared data file, or skips the test saying which is absent."""

    def find(relative: str) -> Path:
        path = SHARED / relative
        if not path.exists():
            pytest.skip(f"needs ../shared/data/{relative}, which is not beside this checkout")
        return path

    return find
