"""Whether the files that a model is read from stayed what they were while it was read.

Weights are mapped, so they are read at several moments: checked, packed, hashed. What is packed must be what is hashed.
Tested in tests/e2e/test_written_over.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tripos.errors import ModelRefused


@dataclass(frozen=True)
class FileState:
    """A file as it was at one moment."""

    path: Path
    file_id: tuple[int, int]  # device and inode
    content: tuple[int, int]  # bytes, and when they were changed, in nanoseconds


def states_of(paths: Iterable[Path]) -> tuple[FileState, ...]:
    """Of those that are there. Call it before anything is read."""
    return tuple(state for path in sorted(paths) if (state := _state_of(path)) is not None)


def check_unchanged(states: Iterable[FileState]) -> None:
    """A file that was replaced by another, or removed, is none of our business: we hold the old one.

    Raises ModelRefused naming the file that was written over.
    """
    for before in states:
        now = _state_of(before.path)
        if now is not None and now.file_id == before.file_id and now.content != before.content:
            raise ModelRefused(
                f"{before.path.name}: was written over while it was read: load it again when it is complete, and next "
                "time write the new file beside it and rename it into place"
            )


def _state_of(path: Path) -> FileState | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return FileState(path, (found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns))
