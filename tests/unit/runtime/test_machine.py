"""The machine's limits are read, and a control group's smaller ones win."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from tripos.runtime import machine


def test_cores_and_memory_are_positive_and_within_the_machine() -> None:
    assert machine.num_cores() >= 1
    assert 0 < machine.available_memory_bytes() < 2**50
    assert machine.cpu_name()


def test_a_control_group_limits_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.num_cores() == 1
    assert machine.available_memory_bytes() == 600000


def test_an_unlimited_control_group_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.available_memory_bytes() > 2**20


def test_memory_that_the_allocator_kept_goes_back_to_the_system() -> None:
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("this C library has no malloc_trim")
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [libc.malloc(4096) for _ in range(8192)]
    for block in blocks:
        ctypes.memset(block, 1, 4096)
    for block in blocks[:-1]:  # the last one, in use, keeps the heap from shrinking by itself
        libc.free(block)
    kept = resident_bytes()
    machine.give_back_freed_memory()
    assert resident_bytes() < kept - 16 * 2**20
    libc.free(blocks[-1])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
