"""The room that models share: who is in it, in which state, with how much memory, under which routes.

Bookkeeping only: nothing here waits, so that every change of routes is seen at once or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tripos.config import ModelOptions, NeedOptions, RouteOptions, ServiceOptions
from tripos.engine.memory import mib
from tripos.errors import Conflict, NotFound, PermissionDenied, shown
from tripos.repository.entry import Opening, Resident, State
from tripos.service import Service
from tripos.types import Model, Stage


class Room:
    """`residents`: by name; `retiring`: versions that were replaced or are on their way in, whose memory counts."""

    def __init__(
        self,
        service: Service,
        options: ServiceOptions,
        total_bytes: int,
        make_stages: Callable[[RouteOptions, Model], Sequence[Stage]],
    ) -> None:
        self.options = options
        self.total_bytes = total_bytes
        self.residents: dict[str, Resident] = {}
        self.retiring: list[Resident] = []
        self._service = service
        self._make_stages = make_stages
        self._routed: set[str] = set()  # routes of the service that are our work

    @property
    def free_bytes(self) -> int:
        held = sum(each.held_bytes for each in (*self.residents.values(), *self.retiring))
        return self.total_bytes - held

    @property
    def declared(self) -> set[str]:
        """Names of models that the configuration knows; they stay listed when they are not loaded."""
        return {options.name or options.source for options in self.options.models}

    def is_loading(self, name: str) -> bool:
        target = next((route.model for route in self.options.routes if route.name == name), name)
        resident = self.residents.get(target)
        return resident is not None and resident.state == "loading"

    def states(self) -> dict[str, str]:
        return {name: resident.state for name, resident in self.residents.items()}

    def describe_all(self) -> dict[str, Any]:
        everyone = (*self.residents.values(), *self.retiring)
        total, free = self.total_bytes, self.free_bytes
        return {
            "models": [self.describe(resident) for resident in everyone],
            "memory": {"total_bytes": total, "reserved_bytes": total - free, "free_bytes": free},
        }

    def get(self, name: str) -> Resident:
        resident = self.residents.get(name)
        if resident is None:
            known = ", ".join(self.residents) or "none"
            raise NotFound(f"no model is named {shown(name)}; there are: {known}", code="model_not_found", param="name")
        return resident

    def state(self, name: str) -> State | None:
        resident = self.residents.get(name)
        return resident.state if resident is not None else None

    def reserve(self, opening: Opening, old: Resident | None = None, free_bytes: int | None = None) -> int:
        """How much memory a model may take; a reload as much as the version before, beside it. Raises Conflict."""
        free = self.free_bytes if free_bytes is None else free_bytes
        usual = old.held_bytes if old is not None else free
        wanted = opening.fixed_bytes or max(opening.min_bytes, min(opening.max_bytes, usual))
        if wanted <= free:
            return wanted
        held = {each.name: each.held_bytes for each in self.residents.values() if each.held_bytes}
        listed = ", ".join(f"{name} ({mib(num)})" for name, num in held.items()) or "none"
        if old is not None:
            raise Conflict(
                f"{opening.name} needs {mib(wanted)} beside the version that serves, {mib(free)} of "
                f"{mib(self.total_bytes)} are free: unload another model ({listed}), give this one less memory, "
                "or unload it and load it again"
            )
        raise Conflict(
            f"{opening.name} needs {mib(wanted)}, {mib(free)} of {mib(self.total_bytes)} are free: "
            f"unload one of {listed}, or give it less memory"
        )

    def allowed(self, source: str, param: str = "source") -> str:
        """A source (or an adapter's directory) that may be loaded at run time. Raises PermissionDenied."""
        named = {path for options in self.options.models for _, path in (("", options.source), *options.adapters)}
        if source.startswith("demo:") or source in named:
            return source
        roots = [Path(root).resolve() for root in self.options.server.model_roots]
        try:
            path = Path(source).resolve()
        except (ValueError, OSError, RuntimeError):  # a NUL byte, a loop of links
            raise PermissionDenied(f"{param}: this is no path that could be opened", param=param) from None
        if not any(path.is_relative_to(root) for root in roots):
            raise PermissionDenied(
                f"{param} {shown(source)}: models and adapters are loaded at run time from below model_roots, or when "
                "the configuration names them: add its directory there",
                param=param,
            )
        return str(path)

    def route(self, again: bool = False) -> None:
        """Make our routes of the service those of the models that are ready, in one go. `again`: with new stages."""
        wanted: dict[str, tuple[Model, RouteOptions]] = {}
        need = NeedOptions(deadline_s=self.options.server.max_call_s)
        for resident in self.residents.values():
            if resident.state == "ready":
                for model in resident.models:
                    if getattr(model, "is_loaded", True):  # an adapter may have been unloaded since
                        wanted[model.card.name] = (model, RouteOptions(name=model.card.name, need=need))
        for route in self.options.routes:
            target = self.residents.get(route.model)
            if target is not None and target.state == "ready":
                wanted[route.name] = (target.models[0], route)
        current = self._service.routes
        for name in (self._routed - set(wanted)) & set(current):
            self._service.remove(name)
        for name, (model, route) in wanted.items():
            is_strict = route.unknown_fields == "refuse"
            if name not in current:
                self._service.add(model, self._make_stages(route, model), name, is_strict=is_strict)
            elif again or current[name] is not model:
                self._service.replace(name, model, self._make_stages(route, model), is_strict=is_strict)
        self._routed = set(wanted)

    def check_names(self, name: str, options: ModelOptions, old: Resident | None = None) -> None:
        """Raises Conflict when the name of a model or of an adapter with it is in use; `old` is what it replaces."""
        aliases = {route.name for route in self.options.routes if route.model != name}
        for each in (name, *dict(options.adapters)):
            served = self._service.routes.get(each)
            is_taken = served is not None and (old is None or served not in old.models)
            if is_taken or each in aliases or (old is None and self.state(each) not in ("unloaded", "failed", None)):
                raise Conflict(f"{each} is the name of something else that is served: load this one under another name")

    def check_free(self, resident: Resident) -> None:
        """Raises Conflict while others that we do not know stand on a model: adapters that came after it."""
        mine = resident.models
        above = [each.card.name for each in self._service.models if each not in mine and _stands_on(each) in mine]
        if above:
            raise Conflict(f"{resident.name} carries {', '.join(above)}: unload them first")

    def describe(self, resident: Resident) -> dict[str, Any]:
        routes = self._service.routes
        return {
            "name": resident.name,
            "state": resident.state,
            "source": resident.options.source,
            "error": resident.error,
            "memory_bytes": resident.held_bytes,
            "num_in_flight": sum(self._service.num_on(model) for model in resident.models),
            "routes": [name for name, model in routes.items() if model in resident.models],
            "digest": resident.models[0].card.digest if resident.models else "",
            "max_model_len": resident.models[0].card.max_model_len if resident.models else 0,
            "since": int(resident.since_s),
        }


def _stands_on(model: Model) -> Model | None:
    """The model below an adapter."""
    base: Model | None = getattr(model, "base", None)
    return base
