"""Which models are in memory: load, unload and reload them while the others answer, within one memory budget.

Owns the budget and each model's state. One change at a time, in the order in which they were asked for; files are read
and packed on a thread of its own. Knows a model only as something to open, start, stop and close.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from tripos.config import Change, ModelOptions, RouteOptions, ServiceOptions, difference, model_options
from tripos.engine.memory import mib, share
from tripos.errors import (
    ConfigError,
    Conflict,
    ModelRefused,
    NotFound,
    PermissionDenied,
    RequestFailed,
    TriposError,
)
from tripos.service import Service
from tripos.types import Model, Stage
from tripos.wire.json import shown

log = logging.getLogger(__name__)

State = Literal["unloaded", "loading", "ready", "draining", "failed"]
Progress = Callable[[str, float], None]
Table = list[tuple[str, ...]]
Value = TypeVar("Value")

CUT_OFF_S = 2.0  # for the last events of calls that did not end in time


class Opening(Protocol):
    """A model whose files were checked, before it takes memory."""

    @property
    def name(self) -> str: ...
    @property
    def min_bytes(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...  # more would lie idle
    @property
    def fixed_bytes(self) -> int: ...  # what its options say; 0: a share
    def held_bytes(self, memory_bytes: int) -> int: ...
    def rows(self, memory_bytes: int) -> Table: ...
    def load_models(self, memory_bytes: int, progress: Progress) -> Sequence[Model]:
        """The model, and after it what is served on top of it under names of its own (adapters)."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Parts:
    """What the composition root gives."""

    open_model: Callable[[ModelOptions], Opening]
    make_stages: Callable[[RouteOptions, Model], Sequence[Stage]]
    free_memory_bytes: Callable[[], int]
    read_options: Callable[[], ServiceOptions] | None = None  # anew, for reread


@dataclass(eq=False)
class Resident:
    """One model that the configuration names or an admin loaded. `models`: itself, then its adapters."""

    name: str
    options: ModelOptions
    state: State = "unloaded"
    models: tuple[Model, ...] = ()
    held_bytes: int = 0
    error: str = ""
    since_s: float = field(default_factory=time.time)

    def enter(self, state: State, error: str = "") -> None:
        self.state, self.error, self.since_s = state, error, time.time()


