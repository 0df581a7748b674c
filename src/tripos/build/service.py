"""The part of the composition root that makes a Service: models, the stages around them, routes.

The only place where all parts meet. Prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from tripos.build.language import Progress, free_memory_bytes, ignore_progress, open_any
from tripos.config import LimitsStage, RouteOptions, ServiceOptions
from tripos.controls.deadline import deadline
from tripos.controls.limits import LimitsOptions, limits
from tripos.controls.priority import priority
from tripos.dialects import stage as dialects
from tripos.engine.adapter_slots import AdapterModel
from tripos.engine.llm import LanguageModel
from tripos.pipeline.decide import decide
from tripos.repository import Parts, Residents
from tripos.service import Service
from tripos.types import Model, Priority, Stage


def build_service(options: ServiceOptions, progress: Progress = ignore_progress) -> Service:
    """Load every model and put its stages around it. Raises as load_model, and ConfigError for two equal names."""
    residents = build_residents(options)
    residents.fill(progress, lambda rows: None)
    return residents.service


def build_residents(options: ServiceOptions, read_options: Callable[[], ServiceOptions] | None = None) -> Residents:
    """A service whose models are still to be loaded: `fill` or `fill_beside`, whose `show` gets a table per model
    before anything is packed. `read_options` reads the configuration again."""
    return Residents(Service(), options, Parts(open_any, make_stages, free_memory_bytes, read_options))


def check_service(options: ServiceOptions) -> list[list[tuple[str, ...]]]:
    """A table per model that would be loaded at the start. Loads nothing; raises as build_service."""
    tables: list[list[tuple[str, ...]]] = []
    openings = Residents(Service(), options, Parts(open_any, make_stages, free_memory_bytes)).open_all(tables.append)
    for opening, _ in openings:
        opening.close()
    return tables


def make_stages(route: RouteOptions, model: Model) -> list[Stage]:
    """The stages of a route around its model, the outermost first."""
    stages: list[Stage] = []
    if route.need.class_ == "bulk":
        stages.append(priority(Priority.BATCH))
    for each in route.stages:
        if isinstance(each, LimitsStage):
            stages.append(limits(LimitsOptions(**asdict(each)), model.card.max_model_len))
        else:
            stages.append(deadline(route.need.deadline_s))
    if isinstance(model, (LanguageModel, AdapterModel)):
        stages.append(decide(model.tokenizer))
    if model.card.task == "generate":
        stages.append(dialects.stage(model.card))
    return stages
