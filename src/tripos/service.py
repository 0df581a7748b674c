"""The service: find the route of a call, run it, and know whether everything moves.

Owns the routes, their models' lives and the count of calls in flight. Every door comes through `run`. Routes come and
go while calls run: a call keeps the route that it began with.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

from msgspec.structs import replace

from tripos.errors import EngineFailed, InvalidRequest, NotFound, Overloaded, shown
from tripos.metering.metrics import Metrics, Series
from tripos.metering.usage import Meter
from tripos.pipeline.chain import Levels
from tripos.types import Call, Event, Generate, Model, ModelCard, Stage

log = logging.getLogger(__name__)

RETRY_S = 5.0
MAX_ENCODING_BYTES = 32 * 2**20  # of requests whose text is being turned into tokens, or back, for nobody's call


@runtime_checkable
class Progressing(Protocol):
    """A model that knows whether its work moves on. Others count as ready once started."""

    def is_progressing(self) -> bool: ...


class Tokenizer(Protocol):
    """What a door asks of a language model's tokenizer."""

    def encode(self, text: str, add_special: bool = False) -> list[int]: ...
    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str: ...
    def token_bytes(self, id: int) -> bytes: ...


@runtime_checkable
class Tokenizing(Protocol):
    """A model that turns text and messages into the token ids that it would run."""

    tokenizer: Tokenizer

    async def encode(self, request: Generate) -> list[int]: ...


class Residents(Protocol):
    """Who loads and unloads models while the service runs, as doors see it (tripos.repository). Names are of models;
    everything raises TriposError when it cannot be done."""

    @property
    def file(self) -> str:
        """The service file that `reread` reads; "": there is none."""

    def is_loading(self, name: str) -> bool: ...
    def describe(self) -> dict[str, Any]: ...
    def states(self) -> dict[str, str]: ...
    def allowed(self, path: str) -> str: ...
    async def load(self, name: str, source: str, options: dict[str, Any]) -> dict[str, Any]: ...
    async def reload(self, name: str, source: str, options: dict[str, Any]) -> dict[str, Any]: ...
    async def unload(self, name: str) -> dict[str, Any]: ...
    async def reread(self) -> dict[str, Any]: ...
    async def stop(self) -> None: ...


@runtime_checkable
class Adapting(Protocol):
    """A model that may take low-rank adapters, each a model of its own beside it."""

    async def load_adapter(self, name: str, path: str, *, in_place: bool = False) -> Model: ...
    async def unload_adapter(self, name: str) -> None: ...


@dataclass(eq=False)
class _Route:
    """A name that clients ask for. `card` is the model's, under this name; `num_calls` are in flight."""

    model: Model
    card: ModelCard
    stages: tuple[Stage, ...]  # the outermost first
    series: Series
    is_strict: bool = False  # unknown fields are refused
    num_calls: int = 0


