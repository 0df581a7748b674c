"""The service's routes to the repository's models, and what it is told of those that are not there."""

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
    """Those of one service that are the repository's. Nothing here waits: a change is seen at once or not at all."""

    def __init__(self, service: Service, builder: Builder) -> None:
        self._service = service
        self._builder = builder
        self._routed: dict[str, tuple[Model, Adapter | None]] = {}  # by name

    def update(self, entries: Mapping[str, Entry], settings: Settings, *, again: bool = False) -> None:
        """Routes to every model that is ready and to its adapters, in one go. `again`: with new stages."""
        wanted = dict(_targets(entries, settings))
        service = self._service
        for name in (self._routed.keys() - wanted.keys()) & service.routes.keys():
            service.remove(name)
        for name, (route, model, adapter) in wanted.items():
            is_there = name in service.routes
            if is_there and not again and self._routed.get(name) == (model, adapter):
                continue
            card = model.card if adapter is None else adapter.card
            stages = (*self._builder.stages(route, card, settings), *([adapter.stage] if adapter else []))
            put = service.replace if is_there else service.add
            put(name=name, model=model, stages=stages, card=card, is_strict=route.is_strict)
        self._routed = {name: (model, adapter) for name, (_, model, adapter) in wanted.items()}

    def announce(self, entries: Mapping[str, Entry], settings: Settings) -> None:
        """Tell the service every model's state, and which routes are on their way."""
        states = {name: entry.state for name, entry in entries.items()}
        loading = {name for name, state in states.items() if state == "loading"}
        aliases = {route.name for route in settings.routes if route.model in loading}
        self._service.announce(states, frozenset(loading | aliases))

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
    """The later ones of a name count."""
    ready = {entry.name: entry for entry in entries.values() if entry.state == "ready"}
    for entry in ready.values():
        if entry.model is not None:
            own = settings.route_of(entry.name)
            yield entry.name, (own, entry.model, None)
            for name, adapter in entry.adapters.items():
                yield name, (own, entry.model, adapter)
    for route in settings.routes:
        if route.model in ready and (model := ready[route.model].model) is not None:
            yield route.name, (route, model, None)
