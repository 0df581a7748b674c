"""A running server whose models come and go: tiny ones, opened from sources that are names."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.api.running import Running, TinyModel, running_service
from tests.unit.engine.test_adapters import read_scripted
from tripos.api.auth import Keys
from tripos.build.service import build_repository
from tripos.config import ModelOptions, RouteOptions, ServerOptions, ServiceOptions
from tripos.errors import ModelRefused
from tripos.models.files.lora import ReadAdapter
from tripos.repository import LoadedModel
from tripos.repository.entry import Table

MIB = 2**20
MIN_BYTES, MAX_BYTES = 100 * MIB, 200 * MIB
TOTAL_BYTES = 1000 * MIB


class TinyOpening:
    """A source is a word: `absent` cannot be opened, `damaged` fails while it is loaded, `gated` waits for the gate,
    anything else is a TinyModel. Counts what was closed."""

    def __init__(self, options: ModelOptions, store: TinyStore) -> None:
        if options.source.endswith("absent"):
            raise ModelRefused(f"{options.source}: no such model")
        self.options = options
        self._store = store
        self.name = options.name or options.source
        self.min_bytes, self.max_bytes, self.fixed_bytes = MIN_BYTES, MAX_BYTES, options.memory
        self.is_closed = False
        store.opened.append(self)

    def held_bytes(self, memory_bytes: int) -> int:
        return min(memory_bytes, self.max_bytes)

    def rows(self, memory_bytes: int) -> Table:
        return [("will it fit?", self.name)]

    def load(self, memory_bytes: int, progress: Callable[[str, float], None]) -> LoadedModel:
        if self.options.source.endswith("gated"):
            assert self._store.gate.wait(10)
        if self.options.source.endswith("damaged"):
            raise ModelRefused(f"{self.options.source}: tensor 3 is damaged")
        return self._store.make(self.name)

    def close(self) -> None:
        self.is_closed = True


class TinyStore:
    """What was opened and made; `step_s` of models to come."""

    def __init__(self, adapts: bool = False) -> None:
        self.adapts = adapts
        self.opened: list[TinyOpening] = []
        self.made: list[TinyModel] = []
        self.step_s = 0.0
        self.gate = threading.Event()

    def make(self, name: str) -> TinyModel:
        model = _Closing(name, self.step_s, read_adapter=read_numbered if self.adapts else None)
        self.made.append(model)
        return model

    @property
    def num_open(self) -> int:
        """Models that were made and not closed."""
        return sum(not getattr(model, "is_closed", False) for model in self.made)


class GivenOpening(TinyOpening):
    """Of a model that is there already."""

    def __init__(self, options: ModelOptions, model: TinyModel) -> None:
        super().__init__(options, TinyStore())
        self._given = model

    def load(self, memory_bytes: int, progress: Callable[[str, float], None]) -> LoadedModel:
        return self._given


@asynccontextmanager
async def running_repository(*models: TinyModel, keys: Keys | None = None) -> AsyncIterator[Running]:
    """A server whose models are these, and may be changed. Adapters are named by any path."""
    given = {model.card.name: model for model in models}
    options = ServiceOptions(models=tiny_options(*given), server=ServerOptions(model_roots=("/",)))
    repository = build_repository(options, None, lambda each: GivenOpening(each, given[each.name]), lambda: TOTAL_BYTES)
    repository.fill(lambda phase, done: None, lambda rows: None)
    async with running_service(repository.service, keys, repository=repository) as server:
        yield server


class _Closing(TinyModel):
    is_closed = False

    def close(self) -> None:
        super().close()
        self.is_closed = True


class Residing:
    """The server, its store, and the options that it reads again."""

    def __init__(self, options: ServiceOptions, adapts: bool = False, is_filled: bool = True) -> None:
        self.store = TinyStore(adapts)
        self.options = options
        self.repository = build_repository(options, lambda: self.read(), self.open, lambda: TOTAL_BYTES)
        self.service = self.repository.service
        if is_filled:
            self.repository.fill(lambda phase, done: None, lambda rows: None)
        self.server: Running

    def open(self, options: ModelOptions) -> TinyOpening:
        return TinyOpening(options, self.store)

    def read(self) -> ServiceOptions:
        return self.options

    def set(self, *models: ModelOptions, routes: tuple[RouteOptions, ...] = (), **server: object) -> None:
        """What the configuration says from now on."""
        self.options = ServiceOptions(
            models=models, routes=routes, server=replace(self.options.server, **server)  # type: ignore[arg-type]
        )  # fmt: skip


def read_numbered(path: str) -> ReadAdapter:
    return read_scripted(path.removeprefix("demo:"))


def tiny_options(*names: str) -> tuple[ModelOptions, ...]:
    return tuple(ModelOptions(source=f"demo:{name}", name=name) for name in names)


@asynccontextmanager
async def residing(
    *models: ModelOptions,
    routes: tuple[RouteOptions, ...] = (),
    keys: Keys | None = None,
    drain_s: float = 5.0,
    adapts: bool = False,
) -> AsyncIterator[Residing]:
    """`adapts`: whether the models take adapters, whose directories are demo:NUMBER."""
    server = ServerOptions(drain_s=drain_s)
    found = Residing(ServiceOptions(models=models or tiny_options("tiny"), routes=routes, server=server), adapts)
    async with running_service(found.service, keys=keys, repository=found.repository) as found.server:
        yield found
    for model in found.store.made:
        model.close()