class Service:
    """Named routes, each a chain of stages with a model at its end."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self.residents: Residents | None = None  # who loads and unloads while we run; None: nobody
        self.changing = asyncio.Lock()  # held by whoever loads: one change of models and adapters at a time
        self._routes: dict[str, _Route] = {}
        self._busy: set[_Route] = set()  # with calls in flight, also when they were removed
        self._went_idle = asyncio.Event()
        self._num_waiting = 0  # for that
        self._num_encoding_bytes = 0
        self._is_started = False
        self._is_draining = False
        self.metrics.states = self.states

    def add(self, model: Model, stages: Sequence[Stage] = (), name: str = "", *, is_strict: bool = False) -> None:
        """A route under `name`, or the model's own; the first stage is the outermost, the meter goes around them all.
        One that is strict refuses fields that nobody knows; others name them to the client.

        In a service that is started the model must be, too. Raises ValueError when the name is taken.
        """
        name = name or model.card.name
        if name in self._routes:
            raise ValueError(f"two models are named {name}")
        self._put(name, model, stages, is_strict)

    def replace(self, name: str, model: Model, stages: Sequence[Stage] = (), *, is_strict: bool = False) -> None:
        """From now on new calls of `name` go to `model`; those in flight end where they are. Raises KeyError."""
        del self._routes[name]
        self._put(name, model, stages, is_strict)

    def remove(self, name: str) -> None:
        """Nobody finds this route any more; calls in flight go on. The model stays started. Raises KeyError."""
        self._forget(name, self._routes.pop(name))

    def _put(self, name: str, model: Model, stages: Sequence[Stage], is_strict: bool) -> None:
        card = replace(model.card, name=name)
        self._routes[name] = _Route(model, card, tuple(stages), self.metrics.series(name), is_strict)
        self.metrics.add_model(name, model)

    async def load_adapter(self, name: str, path: str, *, base: str = "", in_place: bool = False) -> None:
        """A route of its own for an adapter of model `base` (may be left out where one model takes adapters), with the
        stages of the base's route. Waits for a change of the models that is under way; goes on when the caller is
        cancelled.

        Raises InvalidRequest, NotFound, PermissionDenied, ModelRefused, Overloaded.
        """
        if self.residents is not None:
            path = self.residents.allowed(path)
        await asyncio.shield(asyncio.create_task(self._load_adapter(name, path, base, in_place)))

    async def _load_adapter(self, name: str, path: str, base: str, in_place: bool) -> None:
        async with self.changing:
            route = self._routes[self._base_of(base)]
            self._check_free(name, route.model, in_place)
            model = await cast("Adapting", route.model).load_adapter(name, path, in_place=in_place)
            self._put(name, model, route.stages, route.is_strict)

    def _check_free(self, name: str, parent: Model, in_place: bool) -> None:
        route = self._routes.get(name)
        if route is not None and not (in_place and _base(route.model) is parent):
            hint = "unload it first, or set load_inplace" if _base(route.model) else "choose another name"
            raise InvalidRequest(f"{shown(name)} is served already: {hint}", code="already_loaded", param="lora_name")

    async def unload_adapter(self, name: str) -> None:
        """Close an adapter's route at once; returns when the last call that uses it has ended. Raises NotFound."""
        route = self._routes.get(name)
        base = _base(route.model) if route is not None else None
        if base is None:
            raise NotFound(f"no adapter is named {shown(name)}; those of /v1/models have a parent", param="lora_name")
        self.remove(name)
        await asyncio.shield(asyncio.create_task(cast("Any", base.unload_adapter(name))))

    def _base_of(self, name: str) -> str:
        if name and isinstance(self.model(name), Adapting):
            return name
        able = [each for each, route in self._routes.items() if isinstance(route.model, Adapting)]
        if name or len(able) != 1:
            cause = f"{shown(name)} takes no adapters" if name else "say which model the adapter is for"
            raise InvalidRequest(f"{cause}; these take some: {', '.join(able) or 'none'}", param="base_model_name")
        return able[0]

    def _forget(self, name: str, route: _Route) -> None:
        """The metrics of a name go with its last call."""
        if name not in self._routes and not route.num_calls:
            self.metrics.remove_model(name)

    @property
    def cards(self) -> list[ModelCard]:
        """Of every route."""
        return [route.card for route in self._routes.values()]

    @property
    def routes(self) -> dict[str, Model]:
        """Every name that clients may ask for → the model at its end."""
        return {name: route.model for name, route in self._routes.items()}

    @property
    def models(self) -> list[Model]:
        """Each once, though several routes may lead to it."""
        return list(dict.fromkeys(route.model for route in self._routes.values()))

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    @property
    def is_started(self) -> bool:
        return self._is_started

    @property
    def is_loading(self) -> bool:
        """Not started yet: the first models are on their way."""
        return not self._is_started and not self._is_draining

    def states(self) -> dict[str, str]:
        """Of every model, loaded or not."""
        return self.residents.states() if self.residents else {card.name: "ready" for card in self.cards}

    def model(self, name: str) -> Model:
        """Raises NotFound (model_not_found), EngineFailed (model_loading)."""
        return self._route(name).model

    def card(self, name: str) -> ModelCard:
        """What a client of this route may know. Raises as `model`."""
        return self._route(name).card

    def is_strict(self, name: str) -> bool:
        """Whether this route refuses fields that nobody knows. Raises as `model`."""
        return self._route(name).is_strict

    def _route(self, name: str) -> _Route:
        route = self._routes.get(name) or self._routes.get(name.removesuffix(":latest"))  # Ollama's word for the model
        if route is None:
            if self.residents is not None and self.residents.is_loading(name):
                raise EngineFailed("the model is loading", code="model_loading", retry_after_s=RETRY_S)
            served = ", ".join(self._routes) or "none"
            raise NotFound(f"no model is named {shown(name)}; served: {served}", code="model_not_found", param="model")
        return route

    async def run(self, call: Call) -> AsyncIterator[Event]:
        """The call's events. Raises NotFound, Overloaded (draining) and what the stages and the model raise."""
        route = self._route(call.route)
        if self._is_draining:
            raise Overloaded("the server is shutting down: ask another", code="draining", retry_after_s=RETRY_S)
        if not self._is_started:
            raise EngineFailed("the models are loading", code="model_loading", retry_after_s=RETRY_S)
        route.num_calls += 1
        self._busy.add(route)
        meter = Meter(route.series, call)
        levels = Levels(route.stages, route.model.run)
        failure: BaseException | None = None
        try:
            async for event in levels.open(call):
                meter.see(event)
                yield event
        except BaseException as error:
            failure = error
            raise
        finally:
            try:
                await levels.aclose()
            except BaseException as error:  # says more than the cancellation before it
                failure = error
                raise
            finally:
                meter.end(failure)
                self._leave(route)

    def _leave(self, route: _Route) -> None:
        route.num_calls -= 1
        if not route.num_calls:
            self._busy.discard(route)
            self._forget(route.card.name, route)
            if self._num_waiting:
                self._went_idle.set()

    @contextmanager
    def encoding(self, num_bytes: int) -> Iterator[None]:
        """A place for a tokenizer's work outside of any call, which no model counts. One alone always gets it.

        Raises Overloaded.
        """
        if self._num_encoding_bytes and self._num_encoding_bytes + num_bytes > MAX_ENCODING_BYTES:
            waiting = f"{self._num_encoding_bytes} bytes wait for a tokenizer, at most {MAX_ENCODING_BYTES} may"
            raise Overloaded(f"{waiting}: retry in {RETRY_S:.0f} s", retry_after_s=RETRY_S)
        self._num_encoding_bytes += num_bytes
        try:
            yield
        finally:
            self._num_encoding_bytes -= num_bytes

    @property
    def num_in_flight(self) -> int:
        return sum(route.num_calls for route in self._busy)

    def num_on(self, model: Model) -> int:
        """Calls in flight on a model through any route, removed ones and those of its adapters too."""
        return sum(route.num_calls for route in self._busy if model in (route.model, _base(route.model)))

    async def wait_idle(self, model: Model | None = None) -> None:
        """Until no call is in flight, or none on `model`."""
        self._num_waiting += 1
        try:
            while self.num_in_flight if model is None else self.num_on(model):
                self._went_idle.clear()
                await self._went_idle.wait()
        finally:
            self._num_waiting -= 1

    def unready(self) -> str | None:
        """Why new calls would not be answered, or None: every model is started and moves on."""
        if self._is_draining:
            return "draining"
        if not self._is_started:
            return "model_loading"
        stuck = [m for m in self.models if isinstance(m, Progressing) and not m.is_progressing()]
        return "engine_restarting" if stuck else None

    async def start(self) -> None:
        for model in self.models:
            await model.start()
        self._is_started, self._is_draining = True, False

    def close(self) -> None:
        """Refuse new calls from now on; those in flight go on."""
        self._is_draining = True

    async def drain(self, grace_s: float) -> bool:
        """Refuse new calls, wait for those in flight. False when some were left after `grace_s` seconds."""
        self.close()
        try:
            async with asyncio.timeout(grace_s):
                await self.wait_idle()
        except TimeoutError:
            log.warning("%d calls were in flight after %.0f s of draining", self.num_in_flight, grace_s)
            return False
        return True

    async def stop(self) -> None:
        """End every model now; calls in flight get an error. Idempotent."""
        self.close()
        if self.residents is not None:
            await self.residents.stop()
        self._is_started = False
        for model in reversed(self.models):
            await model.stop()


def _base(model: Model) -> Any:
    """Of an adapter: the model that it adapts."""
    base = getattr(model, "base", None)
    return base if isinstance(base, Adapting) else None
