"""The part of the composition root that makes a Service: its model repository, and the stages around the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from tripos.build.kinds import open_any
from tripos.build.language import free_memory_bytes
from tripos.build.opened import ignore_progress
from tripos.config import (
    LIVE_SETTINGS,
    LimitsStage,
    ModelOptions,
    NeedOptions,
    RouteOptions,
    ServiceOptions,
    model_options,
)
from tripos.controls.deadline import deadline
from tripos.controls.limits import LimitsOptions, limits
from tripos.controls.priority import priority
from tripos.dialects import stage as dialects
from tripos.errors import Conflict
from tripos.pipeline.decide import decide
from tripos.repository import ModelRepository, ModelSpec, Opening, Progress, RouteSpec, Settings
from tripos.service import Service
from tripos.types import ModelCard, Priority, Stage


def build_service(options: ServiceOptions, progress: Progress = ignore_progress) -> Service:
    """Load every model and put its stages around it. Raises as load_model, and ConfigError for two equal names."""
    repository = build_repository(options)
    repository.fill(progress, lambda rows: None)
    return repository.service


def build_repository(
    options: ServiceOptions,
    read_options: Callable[[], ServiceOptions] | None = None,
    open_model: Callable[[ModelOptions], Opening] = open_any,
    free_bytes: Callable[[], int] = free_memory_bytes,
) -> ModelRepository:
    """A service whose models are still to be loaded: `fill` or `fill_beside`, whose `show` gets a table per model
    before anything is packed. `read_options` reads the configuration again."""
    total_bytes = options.server.memory or free_bytes()
    return ModelRepository(Service(), settings_of(options), _Builder(open_model, read_options), total_bytes)


def check_service(options: ServiceOptions) -> list[list[tuple[str, ...]]]:
    """A table per model that would be loaded at the start. Loads nothing; raises as build_service."""
    tables: list[list[tuple[str, ...]]] = []
    for opening, _ in build_repository(options).open_all(tables.append):
        opening.close()
    return tables


@dataclass(frozen=True)
class _Builder:
    """Implements repository.Builder."""

    open_model: Callable[[ModelOptions], Opening]
    read_options: Callable[[], ServiceOptions] | None

    def open(self, spec: ModelSpec) -> Opening:
        return self.open_model(spec.options)

    def stages(self, route: RouteSpec, card: ModelCard, settings: Settings) -> list[Stage]:
        need = NeedOptions(deadline_s=settings.options.server.max_call_s)
        return make_stages(route.options or RouteOptions(name=route.name, need=need), card)

    def spec(self, name: str, given: Mapping[str, Any], default: ModelSpec | None, source: str) -> ModelSpec:
        usual = ModelOptions(source=source) if default is None else default.options
        return _spec(model_options(name, given, usual, "options"))

    def reread(self) -> Settings:
        if self.read_options is None:
            raise Conflict("this server was started without a configuration that could be read again")
        return settings_of(self.read_options())


def settings_of(options: ServiceOptions) -> Settings:
    """What the repository reads of them."""
    server = options.server
    names = [each.name for each in fields(server) if each.name not in LIVE_SETTINGS]
    return Settings(
        models=tuple(map(_spec, options.models)),
        routes=tuple(
            RouteSpec(route.name, route.model, route.unknown_fields == "refuse", route) for route in options.routes
        ),
        memory_bytes=server.memory,
        drain_s=server.drain_s,
        model_roots=server.model_roots,
        file=options.file,
        is_default=options.is_default,
        fixed={name: getattr(server, name) for name in names},
        options=options,
    )


def _spec(options: ModelOptions) -> ModelSpec:
    return ModelSpec(options.name or options.source, options.source, options.adapters, options.preload, options)


def make_stages(route: RouteOptions, card: ModelCard) -> list[Stage]:
    """The stages of a route around its model, the outermost first."""
    stages: list[Stage] = []
    if route.need.class_ == "bulk":
        stages.append(priority(Priority.BATCH))
    for each in route.stages:
        if isinstance(each, LimitsStage):
            stages.append(limits(LimitsOptions(**asdict(each)), card.max_model_len))
        else:
            stages.append(deadline(route.need.deadline_s))
    if card.task == "generate":
        stages += [decide(), dialects.stage(card)]
    return stages
