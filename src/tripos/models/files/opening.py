"""The one place that opens files by name: models' files, adapters, the service file, key files.

Owns what may be opened: regular files, reached through links or not. A pipe would be waited for without end, a device
may do anything; both are told apart before they are opened.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from tripos.errors import ModelRefused

_KINDS = {
    stat.S_IFIFO: "a named pipe (FIFO)", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device", stat.S_IFDIR: "a directory",
}  # fmt: skip
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md


def open_regular(path: Path | str) -> BinaryIO:
    """The file, for reading; it never blocks. Raises OSError, whose strerror says what is there in a file's place."""
    _check(os.stat(path).st_mode, path)  # before it is opened: to open a device is to use it
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check(os.fstat(descriptor).st_mode, path)  # it may have been exchanged in between
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, most: int, name: str = "") -> bytes:
    """A model file's content. Raises ModelRefused naming it (or `name`), also where it is larger than `most` bytes."""
    name = name or path.name
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
    except (OSError, ValueError) as problem:
        raise unreadable(name, problem) from problem
    if data is None:  # some files of /proc have nothing to read yet
        raise ModelRefused(f"{name}: cannot be read (it has no content yet)")
    if len(data) > most:
        size = f"{most >> 20} MiB" if most >= 1 << 20 else f"{most:,} bytes"
        raise ModelRefused(f"{name}: larger than {size}")
    refuse_pointer(data, name)
    return data


def refuse_pointer(data: bytes | memoryview, name: str) -> None:
    """What a clone without Git LFS leaves in a file's place. Raises ModelRefused."""
    if bytes(data[: len(_LFS_POINTER)]) == _LFS_POINTER:
        raise ModelRefused(
            f"{name}: is a Git LFS pointer, not the file itself: run git lfs pull in its directory, or download it"
        )


def name_of(folder: Path) -> str:
    """What people call a directory, also where its path is "." or ends in "..", which name nothing."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name or "/"


def is_there(path: Path) -> bool:
    """Whether the directory holds the name: also a link to nothing, which reading refuses by name."""
    return os.path.lexists(path)


def unreadable(name: str, problem: OSError | ValueError) -> ModelRefused:
    """The refusal of a file that cannot be opened or read; a ValueError is a null character in its name."""
    return ModelRefused(f"{name}: cannot be read ({getattr(problem, 'strerror', None) or problem})")


def _check(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise OSError(errno.EINVAL, f"it is {kind}, expected a regular file", str(path))
