"""Fields of a model's JSON files, each checked as it is read: type, range, choice.

Owns the error texts, which name the file and the file's own key. Knows no field by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tripos.errors import ModelRefused, plain, shown

MISSING: Any = object()


@dataclass(frozen=True)
class Family:
    """What an architecture's config.json calls differently, leaves unsaid, or cannot say."""

    keys: Mapping[str, str] = field(default_factory=dict)  # our key -> its key
    defaults: Mapping[str, Any] = field(default_factory=dict)  # under our keys
    mlp_ratio: int = 0  # intermediate_size over hidden_size where the file leaves it out
    always: Mapping[str, Any] = field(default_factory=dict)  # true of every such model, whatever the file says


class Fields:
    """A family's config.json under our keys, each value checked as it is read; errors name the file's own key."""

    def __init__(self, raw: Mapping[str, Any], file: str, family: Family) -> None:
        self._file = file
        self._keys = family.keys
        renamed = {ours: raw[theirs] for ours, theirs in family.keys.items() if theirs in raw}
        self._values = {**family.defaults, **raw, **renamed, **family.always}

    def refuse(self, key: str, reason: str) -> ModelRefused:
        return ModelRefused(f"{self._file}: {self._keys.get(key, key)} {reason}")

    def get(self, key: str, default: Any = MISSING) -> Any:
        value = self._values.get(key)
        if value is not None:
            return value
        if default is MISSING:
            raise self.refuse(key, "is missing")
        return default

    def integer(self, key: str, low: int, high: int, default: Any = MISSING) -> int:
        value = self.get(key, default)
        if type(value) is not int or not low <= value <= high:
            raise self.refuse(key, f"is {shown(value)}; expected a whole number from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float, default: Any = MISSING) -> float:
        value = self.get(key, default)
        if type(value) not in (int, float) or not low <= value <= high:
            raise self.refuse(key, f"is {shown(value)}; expected a number from {plain(low)} to {plain(high)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key, default)
        if type(value) is not bool:
            raise self.refuse(key, f"is {shown(value)}; expected true or false")
        return value

    def choice(self, key: str, allowed: Mapping[str, str], default: Any = MISSING) -> str:
        value = self.get(key, default)
        if type(value) is not str or value not in allowed:
            raise self.refuse(key, f"is {shown(value)}, which is not supported; supported: {', '.join(allowed)}")
        return allowed[value]
