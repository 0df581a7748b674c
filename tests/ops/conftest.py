"""Every native test runs with each instruction set that this CPU has, and with one and two threads."""

from __future__ import annotations

import pytest

from tripos.runtime import native


@pytest.fixture(params=native.about()["known_isas"].split(","))
def isa(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if name not in native.about()["isas"].split(","):
        pytest.skip(f"this CPU has no {name}")
    return name


@pytest.fixture(params=[1, 2], ids=["1thread", "2threads"])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)
