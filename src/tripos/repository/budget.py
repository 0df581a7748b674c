"""The memory that models share, as numbers: what is free, and how much of it a model may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tripos.engine.memory import mib, share
from tripos.errors import Conflict
from tripos.repository.entry import Opening


@dataclass(frozen=True)
class Budget:
    """`held`: bytes by model, for messages."""

    total_bytes: int
    free_bytes: int
    held: Mapping[str, int]

    def reserve(self, opening: Opening, old_bytes: int | None = None) -> int:
        """How much a model may take; a new version as much as the one before (`old_bytes`), beside it.

        Raises Conflict.
        """
        free = self.free_bytes
        usual = free if old_bytes is None else old_bytes
        requested = opening.fixed_bytes or max(opening.min_bytes, min(opening.max_bytes, usual))
        if requested <= free:
            return requested
        listed = ", ".join(f"{name} ({mib(num)})" for name, num in self.held.items() if num) or "none"
        if old_bytes is not None:
            raise Conflict(
                f"{opening.name} needs {mib(requested)} beside the version that serves, {mib(free)} of "
                f"{mib(self.total_bytes)} are free: unload another model ({listed}), give this one less memory, "
                "or unload it and load it again"
            )
        raise Conflict(
            f"{opening.name} needs {mib(requested)}, {mib(free)} of {mib(self.total_bytes)} are free: "
            f"unload one of {listed}, or give it less memory"
        )


def shares(total_bytes: int, openings: Sequence[Opening]) -> list[int]:
    """How much each of the first models may take. Raises ModelRefused when they do not fit together."""
    if len(openings) == 1:  # whose own error says more
        return [openings[0].fixed_bytes or total_bytes]
    return share(total_bytes, openings)
