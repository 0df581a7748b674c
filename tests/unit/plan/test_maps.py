"""Arrays that are views into mapped files, and letting their pages go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tripos.models.files.safetensors import map_file
from tripos.plan.ir import let_pages_go, map_of

STATUS = Path("/proc/self/status")


def resident_file_bytes() -> int:
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith("RssFile:")]
    return int(line.split()[1]) * 1024


def test_views_of_a_map_are_known_and_others_are_not(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 64)
    data = map_file(path)
    view = np.frombuffer(data[64:4160], np.uint8).view(np.float32).reshape(32, 32)
    assert map_of(view) is data.obj
    assert map_of(view.copy()) is None
    assert map_of(np.frombuffer(b"in memory", np.uint8)) is None


@pytest.mark.skipif(not STATUS.is_file(), reason="needs /proc: how much of a file is in memory is read there")
def test_pages_let_go_leave_memory_and_come_back_the_same(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 256, 32 << 20, dtype=np.uint8)
    path = tmp_path / "weights"
    path.write_bytes(content.tobytes())
    array = np.frombuffer(map_file(path)[1000:-1000], np.uint8)
    assert int(array.sum()) > 0
    before = resident_file_bytes()
    let_pages_go(array)
    assert before - resident_file_bytes() > 24 << 20
    assert np.array_equal(array, content[1000:-1000])


def test_memory_of_its_own_is_left_alone() -> None:
    array = np.ones(1 << 20, np.uint8)
    let_pages_go(array)
    assert array.all()
