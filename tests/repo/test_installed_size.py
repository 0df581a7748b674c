"""What an installation weighs: Tripos and what it cannot do without, by the files of their own records."""

from __future__ import annotations

import importlib.metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MAX_BYTES = 130e6  # bytecode left out, of which there is as much as was run


def closure(name: str, found: dict[str, importlib.metadata.Distribution]) -> dict[str, importlib.metadata.Distribution]:
    """The distribution and all that it demands without extras, by name."""
    if canonicalize_name(name) not in found:
        distribution = found[canonicalize_name(name)] = importlib.metadata.distribution(name)
        for line in distribution.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                closure(requirement.name, found)
    return found


def num_bytes(distribution: importlib.metadata.Distribution) -> int:
    paths = [distribution.locate_file(path) for path in distribution.files or [] if path.suffix != ".pyc"]
    return sum(path.stat().st_size for path in paths)  # type: ignore[attr-defined]


def test_the_base_installation_is_light() -> None:
    weights = {name: num_bytes(distribution) for name, distribution in closure("tripos", {}).items()}
    assert {"tripos", "numpy", "uvicorn"} <= weights.keys()
    assert all(weights.values()), "a distribution without a record"
    heaviest = sorted(weights.items(), key=lambda each: -each[1])[:8]
    assert sum(weights.values()) < MAX_BYTES, f"{sum(weights.values()) / 1e6:.1f} MB, of it {heaviest}"
