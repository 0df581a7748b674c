"""The identity of a model: SHA-256 over its tensors, tokenizer, template and config.

Also whether the files that a model is read from stayed what they were. Weights are mapped, so they are read at
several moments: checked, packed, hashed. What is packed must be what is hashed.
The same model gives the same digest however its tensors are spread over files, and in whatever order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tripos.errors import ModelRefused
from tripos.plan.ir import Weights, let_pages_go

_THREADS = 2  # hashlib releases the interpreter lock; more threads are bound by memory bandwidth


def model_digest(
    config: Mapping[str, Any],
    weights: Weights,
    tokenizer: bytes,
    template: str | None,
    tool_template: str | None = None,
) -> str:
    """64 hexadecimal digits. `tokenizer` is Tokenizer.identity. Reads every weight once."""
    with ThreadPoolExecutor(_THREADS) as pool:
        tensors = list(pool.map(lambda name: _tensor_digest(weights, name), sorted(weights)))
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    parts = [b"tripos model 1", canonical.encode(), tokenizer, b"" if template is None else b"t" + template.encode()]
    if tool_template is not None:
        parts.append(b"u" + tool_template.encode())
    return hash_fields([*parts, *tensors])


def _tensor_digest(weights: Weights, name: str) -> bytes:
    tensor = weights[name]
    data = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
    facts = f"{name}\0{tensor.dtype}\0{tensor.shape}"
    content = hashlib.sha256(data.data).digest()
    let_pages_go(tensor.data)
    return hashlib.sha256(facts.encode() + b"\0" + content).digest()


def hash_fields(fields: Iterable[bytes], prefix: bytes = b"") -> str:
    """Hash each field with its length in front, so that no two lists of fields are hashed alike: 64 hexadecimal
    digits."""
    total = hashlib.sha256(prefix)
    for field in fields:
        total.update(len(field).to_bytes(8, "little"))
        total.update(field)
    return total.hexdigest()


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
