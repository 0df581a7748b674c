"""The model repository: load, unload and reload models and adapters while the others answer, within one budget.

Owns every entry, its state, its adapters and its share of the memory; the only writer of them, and of its routes of the
service. One change at a time, in the order in which they were asked for; files are read and packed on a thread of its
own. Knows a model only as something to open, load, start, stop and close.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tripos.errors import ConfigError, Conflict, NotFound, TriposError, shown
from tripos.pipeline.chain import result_of
from tripos.repository.adapter import check_adapter_name, find_adapted
from tripos.repository.budget import Budget, shares
from tripos.repository.entry import (
    Entry,
    Opening,
    Progress,
    State,
    Table,
    Value,
    closing_on_error,
    ignore_progress,
    run_loader,
)
from tripos.repository.reread import Plan, change_of, check_carries_none, check_plan, plan_of
from tripos.repository.routes import Routes
from tripos.repository.settings import Builder, ModelSpec, Settings
from tripos.service import Service
from tripos.types import Call, LoadAdapter, Request, Result, UnloadAdapter

log = logging.getLogger(__name__)

CUT_OFF_S = 2.0  # for the last events of calls that did not end in time


class ModelRepository:
    """The models of one service. Async methods run on the service's event loop and raise TriposError."""

    def __init__(self, service: Service, settings: Settings, builder: Builder, total_bytes: int) -> None:
        self.service = service
        self.settings = settings
        self.total_bytes = settings.memory_bytes or total_bytes
        self.entries: dict[str, Entry] = {}
        self.retiring: list[Entry] = []  # versions that are being replaced or loaded; their memory counts
        self._builder = builder
        self._routes = Routes(service, builder)
        self._turn = asyncio.Lock()  # held while a change is made: one at a time
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tripos-load")

    # -- at the start -----------------------------------------------------------------------------------------------
    def fill(self, progress: Progress, show: Callable[[Table], None]) -> None:
        """Load what the settings name, before the service starts. Raises as `open_all`."""
        self._load_all(progress, show, lambda name: None)
        self._routes.update(self.entries, self.settings)

    async def fill_beside(
        self, progress: Progress, show: Callable[[Table], None], loaded: Callable[[str], None]
    ) -> None:
        """The same on a thread, while the event loop turns, and start the service. `progress`, `show` and `loaded` are
        called on the thread."""
        async with self._turn:
            await self._work(self._load_all, progress, show, loaded)
            self._routes.update(self.entries, self.settings)
            await self.service.start()

    def _load_all(self, progress: Progress, show: Callable[[Table], None], loaded: Callable[[str], None]) -> None:
        progress("open", 0.0)
        for opening, num_bytes in self.open_all(show):
            entry = self.entries[opening.name]
            entry.put(opening.load(num_bytes, progress))
            entry.held_bytes = opening.held_bytes(num_bytes)
            entry.enter("ready")
            self.service.announce(self.states(), self.settings.aliases)
            loaded(entry.name)

    def open_all(self, show: Callable[[Table], None]) -> list[tuple[Opening, int]]:
        """What is to be loaded, with its memory; `show` gets each model's table.

        Raises ModelRefused (damaged, or they do not fit together), ConfigError, EnvironmentProblem.
        """
        openings: list[Opening] = []
        served: list[str] = []
        found: dict[str, Entry] = {}
        for spec in self.settings.models:
            name = spec.name
            if spec.is_preloaded:
                openings.append(self._builder.open(spec))
                name = openings[-1].name
            served.extend((name, *dict(spec.adapters)))
            if len(set(served)) < len(served):
                raise ConfigError(f"two models or adapters are named {name}: serve one of them under another name")
            found[name] = Entry(name, spec, "loading" if spec.is_preloaded else "unloaded")
        self.entries = found
        self.service.announce(self.states(), self.settings.aliases)
        opened = list(zip(openings, shares(self.total_bytes, openings), strict=True))
        for opening, num_bytes in opened:
            show(opening.rows(num_bytes))
        return opened

    # -- what doors ask ---------------------------------------------------------------------------------------------
    def states(self) -> dict[str, str]:
        return {name: entry.state for name, entry in self.entries.items()}

    def describe(self) -> dict[str, Any]:
        everyone = (*self.entries.values(), *self.retiring)
        total, free = self.total_bytes, self.budget.free_bytes
        return {
            "models": [entry.describe(self.service) for entry in everyone],
            "memory": {"total_bytes": total, "reserved_bytes": total - free, "free_bytes": free},
        }

    @property
    def budget(self) -> Budget:
        held = sum(entry.held_bytes for entry in (*self.entries.values(), *self.retiring))
        by_name = {entry.name: entry.held_bytes for entry in self.entries.values()}
        return Budget(self.total_bytes, self.total_bytes - held, by_name)

    def _entry(self, name: str) -> Entry:
        entry = self.entries.get(name)
        if entry is None:
            known = ", ".join(self.entries) or "none"
            raise NotFound(f"no model is named {shown(name)}; there are: {known}", code="model_not_found", param="name")
        return entry

    def _enter(self, entry: Entry, state: State, error: str = "") -> None:
        """Set the state of an entry and update the routes that depend on it."""
        entry.enter(state, error)
        self._routes.update(self.entries, self.settings)

    # -- models -----------------------------------------------------------------------------------------------------
    async def load(self, name: str, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """A model that is not in memory: one that the configuration names, or `source`."""
        return await self._complete(self._load(name, source, options))

    async def reload(self, name: str, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """Load a model anew beside itself, switch its routes, drain and free the old one; when that fails the old one
        goes on."""
        return await self._complete(self._reload(name, source, options))

    async def unload(self, name: str) -> dict[str, Any]:
        """Take no more calls, let those in flight end (drain_s), free the memory."""
        return await self._complete(self._unload(name))

    async def reread(self) -> dict[str, Any]:
        """Read the configuration again and do what it says now. When it or a new model in it is wrong: raises, and
        nothing has changed."""
        return await self._complete(self._reread())

    async def stop(self) -> None:
        """Cancel the changes in progress. The service stops the models. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.shutdown(wait=False)

    async def _load(self, name: str, source: str, given: Mapping[str, Any]) -> dict[str, Any]:
        async with self._turn:
            known = self.entries.get(name)
            if known is not None and known.state not in ("unloaded", "failed"):
                raise Conflict(f"{name} is {known.state}: reload it, or unload it first")
            if known is None and not source:
                raise NotFound(f"no model is named {shown(name)} in the configuration: give its source", param="source")
            default = known.spec if known is not None and not source else None
            spec = self._builder.spec(name, given, default, source and self.settings.check_source(source))
            opening = await self._work(run_loader, self._builder.open, spec)
            with closing_on_error(opening):
                self._routes.check_names(opening.name, spec, self.entries, self.settings)
                memory_bytes = self.budget.reserve(opening)
            return (await self._bring_in(opening.name, spec, opening, memory_bytes)).describe(self.service)

    async def _bring_in(self, name: str, spec: ModelSpec, opening: Opening, memory_bytes: int) -> Entry:
        entry = self.entries[name] = Entry(name, spec, held_bytes=opening.held_bytes(memory_bytes))
        self._enter(entry, "loading")
        try:
            await self._start(entry, opening, memory_bytes)
        except BaseException as error:
            entry.held_bytes = 0
            self._enter(entry, "failed", error.message if isinstance(error, TriposError) else "it was interrupted")
            raise
        self._enter(entry, "ready")
        log.info("%s was loaded", name)
        return entry

    async def _reload(self, name: str, source: str, given: Mapping[str, Any]) -> dict[str, Any]:
        async with self._turn:
            old = self._entry(name)
            if old.state != "ready":
                raise Conflict(f"{name} is {old.state}: load it instead")
            check_carries_none(old)
            default = None if source else old.spec
            spec = self._builder.spec(name, given, default, source and self.settings.check_source(source))
            opening = await self._work(run_loader, self._builder.open, spec)
            with closing_on_error(opening):
                self._routes.check_names(name, spec, self.entries, self.settings, old)
                memory_bytes = self.budget.reserve(opening, old.held_bytes)
            return (await self._replace(old, spec, opening, memory_bytes)).describe(self.service)

    async def _replace(self, old: Entry, spec: ModelSpec, opening: Opening, memory_bytes: int) -> Entry:
        """Start a new version beside the old one, switch the routes, then drain the old one and free its memory."""
        new = Entry(old.name, spec, "loading", held_bytes=opening.held_bytes(memory_bytes))
        self.retiring.append(new)
        try:
            await self._start(new, opening, memory_bytes)
        finally:
            self.retiring.remove(new)
        self.entries[old.name] = new
        self.retiring.append(old)
        self._enter(new, "ready")  # which takes over the routes
        self._enter(old, "draining")
        try:
            await self._retire(old)
        finally:
            self.retiring.remove(old)
        log.info("%s was reloaded", new.name)
        return new

    async def _unload(self, name: str) -> dict[str, Any]:
        async with self._turn:
            return await self.drain_and_free(name)

    async def drain_and_free(self, name: str) -> dict[str, Any]:
        entry = self._entry(name)
        if entry.state == "unloaded":
            raise Conflict(f"{name} is not loaded")
        num_cut_off = 0
        if entry.state == "ready":
            check_carries_none(entry)
            self._enter(entry, "draining")
            num_cut_off = await self._retire(entry)
        if name not in self.settings.declared:
            del self.entries[name]
        self._enter(entry, "unloaded")
        log.info("%s was unloaded", name)
        return {"name": name, "state": "unloaded", "num_cut_off": num_cut_off}

    async def _reread(self) -> dict[str, Any]:
        async with self._turn:
            return await self._apply(await self._work(run_loader, self._builder.reread))

    async def _apply(self, settings: Settings) -> dict[str, Any]:
        """Carry out new settings. Everything is checked before the first change."""
        change = change_of(self.settings, settings)
        plan = plan_of(change, self.entries)
        total_bytes = settings.memory_bytes or self.total_bytes
        try:
            for name, spec in plan.due.items():
                plan.openings[name] = await self._work(run_loader, self._builder.open, spec)
            check_plan(plan, self.entries, self.budget, total_bytes)
            for name in change.removed:
                if name in self.entries and self.entries[name].state == "ready":
                    await self.drain_and_free(name)
                self.entries.pop(name, None)
            self.settings, self.total_bytes = settings, total_bytes
            for name, spec in {**change.changed, **change.added}.items():
                if name not in plan.due:
                    self.entries[name] = Entry(name, spec)
            report = await self._carry_out(plan)
        finally:
            plan.close()
        self._routes.update(self.entries, self.settings, again=True)
        lists = {"unloaded": change.removed, "routes": change.routes, "needs_restart": change.needs_restart}
        return {**report, **{key: list(names) for key, names in lists.items()}}

    async def _carry_out(self, plan: Plan) -> dict[str, Any]:
        """A model that fails while its weights are packed is reported; the others are loaded nevertheless."""
        done: dict[str, list[str]] = {"loaded": [], "reloaded": []}
        failed: dict[str, str] = {}
        for name in list(plan.openings):
            opening, spec, memory_bytes = plan.openings.pop(name), plan.due[name], plan.memory[name]
            old = self.entries.get(name)
            try:
                if old is not None and old.state == "ready":
                    await self._replace(old, spec, opening, memory_bytes)
                    done["reloaded"].append(name)
                else:
                    await self._bring_in(name, spec, opening, memory_bytes)
                    done["loaded"].append(name)
            except TriposError as error:
                failed[name] = error.message
        return {**done, "failed": failed}

    # -- adapters ---------------------------------------------------------------------------------------------------
    async def load_adapter(self, name: str, path: str, *, base: str = "", in_place: bool = False) -> None:
        """A route of its own for an adapter of model `base` (may be left out where one model takes adapters), with the
        stages of the model's route."""
        path = self.settings.check_source(path, "lora_path")
        await self._complete(self._load_adapter(name, path, base, in_place))

    async def unload_adapter(self, name: str) -> None:
        """Close an adapter's route at once; returns when the last call that uses it has ended. Raises NotFound."""
        entry = next((entry for entry in self.entries.values() if name in entry.adapters), None)
        if entry is None or entry.state != "ready":
            raise NotFound(f"no adapter is named {shown(name)}; those of /v1/models have a parent", param="lora_name")
        del entry.adapters[name]
        self._routes.update(self.entries, self.settings)
        await self._complete(self._ask(entry, UnloadAdapter(name=name)))

    async def _load_adapter(self, name: str, path: str, base: str, in_place: bool) -> None:
        async with self._turn:
            entry = find_adapted(base, self.entries, self.service)
            check_adapter_name(name, entry, in_place, self.entries, self.service)
            result = await self._ask(entry, LoadAdapter(name=name, path=path, in_place=in_place))
            if result.adapter is not None:
                entry.put_adapter(result.adapter)
            self._routes.update(self.entries, self.settings)

    async def _ask(self, entry: Entry, request: Request) -> Result:
        if entry.model is None:
            raise AssertionError("a model that is ready is not there: this is a bug in Tripos")
        return await result_of(entry.model.run(Call(id="repository", route=entry.name, request=request)))

    # -- steps of a change ------------------------------------------------------------------------------------------
    async def _complete(self, work: Coroutine[Any, Any, Value]) -> Value:
        """Run as a task of its own, so that a change is completed when its client disconnects."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return await asyncio.shield(task)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("a change of the models failed: %s", task.exception())

    async def _work(self, function: Callable[..., Value], *arguments: Any) -> Value:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def _start(self, entry: Entry, opening: Opening, memory_bytes: int) -> None:
        """Load and start. On failure everything is freed."""
        with closing_on_error(opening):
            model = await self._work(run_loader, opening.load, memory_bytes, ignore_progress)
        entry.put(model)
        try:
            await model.start()
        except BaseException:
            await self._end(entry)
            raise

    async def _retire(self, entry: Entry) -> int:
        """Wait for the calls of a model without routes, then free it. Returns how many were cut off."""
        num_cut_off, model = 0, entry.model
        if model is None:
            return 0
        try:
            try:
                async with asyncio.timeout(self.settings.drain_s):
                    await self.service.wait_idle(model)
            except TimeoutError:
                num_cut_off = self.service.num_on(model)
                log.warning("%s: %d calls had not ended and are cut off", entry.name, num_cut_off)
        finally:
            await self._end(entry)
            entry.held_bytes = 0
        return num_cut_off

    async def _end(self, entry: Entry) -> None:
        """Stop the model and free its memory and its files."""
        model, entry.model = entry.model, None
        entry.adapters = {}
        if model is None:
            return
        await model.stop()
        try:
            async with asyncio.timeout(CUT_OFF_S):
                await self.service.wait_idle(model)
        except TimeoutError:
            log.warning("%s: calls are still in flight after it was stopped", entry.name)
        await self._work(model.close)
