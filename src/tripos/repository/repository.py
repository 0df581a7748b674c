"""Which models are in memory: load, unload and reload them while the others answer, within one memory budget.

Owns the budget and each model's state. One change at a time, in the order in which they were asked for; files are read
and packed on a thread of its own. Knows a model only as something to open, start, stop and close.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tripos.config import ModelOptions, ServiceOptions, model_options
from tripos.engine.memory import share
from tripos.errors import ConfigError, Conflict, NotFound, TriposError, shown
from tripos.repository.entry import (
    Opening,
    Parts,
    Progress,
    Resident,
    Table,
    Value,
    closing_on_error,
    ignore_progress,
    told,
)
from tripos.repository.reread import reread
from tripos.repository.room import Room
from tripos.service import Service
from tripos.types import Model

log = logging.getLogger(__name__)

CUT_OFF_S = 2.0  # for the last events of calls that did not end in time


class Residents:
    """Implements service.Residents. The async methods belong to the service's event loop."""

    def __init__(self, service: Service, options: ServiceOptions, parts: Parts) -> None:
        self.service, self._parts = service, parts
        self.room = Room(service, options, options.server.memory or parts.free_memory_bytes(), parts.make_stages)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tripos-load")
        service.residents = self

    # -- at the start -----------------------------------------------------------------------------------------------
    def fill(self, progress: Progress, show: Callable[[Table], None]) -> None:
        """Load what the options name, before the service starts. Raises as `open_all`."""
        self._load_all(progress, show, lambda name: None)
        self.room.route()

    async def fill_beside(
        self, progress: Progress, show: Callable[[Table], None], loaded: Callable[[str], None]
    ) -> None:
        """The same on a thread, while the event loop turns; `progress`, `show` and `loaded` are called there."""
        await self._work(self._load_all, progress, show, loaded)
        self.room.route()

    def _load_all(self, progress: Progress, show: Callable[[Table], None], loaded: Callable[[str], None]) -> None:
        progress("open", 0.0)
        for opening, num_bytes in self.open_all(show):
            resident = self.room.residents[opening.name]
            resident.models = tuple(opening.load_models(num_bytes, progress))
            resident.held_bytes = opening.held_bytes(num_bytes)
            resident.enter("ready")
            loaded(resident.name)

    def open_all(self, show: Callable[[Table], None]) -> list[tuple[Opening, int]]:
        """What is to be loaded, with its memory; `show` gets each model's table.

        Raises ModelRefused (damaged, or they do not fit together), ConfigError, EnvironmentProblem.
        """
        openings: list[Opening] = []
        served: list[str] = []
        found: dict[str, Resident] = {}
        for options in self.room.options.models:
            name = options.name or options.source
            if options.preload:
                openings.append(self._parts.open_model(options))
                name = openings[-1].name
            served.extend((name, *dict(options.adapters)))
            if len(set(served)) < len(served):
                raise ConfigError(f"two models or adapters are named {name}: serve one of them under another name")
            found[name] = Resident(name, options, "loading" if options.preload else "unloaded")
        self.room.residents = found
        shares = list(zip(openings, self._shares(openings), strict=True))
        for opening, num_bytes in shares:
            show(opening.rows(num_bytes))
        return shares

    def _shares(self, openings: Sequence[Opening]) -> list[int]:
        if len(openings) == 1:  # whose own error says more
            return [openings[0].fixed_bytes or self.room.total_bytes]
        return share(self.room.total_bytes, openings)

    # -- what doors ask ---------------------------------------------------------------------------------------------
    @property
    def file(self) -> str:
        return self.room.options.file

    def is_loading(self, name: str) -> bool:
        return self.room.is_loading(name)

    def states(self) -> dict[str, str]:
        return self.room.states()

    def describe(self) -> dict[str, Any]:
        return self.room.describe_all()

    def allowed(self, path: str) -> str:
        """An adapter's directory that may be read at run time. Raises PermissionDenied."""
        return self.room.allowed(path, "lora_path")

    async def load(self, name: str, source: str, options: dict[str, Any]) -> dict[str, Any]:
        """A model that is not in memory: one that the configuration names, or `source`. Raises TriposError."""
        return await self._alone(self._load(name, source, options))

    async def reload(self, name: str, source: str, options: dict[str, Any]) -> dict[str, Any]:
        """Load a model anew beside itself, switch its routes, drain and free the old one. Raises TriposError, and then
        the old one goes on."""
        return await self._alone(self._reload(name, source, options))

    async def unload(self, name: str) -> dict[str, Any]:
        """Take no more calls, let those in flight end (drain_s), free the memory. Raises NotFound."""
        return await self._alone(self.drain_and_free(name))

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
        known = self.room.residents.get(name)
        if known is not None and known.state not in ("unloaded", "failed"):
            raise Conflict(f"{name} is {known.state}: reload it, or unload it first")
        if known is None and not source:
            raise NotFound(f"no model is named {shown(name)} in the configuration: give its source", param="source")
        default = known.options if known and not source else ModelOptions(source=self.room.allowed(source))
        options = model_options(name, given, default, "options")
        opening = await self.open(options)
        with closing_on_error(opening):
            self.room.check_names(opening.name, options)
            memory_bytes = self.room.reserve(opening)
        resident = Resident(opening.name, options)
        await self.bring_in(resident, opening, memory_bytes)
        return self.room.describe(resident)

    async def bring_in(self, resident: Resident, opening: Opening, memory_bytes: int) -> None:
        resident.held_bytes = opening.held_bytes(memory_bytes)
        resident.enter("loading")
        self.room.residents[resident.name] = resident
        try:
            resident.models = await self._start(opening, memory_bytes)
        except BaseException as error:
            resident.held_bytes = 0
            resident.enter("failed", error.message if isinstance(error, TriposError) else "it was interrupted")
            raise
        resident.enter("ready")
        self.room.route()
        log.info("%s was loaded", resident.name)

    async def _reload(self, name: str, source: str, given: dict[str, Any]) -> dict[str, Any]:
        old = self.room.get(name)
        if old.state != "ready":
            raise Conflict(f"{name} is {old.state}: load it instead")
        self.room.check_free(old)
        default = old.options if not source else ModelOptions(source=self.room.allowed(source))
        options = model_options(name, given, default, "options")
        opening = await self.open(options)
        with closing_on_error(opening):
            self.room.check_names(name, options, old)
            memory_bytes = self.room.reserve(opening, old)
        return self.room.describe(await self.swap(old, options, opening, memory_bytes))

    async def swap(self, old: Resident, options: ModelOptions, opening: Opening, memory_bytes: int) -> Resident:
        new = Resident(old.name, options, held_bytes=opening.held_bytes(memory_bytes))
        new.enter("loading")
        self.room.retiring.append(new)  # its memory counts
        try:
            new.models = await self._start(opening, memory_bytes)
        finally:
            self.room.retiring.remove(new)
        new.enter("ready")
        old.enter("draining")
        self.room.residents[old.name] = new
        self.room.retiring.append(old)
        self.room.route()
        try:
            await self._retire(old)
        finally:
            self.room.retiring.remove(old)
        log.info("%s was reloaded", new.name)
        return new

    async def drain_and_free(self, name: str) -> dict[str, Any]:
        resident = self.room.get(name)
        if resident.state == "unloaded":
            raise Conflict(f"{name} is not loaded")
        num_cut_off = 0
        if resident.state == "ready":
            self.room.check_free(resident)
            resident.enter("draining")
            self.room.route()
            num_cut_off = await self._retire(resident)
        resident.enter("unloaded")
        log.info("%s was unloaded", name)
        if name not in self.room.declared:
            del self.room.residents[name]
        return {"name": name, "state": "unloaded", "num_cut_off": num_cut_off}

    async def _retire(self, resident: Resident) -> int:
        """Wait for the calls of a model without routes, then free it. Returns how many were cut off."""
        num_cut_off = 0
        try:
            try:
                async with asyncio.timeout(self.room.options.server.drain_s):
                    for model in resident.models:
                        await self.service.wait_idle(model)
            except TimeoutError:
                num_cut_off = sum(self.service.num_on(model) for model in resident.models)
                log.warning("%s: %d calls had not ended and are cut off", resident.name, num_cut_off)
        finally:
            models, resident.models = resident.models, ()
            await self._end(models)
            resident.held_bytes = 0
        return num_cut_off

    async def _reread(self) -> dict[str, Any]:
        if self._parts.read_options is None:
            raise Conflict("this server was started without a configuration that could be read again")
        return await reread(self, await self._work(told, self._parts.read_options))

    # -- steps of a change ------------------------------------------------------------------------------------------
    async def _alone(self, change: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
        """Run a change after those before it. It goes on when whoever asked has left."""

        async def run() -> dict[str, Any]:
            try:
                async with self.service.changing:
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

    async def open(self, options: ModelOptions) -> Opening:
        return await self._work(told, self._parts.open_model, options)

    async def _start(self, opening: Opening, memory_bytes: int) -> tuple[Model, ...]:
        """Load and start. On failure nothing is left."""
        with closing_on_error(opening):
            models = tuple(await self._work(told, opening.load_models, memory_bytes, ignore_progress))
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
                    await self.service.wait_idle(model)
            except TimeoutError:
                log.warning("%s: calls are still in flight after it was stopped", model.card.name)
        for model in reversed(models):
            close = getattr(model, "close", None)
            if close is not None:
                await self._work(close)
