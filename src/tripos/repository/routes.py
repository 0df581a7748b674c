"""Keeps the service's routes in line with the repository's entries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tripos.errors import Conflict
from tripos.repository.adapter import Adapter
from tripos.repository.entry import Entry
from tripos.repository.settings import Builder, ModelSpec, RouteSpec, Settings
from tripos.service import Service
from tripos.types import Model

Target = tuple[RouteSpec, Model, Adapter | None]


class Routes:
    """The routes of one service that lead to the repository's models. Synchronous, so that an update is atomic."""

    def __init__(self, service: Service, builder: Builder) -> None:
        self._service = service
        self._builder = builder
        self._routed: dict[str, tuple[Model, Adapter | None]] = {}  # by name

    def update(self, entries: Mapping[str, Entry], settings: Settings, *, again: bool = False) -> None:
        """Route to every model that is ready and to its adapters. `again`: also where nothing but stages changed."""
        requested = dict(_targets(entries, settings))
        service = self._service
        for name in (self._routed.keys() - requested.keys()) & service.routes.keys():
            service.remove(name)
        for name, (route, model, adapter) in requested.items():
            is_there = name in service.routes
            if is_there and not again and self._routed.get(name) == (model, adapter):
                continue
            card = model.card if adapter is None else adapter.card
            stages = (*self._builder.stages(route, card, settings), *([adapter.stage] if adapter else []))
            put = service.replace if is_there else service.add
            put(name=name, model=model, stages=stages, card=card, is_strict=route.is_strict)
        service.announce({name: entry.state for name, entry in entries.items()}, settings.aliases)
        self._routed = {name: (model, adapter) for name, (_, model, adapter) in requested.items()}

    def check_names(
        self, name: str, spec: ModelSpec, entries: Mapping[str, Entry], settings: Settings, old: Entry | None = None
    ) -> None:
        """Raises Conflict when the name of a model or of an adapter with it is in use; `old` is what it replaces."""
        aliases = {route.name for route in settings.routes if route.model != name}
        for each in (name, *dict(spec.adapters)):
            served = self._service.routes.get(each)
            is_taken = served is not None and (old is None or served is not old.model)
            is_known = old is None and each in entries and entries[each].state not in ("unloaded", "failed")
            if is_taken or is_known or each in aliases:
                raise Conflict(f"{each} is the name of something else that is served: load this one under another name")


def _targets(entries: Mapping[str, Entry], settings: Settings) -> Iterator[tuple[str, Target]]:
    """(name, target) of every route; of two with the same name the later one counts."""
    ready = {entry.name: entry for entry in entries.values() if entry.state == "ready"}
    for entry in ready.values():
        if entry.model is not None:
            usual = RouteSpec(entry.name, entry.name)
            own = next((route for route in settings.routes if route.name == route.model == entry.name), usual)
            yield entry.name, (own, entry.model, None)
            for name, adapter in entry.adapters.items():
                yield name, (own, entry.model, adapter)
    for route in settings.routes:
        if route.model in ready and (model := ready[route.model].model) is not None:
            yield route.name, (route, model, None)
