"""The changes between the current settings and those that were read again, computed and checked in advance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tripos.engine.memory import mib
from tripos.errors import ConfigError, Conflict
from tripos.repository.budget import Budget
from tripos.repository.entry import Entry, Opening
from tripos.repository.settings import ModelSpec, Settings


@dataclass(frozen=True)
class Change:
    """Models by name; routes and settings of the server by name only."""

    removed: tuple[str, ...]
    retained: dict[str, ModelSpec]  # the same as before
    changed: dict[str, ModelSpec]
    added: dict[str, ModelSpec]
    routes: tuple[str, ...]
    needs_restart: tuple[str, ...]  # settings of the server whose change waits for the next start


def change_of(old: Settings, new: Settings) -> Change:
    """Raises ConfigError for a file that names no model any more: an editor may have emptied it for a moment."""
    if new.is_default and not old.is_default:
        raise ConfigError(f"{new.file} names no model, so what runs is kept: unload models by name to end them")
    before, after = ({model.name: model for model in settings.models} for settings in (old, new))
    left, right = ({route.name: route for route in settings.routes} for settings in (old, new))
    both = {name: spec for name, spec in after.items() if name in before}
    return Change(
        removed=tuple(name for name in before if name not in after),
        retained={name: spec for name, spec in both.items() if spec == before[name]},
        changed={name: spec for name, spec in both.items() if spec != before[name]},
        added={name: spec for name, spec in after.items() if name not in before},
        routes=tuple(name for name in {**left, **right} if left.get(name) != right.get(name)),
        needs_restart=tuple(name for name, value in new.fixed.items() if old.fixed.get(name) != value),
    )


@dataclass
class Plan:
    """The models that are due to be loaded. An opening is removed from `openings` when it is used."""

    change: Change
    due: dict[str, ModelSpec]
    openings: dict[str, Opening] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)  # bytes that each of `due` may take

    def close(self) -> None:
        for opening in self.openings.values():
            opening.close()


def plan_of(change: Change, entries: Mapping[str, Entry]) -> Plan:
    """Models that must be loaded, also those that failed before and may have been repaired."""
    states = {name: entry.state for name, entry in entries.items()}
    due = {name: spec for name, spec in change.changed.items() if states.get(name) == "ready"}
    for name, spec in {**change.changed, **change.added, **change.retained}.items():
        if spec.is_preloaded and (name not in change.retained or states.get(name) == "failed"):
            due[name] = spec
    return Plan(change, due)


def check_plan(plan: Plan, entries: Mapping[str, Entry], budget: Budget, total_bytes: int) -> None:
    """Fill in the memory, in the order in which models will come. Raises Conflict when it does not work out."""
    change = plan.change
    for name in change.added:
        if name in entries and entries[name].state != "failed":
            raise Conflict(f"{name} was loaded at run time, and the configuration names another: unload it first")
    gone = [entries[name] for name in change.removed if name in entries]
    for entry in (*gone, *(entries[name] for name in change.changed if name in entries)):
        check_carries_none(entry)
    free = budget.free_bytes + total_bytes - budget.total_bytes + sum(entry.held_bytes for entry in gone)
    if free < 0:
        raise Conflict(f"memory = {mib(total_bytes)} is {mib(-free)} less than what is taken: unload a model first")
    for name, opening in plan.openings.items():
        old = entries[name] if name in entries and entries[name].state == "ready" else None
        left = replace(budget, free_bytes=free)
        plan.memory[name] = left.reserve(opening, old.held_bytes if old else None)
        free += (old.held_bytes if old else 0) - opening.held_bytes(plan.memory[name])


def check_carries_none(entry: Entry) -> None:
    """Raises Conflict while a model carries adapters that came after it."""
    if entry.carried:
        raise Conflict(f"{entry.name} carries {', '.join(entry.carried)}: unload them first")
