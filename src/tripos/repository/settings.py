"""The settings that the repository reads, and the Builder that opens models and makes stages for it.

The composition root converts its own options into these; the originals are carried along in `options`, unread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tripos.errors import PermissionDenied, shown
from tripos.repository.entry import Opening
from tripos.types import ModelCard, Stage


@dataclass(frozen=True)
class ModelSpec:
    """One model. Two that are equal need no reload. `adapters`: (name, directory) of those to load with it."""

    name: str
    source: str
    adapters: tuple[tuple[str, str], ...] = ()
    is_preloaded: bool = True
    options: Any = None  # the builder's


@dataclass(frozen=True)
class RouteSpec:
    """A name that clients ask for, the model at its end, and the stages between them."""

    name: str
    model: str
    is_strict: bool = False
    options: Any = None  # the builder's


@dataclass(frozen=True)
class Settings:
    """`file`: what they were read from, if any. `is_default`: no model was configured. `fixed`: settings of the
    server that take effect only at a restart, by name."""

    models: tuple[ModelSpec, ...] = ()
    routes: tuple[RouteSpec, ...] = ()
    memory_bytes: int = 0  # 0: what is free at the start
    drain_s: float = 30.0
    model_roots: tuple[str, ...] = ()
    file: str = ""
    is_default: bool = False
    fixed: Mapping[str, Any] = field(default_factory=dict)
    options: Any = None  # the builder's

    @property
    def declared(self) -> set[str]:
        """Names of models that stay listed when they are not loaded."""
        return {model.name for model in self.models}

    @property
    def aliases(self) -> dict[str, str]:
        """Route → the model at its end."""
        return {route.name: route.model for route in self.routes}

    def check_source(self, source: str, param: str = "source") -> str:
        """A source, or an adapter's directory, that may be loaded at run time. Raises PermissionDenied."""
        named = {path for model in self.models for _, path in (("", model.source), *model.adapters)}
        if source.startswith("demo:") or source in named:
            return source
        roots = [Path(root).resolve() for root in self.model_roots]
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


class Builder(Protocol):
    """What the repository asks of the composition root. All methods raise TriposError."""

    def open(self, spec: ModelSpec) -> Opening:
        """Read and check a model's files. From any thread."""

    def stages(self, route: RouteSpec, card: ModelCard, settings: Settings) -> Sequence[Stage]:
        """The stages of a route around its model, the outermost first."""

    def spec(self, name: str, given: Mapping[str, Any], default: ModelSpec | None, source: str) -> ModelSpec:
        """A model as a request describes it: settings over those of `default`, or over the usual ones of `source`."""

    def reread(self) -> Settings:
        """Read the configuration again. From any thread."""
