"""The differences between two configurations that a running server applies or reports."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tripos.config.options import ModelOptions, RouteOptions, ServerOptions, ServiceOptions

LIVE = ("drain_s", "memory", "model_roots")  # settings of the server that may change while it runs


@dataclass(frozen=True)
class Change:
    """Models by name; routes and settings of the server by name only."""

    removed: tuple[str, ...]
    kept: dict[str, ModelOptions]  # the same as before
    changed: dict[str, ModelOptions]
    added: dict[str, ModelOptions]
    routes: tuple[str, ...]
    restart: tuple[str, ...]  # settings of the server whose change waits for the next start


def difference(old: ServiceOptions, new: ServiceOptions) -> Change:
    before, after = _models(old), _models(new)
    left, right = _routes(old), _routes(new)
    both = {name: options for name, options in after.items() if name in before}
    return Change(
        removed=tuple(name for name in before if name not in after),
        kept={name: options for name, options in both.items() if options == before[name]},
        changed={name: options for name, options in both.items() if options != before[name]},
        added={name: options for name, options in after.items() if name not in before},
        routes=tuple(name for name in {**left, **right} if left.get(name) != right.get(name)),
        restart=tuple(
            each.name
            for each in fields(ServerOptions)
            if each.name not in LIVE and getattr(old.server, each.name) != getattr(new.server, each.name)
        ),
    )


def _models(options: ServiceOptions) -> dict[str, ModelOptions]:
    return {each.name or each.source: each for each in options.models}


def _routes(options: ServiceOptions) -> dict[str, RouteOptions]:
    return {each.name: each for each in options.routes}
