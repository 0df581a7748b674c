"""Shared fixtures. `shared_data` is the one place that knows where the optional data sets live."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# The machine may be busy: an example that takes long is no failure, the test's own timeout is.
settings.register_profile("tripos", deadline=None, print_blob=True)
settings.load_profile("tripos")

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