class Residents:
    """Implements service.Residents. The async methods belong to the service's event loop."""

    def __init__(self, service: Service, options: ServiceOptions, parts: Parts) -> None:
        self._service, self._options, self._parts = service, options, parts
        self._total_bytes = options.server.memory or parts.free_memory_bytes()
        self._residents: dict[str, Resident] = {}
        self._retiring: list[Resident] = []  # replaced, with calls in flight
        self._routed: set[str] = set()  # routes of the service that are our work
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tripos-load")
        service.residents = self

    @property
    def _declared(self) -> set[str]:
        """Names of models that the configuration knows; they stay listed when they are not loaded."""
        return {options.name or options.source for options in self._options.models}

    @property
    def free_bytes(self) -> int:
        held = sum(each.held_bytes for each in (*self._residents.values(), *self._retiring))
        return self._total_bytes - held

    # -- at the start -----------------------------------------------------------------------------------------------
    def fill(self, progress: Progress, show: Callable[[Table], None]) -> None:
        """Load what the options name, before the service starts. Raises as `open_all`."""
        progress("open", 0.0)
        for opening, num_bytes in self.open_all(show):
            resident = self._residents[opening.name]
            resident.models = tuple(opening.load_models(num_bytes, progress))
            resident.held_bytes = opening.held_bytes(num_bytes)
            resident.enter("ready")
        self._route()

    def open_all(self, show: Callable[[Table], None]) -> list[tuple[Opening, int]]:
        """What is to be loaded, with its memory; `show` gets each model's table.

        Raises ModelRefused (damaged, or they do not fit together), ConfigError, EnvironmentProblem.
        """
        openings: list[Opening] = []
        for options in self._options.models:
            name = options.name or options.source
            if options.preload:
                openings.append(self._parts.open_model(options))
                name = openings[-1].name
            if name in self._residents:
                raise ConfigError(f"two models are named {name}: serve one of them under another name")
            self._residents[name] = Resident(name, options)
        shares = list(zip(openings, self._shares(openings), strict=True))
        for opening, num_bytes in shares:
            show(opening.rows(num_bytes))
        return shares

    def _shares(self, openings: Sequence[Opening]) -> list[int]:
        if len(openings) == 1:  # whose own error says more
            return [openings[0].fixed_bytes or self._total_bytes]
        return share(self._total_bytes, openings)

    # -- what doors ask ---------------------------------------------------------------------------------------------
    def is_loading(self, name: str) -> bool:
        target = next((route.model for route in self._options.routes if route.name == name), name)
        resident = self._residents.get(target)
        return resident is not None and resident.state == "loading"

    def states(self) -> dict[str, str]:
        return {name: resident.state for name, resident in self._residents.items()}

    def describe(self) -> dict[str, Any]:
        everyone = (*self._residents.values(), *self._retiring)
        total, free = self._total_bytes, self.free_bytes
        return {
            "models": [self._describe(resident) for resident in everyone],
            "memory": {"total_bytes": total, "reserved_bytes": total - free, "free_bytes": free},
        }

    async def load(self, name: str, source: str, options: dict[str, Any]) -> dict[str, Any]:
        """A model that is not in memory: one that the configuration names, or `source`. Raises TriposError."""
        return await self._alone(self._load(name, source, options))

    async def reload(self, name: str, source: str, options: dict[str, Any]) -> dict[str, Any]:
        """Load a model anew beside itself, switch its routes, drain and free the old one. Raises TriposError, and then
        the old one goes on."""
        return await self._alone(self._reload(name, source, options))

    async def unload(self, name: str) -> dict[str, Any]:
        """Take no more calls, let those in flight end (drain_s), free the memory. Raises NotFound."""
        return await self._alone(self._unload(name))

    async def reread(self) -> dict[str, Any]:
        """Read the configuration again and do what it says now. When it or a new model in it is wrong: raises, and
        nothing has changed."""
        return await self._alone(self._reread())

    async def stop(self) -> None:
        """End what is being done. The models themselves are the service's to stop. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.shutdown(wait=False)

    # -- changes ----------------------------------------------------------------------------------------------------
    async def _load(self, name: str, source: str, given: dict[str, Any]) -> dict[str, Any]:
        known = self._residents.get(name)
        if known is not None and known.state not in ("unloaded", "failed"):
            raise Conflict(f"{name} is {known.state}: reload it, or unload it first")
        if known is None and not source:
            raise NotFound(f"no model is named {shown(name)} in the configuration: give its source", param="source")
        default = known.options if known and not source else ModelOptions(source=self._allowed(source))
        options = model_options(name, given, default, "options")
        opening = await self._open(options)
        with _closing_on_error(opening):
            if self._state(opening.name) not in ("unloaded", "failed", None):
                raise Conflict(f"{opening.name} is served already: load this one under another name")
            memory_bytes = self._reserve(opening)
        resident = Resident(opening.name, options)
        await self._bring_in(resident, opening, memory_bytes)
        return self._describe(resident)

    async def _bring_in(self, resident: Resident, opening: Opening, memory_bytes: int) -> None:
        resident.held_bytes = opening.held_bytes(memory_bytes)
        resident.enter("loading")
        self._residents[resident.name] = resident
        try:
            resident.models = await self._start(opening, memory_bytes)
        except BaseException as error:
            resident.held_bytes = 0
            resident.enter("failed", error.message if isinstance(error, TriposError) else "it was interrupted")
            raise
        resident.enter("ready")
        self._route()

    async def _reload(self, name: str, source: str, given: dict[str, Any]) -> dict[str, Any]:
        old = self._get(name)
        if old.state != "ready":
            raise Conflict(f"{name} is {old.state}: load it instead")
        self._check_free(old)
        default = old.options if not source else ModelOptions(source=self._allowed(source))
        options = model_options(name, given, default, "options")
        opening = await self._open(options)
        with _closing_on_error(opening):
            memory_bytes = self._reserve(opening, old)
        return self._describe(await self._swap(old, options, opening, memory_bytes))

    async def _swap(self, old: Resident, options: ModelOptions, opening: Opening, memory_bytes: int) -> Resident:
        new = Resident(old.name, options, held_bytes=opening.held_bytes(memory_bytes))
        self._retiring.append(new)  # its memory counts
        try:
            new.models = await self._start(opening, memory_bytes)
        finally:
            self._retiring.remove(new)
        new.enter("ready")
        old.enter("draining")
        self._residents[old.name] = new
        self._retiring.append(old)
        self._route()
        try:
            await self._retire(old)
        finally:
            self._retiring.remove(old)
        return new

    async def _unload(self, name: str) -> dict[str, Any]:
        resident = self._get(name)
        if resident.state == "unloaded":
            raise Conflict(f"{name} is not loaded")
        num_cut_off = 0
        if resident.state == "ready":
            self._check_free(resident)
            resident.enter("draining")
            self._route()
            num_cut_off = await self._retire(resident)
        resident.enter("unloaded")
        if name not in self._declared:
            del self._residents[name]
        return {"name": name, "state": "unloaded", "num_cut_off": num_cut_off}

    async def _retire(self, resident: Resident) -> int:
        """Wait for the calls of a model without routes, then free it. Returns how many were cut off."""
        num_cut_off = 0
        try:
            try:
                async with asyncio.timeout(self._options.server.drain_s):
                    for model in resident.models:
                        await self._service.wait_idle(model)
            except TimeoutError:
                num_cut_off = sum(self._service.num_on(model) for model in resident.models)
                log.warning("%s: %d calls had not ended and are cut off", resident.name, num_cut_off)
        finally:
            models, resident.models = resident.models, ()
            await self._end(models)
            resident.held_bytes = 0
        return num_cut_off

    async def _reread(self) -> dict[str, Any]:
        if self._parts.read_options is None:
            raise Conflict("this server was started without a configuration that could be read again")
        options = await self._work(self._parts.read_options)
        change = difference(self._options, options)
        openings: dict[str, Opening] = {}
        try:
            for name, model in self._wanted(change).items():
                openings[name] = await self._open(model)
            memory = self._preview(change, openings, options.server.memory or self._total_bytes)
        except Exception:
            for opening in openings.values():
                opening.close()
            raise
        return await self._apply(change, options, openings, memory)

    def _wanted(self, change: Change) -> dict[str, ModelOptions]:
        """Models that must be loaded, also those that failed before and may have been repaired."""
        found = {name: options for name, options in change.changed.items() if self._state(name) == "ready"}
        fresh = {**change.changed, **change.added, **change.kept}
        for name, options in fresh.items():
            is_due = self._state(name) == "failed" or name not in change.kept
            if options.preload and is_due and name not in found:
                found[name] = options
        return found

    def _preview(self, change: Change, openings: dict[str, Opening], total_bytes: int) -> dict[str, int]:
        """What each new model may take, in the order of `_apply`. Raises Conflict when it will not work out."""
        for name in change.added:
            if self._state(name) not in (None, "failed"):
                raise Conflict(f"{name} was loaded at run time, and the configuration names another: unload it first")
        for name in (*change.removed, *change.changed):
            self._check_free(self._residents[name])
        free = self.free_bytes + total_bytes - self._total_bytes
        free += sum(self._residents[name].held_bytes for name in change.removed)
        if free < 0:
            raise Conflict(f"memory = {mib(total_bytes)} is {mib(-free)} less than what is taken: unload a model first")
        memory: dict[str, int] = {}
        for name, opening in openings.items():
            old = self._residents.get(name) if self._state(name) == "ready" else None
            memory[name] = self._reserve(opening, old, free)
            free += (old.held_bytes if old else 0) - opening.held_bytes(memory[name])
        return memory

    async def _apply(
        self, change: Change, options: ServiceOptions, openings: dict[str, Opening], memory: dict[str, int]
    ) -> dict[str, Any]:
        """A model that fails only now, at packing, is reported; the others are not held up."""
        self._options = options
        self._total_bytes = options.server.memory or self._total_bytes
        for name in change.removed:
            if self._residents[name].state == "ready":
                await self._unload(name)
            self._residents.pop(name, None)
        done: dict[str, list[str]] = {"loaded": [], "reloaded": []}
        failed: dict[str, str] = {}
        for name, model in {**change.changed, **change.added}.items():
            if name not in openings:
                self._residents[name] = Resident(name, model)
        for name, opening in openings.items():
            model = {**change.kept, **change.changed, **change.added}[name]
            old = self._residents.get(name)
            try:
                if old is not None and old.state == "ready":
                    await self._swap(old, model, opening, memory[name])
                    done["reloaded"].append(name)
                else:
                    await self._bring_in(Resident(name, model), opening, memory[name])
                    done["loaded"].append(name)
            except TriposError as error:
                failed[name] = error.message
        self._route(again=True)
        lists = {"unloaded": change.removed, "routes": change.routes, "needs_restart": change.restart}
        return {**done, **{name: list(each) for name, each in lists.items()}, "failed": failed}

    # -- steps of a change ------------------------------------------------------------------------------------------
    async def _alone(self, change: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Run a change after those before it. It goes on when whoever asked has left."""

        async def run() -> dict[str, Any]:
            try:
                async with self._changing:
                    return await change
            finally:
                change.close()

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("a change of the models failed: %s", task.exception())

    async def _work(self, function: Callable[..., Value], *arguments: Any) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _open(self, options: ModelOptions) -> Opening:
        return await self._work(_told, self._parts.open_model, options)

    async def _start(self, opening: Opening, memory_bytes: int) -> tuple[Model, ...]:
        """Load and start. On failure nothing is left."""
        with _closing_on_error(opening):
            models = tuple(await self._work(_told, opening.load_models, memory_bytes, _ignore))
        try:
            for model in models:
                await model.start()
        except BaseException:
            await self._end(models)
            raise
        return models

    async def _end(self, models: Sequence[Model]) -> None:
        """Stop and close, adapters before what they stand on."""
        for model in reversed(models):
            await model.stop()
        for model in models:
            try:
                async with asyncio.timeout(CUT_OFF_S):
                    await self._service.wait_idle(model)
            except TimeoutError:
                log.warning("%s: calls are still in flight after it was stopped", model.card.name)
        for model in reversed(models):
            close = getattr(model, "close", None)
            if close is not None:
                await self._work(close)

    def _reserve(self, opening: Opening, old: Resident | None = None, free_bytes: int | None = None) -> int:
        """How much memory a model may take; a reload as much as the version before, beside it. Raises Conflict."""
        free = self.free_bytes if free_bytes is None else free_bytes
        usual = old.held_bytes if old is not None else free
        wanted = opening.fixed_bytes or max(opening.min_bytes, min(opening.max_bytes, usual))
        if wanted <= free:
            return wanted
        held = {each.name: each.held_bytes for each in self._residents.values() if each.held_bytes}
        listed = ", ".join(f"{name} ({mib(num)})" for name, num in held.items()) or "none"
        if old is not None:
            raise Conflict(
                f"{opening.name} needs {mib(wanted)} beside the version that serves, {mib(free)} of "
                f"{mib(self._total_bytes)} are free: unload another model ({listed}), give this one less memory, "
                "or unload it and load it again"
            )
        raise Conflict(
            f"{opening.name} needs {mib(wanted)}, {mib(free)} of {mib(self._total_bytes)} are free: "
            f"unload one of {listed}, or give it less memory"
        )

    def _allowed(self, source: str) -> str:
        """A source that may be loaded at run time. Raises PermissionDenied."""
        if source.startswith("demo:") or source in {options.source for options in self._options.models}:
            return source
        roots = [Path(root).resolve() for root in self._options.server.model_roots]
        try:
            path = Path(source).resolve()
        except (ValueError, OSError, RuntimeError):  # a NUL byte, a loop of links
            raise PermissionDenied("source: this is no path that could be opened", param="source") from None
        if not any(path.is_relative_to(root) for root in roots):
            raise PermissionDenied(
                f"source {shown(source)}: models are loaded at run time from below model_roots, or when the "
                "configuration names them: add its directory there",
                param="source",
            )
        return str(path)

    def _route(self, again: bool = False) -> None:
        """Make our routes of the service those of the models that are ready, in one go. `again`: with new stages."""
        wanted: dict[str, tuple[Model, RouteOptions]] = {}
        for resident in self._residents.values():
            if resident.state == "ready":
                wanted |= {model.card.name: (model, RouteOptions(name=model.card.name)) for model in resident.models}
        for route in self._options.routes:
            target = self._residents.get(route.model)
            if target is not None and target.state == "ready":
                wanted[route.name] = (target.models[0], route)
        current = self._service.routes
        for name in self._routed - set(wanted):
            self._service.remove(name)
        for name, (model, route) in wanted.items():
            if name not in current:
                self._service.add(model, self._parts.make_stages(route, model), name)
            elif again or current[name] is not model:
                self._service.replace(name, model, self._parts.make_stages(route, model))
        self._routed = set(wanted)

    def _check_free(self, resident: Resident) -> None:
        """Raises Conflict while others that we do not know stand on a model: adapters that came after it."""
        mine = resident.models
        above = [each.card.name for each in self._service.models if each not in mine and _stands_on(each) in mine]
        if above:
            raise Conflict(f"{resident.name} carries {', '.join(above)}: unload them first")

    def _get(self, name: str) -> Resident:
        resident = self._residents.get(name)
        if resident is None:
            known = ", ".join(self._residents) or "none"
            raise NotFound(f"no model is named {shown(name)}; there are: {known}", code="model_not_found", param="name")
        return resident

    def _state(self, name: str) -> State | None:
        resident = self._residents.get(name)
        return resident.state if resident is not None else None

    def _describe(self, resident: Resident) -> dict[str, Any]:
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


def _ignore(phase: str, done: float) -> None:
    """Nobody watches a load at run time."""


@contextmanager
def _closing_on_error(opening: Opening) -> Iterator[None]:
    """Not when we are cancelled: then a thread still reads the files."""
    try:
        yield
    except Exception:
        opening.close()
        raise


def _told(function: Callable[..., Value], *arguments: Any) -> Value:
    """What goes wrong with a model's files, as an error for whoever asked for it."""
    try:
        return function(*arguments)
    except TriposError as error:
        if error.status < 500:
            raise
        raise Conflict(error.message) from error
    except MemoryError:
        raise Conflict("the machine has too little memory for this model: unload another one") from None
    except OSError as error:
        raise ModelRefused(f"a file of the model cannot be read: {error.strerror}") from error
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic in a library arrives as BaseException
        log.exception("a model could not be loaded: this is a bug in Tripos")
        raise RequestFailed(f"the model could not be loaded: {type(error).__name__}") from error
