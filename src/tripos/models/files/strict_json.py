"""JSON files of models, read strictly: bounded in size and depth, UTF-8, no key twice, only finite numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tripos.errors import ModelRefused, shown
from tripos.models.files.opening import read_bytes

MAX_JSON_BYTES = 16 << 20
MAX_JSON_DEPTH = 64


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of at most 16 MiB: UTF-8, depth <= 64, no duplicate keys, only finite numbers.

    Raises ModelRefused naming the file.
    """
    return parse_json(read_bytes(path, MAX_JSON_BYTES), path.name)


def parse_json(data: bytes, file: str) -> dict[str, Any]:
    """The JSON object in `data`, under the rules of read_json."""
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
        _check_depth(value)
    except (ValueError, RecursionError) as problem:
        raise ModelRefused(f"{file}: not acceptable JSON: {problem}") from problem
    if not isinstance(value, dict):
        raise ModelRefused(f"{file}: holds a JSON {type(value).__name__}; expected an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(twice)} appears twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {text[:40]} overflows")
    return value


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"nested deeper than {MAX_JSON_DEPTH}")
        level = [child for parent in level for child in _children(parent)]


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
