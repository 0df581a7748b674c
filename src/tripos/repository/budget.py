"""The memory that models share, as numbers: what is free, and how much of it a model may take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tripos.engine.memory import mib
from tripos.errors import Conflict, ModelRefused
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


def share(total_bytes: int, needs: Sequence[Opening]) -> list[int]:
    """How much of `total_bytes` each of several models may take.

    Fixed amounts come first, then the least that each model needs. The rest goes to the caches, in proportion to what
    each could still use, so that a large model with long sequences does not starve a small one. Raises ModelRefused
    with all numbers.
    """
    least = [need.fixed_bytes or need.min_bytes for need in needs]
    left = total_bytes - sum(least)
    if left < 0:
        each = ", ".join(f"{need.name} {mib(num)}" for need, num in zip(needs, least, strict=True))
        raise ModelRefused(
            f"the models need {mib(sum(least))} at least ({each}) and may take {mib(total_bytes)}: serve fewer of "
            "them, lower their max_model_len, choose smaller weights, or give more --memory"
        )
    wants = [0 if need.fixed_bytes else need.max_bytes - need.min_bytes for need in needs]
    scale = min(1.0, left / max(1, sum(wants)))
    return [num + int(scale * want) for num, want in zip(least, wants, strict=True)]
