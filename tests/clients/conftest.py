"""One server for all clients of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.environment import Obliging, find_program, obliging


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Obliging]:
    find_program("python")
    with obliging(tmp_path_factory.mktemp("server")) as server:
        yield server
