"""Do what a configuration says now that was read again: first check all of it, then change model by model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from tripos.config import Change, ModelOptions, ServiceOptions, difference
from tripos.engine.memory import mib
from tripos.errors import ConfigError, Conflict, TriposError
from tripos.repository.entry import Opening, Resident
from tripos.repository.room import Room


class Changing(Protocol):
    """What Residents can do to one model."""

    room: Room

    async def open(self, options: ModelOptions) -> Opening: ...
    async def bring_in(self, resident: Resident, opening: Opening, memory_bytes: int) -> None: ...
    async def swap(self, old: Resident, options: ModelOptions, opening: Opening, memory_bytes: int) -> Resident: ...
    async def drain_and_free(self, name: str) -> dict[str, Any]: ...


async def reread(residents: Changing, options: ServiceOptions) -> dict[str, Any]:
    """Returns a report. Raises TriposError when a new model is wrong or does not fit; then nothing has changed."""
    room = residents.room
    if options.is_default and not room.options.is_default:
        # An editor or a copy may have emptied the file for a moment.
        raise ConfigError(f"{options.file} names no model, so what runs is kept: unload models by name to end them")
    change = difference(room.options, options)
    total_bytes = options.server.memory or room.total_bytes
    wanted = _wanted(change, room)
    openings: dict[str, Opening] = {}
    try:
        for name, model in wanted.items():
            openings[name] = await residents.open(model)
        memory = _preview(change, openings, room, total_bytes)
        for name in change.removed:
            if room.state(name) == "ready":
                await residents.drain_and_free(name)
            room.residents.pop(name, None)
        room.options, room.total_bytes = options, total_bytes
        for name, model in {**change.changed, **change.added}.items():
            if name not in openings:
                room.residents[name] = Resident(name, model)
        report = await _bring_in(residents, wanted, openings, memory)
    finally:
        for opening in openings.values():  # those that nobody took
            opening.close()
    room.route(again=True)
    lists = {"unloaded": change.removed, "routes": change.routes, "needs_restart": change.restart}
    return {**report, **{key: list(names) for key, names in lists.items()}}


def _wanted(change: Change, room: Room) -> dict[str, ModelOptions]:
    """Models that must be loaded, also those that failed before and may have been repaired."""
    found = {name: options for name, options in change.changed.items() if room.state(name) == "ready"}
    for name, options in {**change.changed, **change.added, **change.kept}.items():
        is_due = name not in change.kept or room.state(name) == "failed"
        if options.preload and is_due:
            found[name] = options
    return found


def _preview(change: Change, openings: Mapping[str, Opening], room: Room, total_bytes: int) -> dict[str, int]:
    """What each new model may take, in the order in which they will come. Raises Conflict when it does not work out."""
    for name in change.added:
        if room.state(name) not in (None, "failed"):
            raise Conflict(f"{name} was loaded at run time, and the configuration names another: unload it first")
    gone = [room.residents[name] for name in change.removed if name in room.residents]
    for resident in (*gone, *(room.residents[name] for name in change.changed)):
        room.check_free(resident)
    free = room.free_bytes + total_bytes - room.total_bytes + sum(resident.held_bytes for resident in gone)
    if free < 0:
        raise Conflict(f"memory = {mib(total_bytes)} is {mib(-free)} less than what is taken: unload a model first")
    memory: dict[str, int] = {}
    for name, opening in openings.items():
        old = room.residents[name] if room.state(name) == "ready" else None
        memory[name] = room.reserve(opening, old, free)
        free += (old.held_bytes if old else 0) - opening.held_bytes(memory[name])
    return memory


async def _bring_in(
    residents: Changing, wanted: Mapping[str, ModelOptions], openings: dict[str, Opening], memory: Mapping[str, int]
) -> dict[str, Any]:
    """Takes the openings. A model that fails only now, at packing, is reported and does not hold up the others."""
    room = residents.room
    done: dict[str, list[str]] = {"loaded": [], "reloaded": []}
    failed: dict[str, str] = {}
    for name in list(openings):
        opening = openings.pop(name)
        try:
            if room.state(name) == "ready":
                await residents.swap(room.residents[name], wanted[name], opening, memory[name])
                done["reloaded"].append(name)
            else:
                await residents.bring_in(Resident(name, wanted[name]), opening, memory[name])
                done["loaded"].append(name)
        except TriposError as error:
            failed[name] = error.message
    return {**done, "failed": failed}
