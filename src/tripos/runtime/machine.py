"""The cores and the memory that the process may use, within the limits of its control group."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

from tripos.errors import EnvironmentProblem

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


class Birthplace:
    """The process that started threads. A fork of it does not have them."""

    def __init__(self) -> None:
        self._process_id = os.getpid()

    @property
    def is_here(self) -> bool:
        return os.getpid() == self._process_id

    def check(self) -> None:
        """Raises EnvironmentProblem in a fork, where waiting for the threads would never end."""
        if not self.is_here:
            raise EnvironmentProblem(
                f"the model was opened in process {self._process_id} and is used in a fork of it, which has none of "
                "its threads: open it in the process that uses it, or start that one with the method spawn"
            )


def num_cores() -> int:
    """Cores that this process may run on: affinity, and the CPU quota of its control group rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _read(_CGROUP / "cpu.max").split()
    if len(quota) == 2 and quota[0].isdigit() and quota[1].isdigit() and int(quota[1]) > 0:
        cores = min(cores, max(1, -(-int(quota[0]) // int(quota[1]))))
    return cores


def available_memory_bytes() -> int:
    """Memory that can be allocated now without swapping: the smaller of the machine's and the control group's."""
    free = [line.split()[1] for line in _read(_MEMINFO).splitlines() if line.startswith("MemAvailable:")]
    available = int(free[0]) * 1024 if free else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, current = _read(_CGROUP / "memory.max").strip(), _read(_CGROUP / "memory.current").strip()
    if limit.isdigit() and current.isdigit():
        available = min(available, max(0, int(limit) - int(current)))
    return available


def give_back_freed_memory() -> None:
    """Return to the system the free memory that glibc's allocator holds: 90 MB after reading a tokenizer of 152k
    tokens. Without effect with other allocators. Takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def cpu_name() -> str:
    """The processor as the system names it."""
    names = [
        line.split(":", 1)[1].strip() for line in _read(Path("/proc/cpuinfo")).splitlines() if "model name" in line
    ]
    return names[0] if names else platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""  # the file is missing on some systems; callers have a second source
