"""The first place where two recorded answers differ."""

from __future__ import annotations

import json
import math
from typing import Any

RELATIVE, ABSOLUTE = 1e-3, 1e-4  # of numbers with a fraction: exp and log differ in their last digits between machines
SHOWN = 600


def difference(want: Any, got: Any, path: str = "$") -> str:
    """`path: want ..., got ...`; "" for none. The order of an object's keys means nothing."""
    if type(want) is not type(got):
        return _told(path, want, got)
    if isinstance(want, dict):
        return _of_objects(want, got, path)
    if isinstance(want, list):
        for index, pair in enumerate(zip(want, got, strict=False)):
            if found := difference(*pair, f"{path}[{index}]"):
                return found
        return "" if len(want) == len(got) else _told(f"{path}: {len(want)} items, now {len(got)}", want, got)
    if isinstance(want, float):
        return "" if math.isclose(want, got, rel_tol=RELATIVE, abs_tol=ABSOLUTE) else _told(path, want, got)
    return "" if want == got else _told(path, want, got)


def _of_objects(want: dict[str, Any], got: dict[str, Any], path: str) -> str:
    for key in want:
        if key not in got:
            return f"{path}.{key}: want {_short(want[key])}, got nothing"
        if found := difference(want[key], got[key], f"{path}.{key}"):
            return found
    new = [key for key in got if key not in want]
    return f"{path}.{new[0]}: want nothing, got {_short(got[new[0]])}" if new else ""


def _told(path: str, want: Any, got: Any) -> str:
    return f"{path}\n  want {_short(want)}\n  got  {_short(got)}"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text)} characters)"
