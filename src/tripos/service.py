"""The service: find the route of a call, run it, and know whether everything moves.

Owns the routes, the count of calls in flight and the last ModelInfo of each model. Every door calls `run`. Routes may
be added and removed while calls run: a call keeps its route. Knows nothing of how models are loaded.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from tripos.errors import EngineFailed, NotFound, Overloaded, TriposError, shown
from tripos.metering.metrics import Meter, Metrics, Series
from tripos.pipeline.chain import chain
from tripos.types import Call, Event, Model, ModelCard, ModelInfo, Run, Stage, Unmetered

log = logging.getLogger(__name__)

RETRY_S = 5.0
INFO_TIMEOUT_S = 2.0  # a model that reports nothing for so long counts as stuck


@dataclass(eq=False)
class _Route:
    """A name that clients ask for. `card` is what they may know, under this name; `num_calls` are in flight."""

    model: Model
    card: ModelCard
    run: Run  # of the stages and the model
    series: Series
    is_strict: bool = False  # unknown fields are refused
    num_calls: int = 0


class Service:
    """Named routes, each a chain of stages with a model at its end."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._routes: dict[str, _Route] = {}
        self._infos: dict[Model, ModelInfo] = {}  # the last answers
        self._states: Mapping[str, str] | None = None  # model name → state; None: each that has a route is ready
        self._aliases: Mapping[str, str] = {}  # route → model, also of routes that are not there
        self._busy: set[_Route] = set()  # with calls in flight, also when they were removed
        self._went_idle = asyncio.Event()
        self._num_waiting = 0  # for that
        self.is_started = False
        self.is_draining = False

    # -- routes -----------------------------------------------------------------------------------------------------
    def add(
        self,
        model: Model,
        stages: Sequence[Stage] = (),
        name: str = "",
        *,
        card: ModelCard | None = None,
        is_strict: bool = False,
    ) -> None:
        """A route under `name`, or the model's own; the first stage is the outermost, the meter goes around them all.
        `card` stands for the model's own. A strict route refuses unknown fields; others name them to the client.

        In a service that is started the model must be, too. Raises ValueError when the name is taken.
        """
        name = name or model.card.name
        if name in self._routes:
            raise ValueError(f"two models are named {name}")
        series = self.metrics.series(name)
        self._routes[name] = _Route(
            model, replace(card or model.card, name=name), chain(stages, model.run), series, is_strict
        )

    def replace(
        self,
        name: str,
        model: Model,
        stages: Sequence[Stage] = (),
        *,
        card: ModelCard | None = None,
        is_strict: bool = False,
    ) -> None:
        """From now on new calls of `name` go to `model`; those in flight end where they are. Raises KeyError."""
        del self._routes[name]
        self.add(model, stages, name, card=card, is_strict=is_strict)

    def remove(self, name: str) -> None:
        """Nobody finds this route any more; calls in flight go on. The model stays started. Raises KeyError."""
        self._forget(name, self._routes.pop(name))

    def announce(self, states: Mapping[str, str], aliases: Mapping[str, str]) -> None:
        """The state of every model, loaded or not, and the model of every route that has another name."""
        self._states, self._aliases = dict(states), dict(aliases)

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

    def states(self) -> dict[str, str]:
        """Of every model, loaded or not."""
        return {card.name: "ready" for card in self.cards} if self._states is None else dict(self._states)

    def model(self, name: str) -> Model:
        """Raises NotFound (model_not_found), EngineFailed (model_loading)."""
        return self._route(name).model

    def card(self, name: str) -> ModelCard:
        """What a client of this route may know. Raises as `model`."""
        route = self._routes.get(name) or self._route(name)
        return route.card

    def is_strict(self, name: str) -> bool:
        """Whether this route refuses fields that nobody knows. Raises as `model`."""
        return self._route(name).is_strict

    def _route(self, name: str) -> _Route:
        route = self._routes.get(name) or self._routes.get(name.removesuffix(":latest"))  # Ollama's word for the model
        if route is None:
            if self._states is not None and self._states.get(self._aliases.get(name, name)) == "loading":
                raise EngineFailed("the model is loading", code="model_loading", retry_after_s=RETRY_S)
            served = ", ".join(self._routes) or "none"
            raise NotFound(f"no model is named {shown(name)}; served: {served}", code="model_not_found", param="model")
        return route

    # -- calls ------------------------------------------------------------------------------------------------------
    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        """The call's events. Raises NotFound, Overloaded (draining) and what the stages and the model raise."""
        route = self._routes.get(call.route) or self._route(call.route)
        if self.is_draining:
            raise Overloaded("the server is shutting down: ask another", code="draining", retry_after_s=RETRY_S)
        if not self.is_started:
            raise EngineFailed("the models are loading", code="model_loading", retry_after_s=RETRY_S)
        route.num_calls += 1
        self._busy.add(route)
        meter = Meter(route.series, call)
        failure: BaseException | None = None
        events: AsyncGenerator[Event, None] | None = None
        try:
            events = route.run(call)  # where a stage refuses the call
            async for event in events:
                meter.see(event)
                yield event
        except BaseException as error:
            failure = error
            raise
        finally:
            try:
                if events is not None:
                    await events.aclose()
            except BaseException as error:  # says more than the cancellation before it
                failure = error
                raise
            finally:
                if not isinstance(call.request, Unmetered):
                    meter.end(failure)
                self._leave(route)

    def _leave(self, route: _Route) -> None:
        route.num_calls -= 1
        if not route.num_calls:
            self._busy.discard(route)
            self._forget(route.card.name, route)
            if self._num_waiting:
                self._went_idle.set()

    @property
    def num_in_flight(self) -> int:
        return sum(route.num_calls for route in self._busy)

    def num_on(self, model: Model) -> int:
        """Calls in flight on one model, on all its routes."""
        return sum(route.num_calls for route in self._busy if route.model is model)

    async def wait_idle(self, model: Model | None = None) -> None:
        """Until no call is in flight, or none on `model`."""
        self._num_waiting += 1
        try:
            while self.num_in_flight if model is None else self.num_on(model):
                self._went_idle.clear()
                await self._went_idle.wait()
        finally:
            self._num_waiting -= 1

    # -- what is known of the models --------------------------------------------------------------------------------
    async def refresh(self) -> None:
        """Ask every model for its ModelInfo, for a probe or a scrape. A model that does not answer counts as stuck."""
        models = self.models
        infos = await asyncio.gather(*map(_ask, models))
        self._infos = dict(zip(models, infos, strict=True))
        named = {name: self._infos[route.model] for name, route in self._routes.items() if route.model in self._infos}
        self.metrics.stats = {
            name: info.stats for name, info in named.items() if info.stats and not self._routes[name].card.parent
        }
        self.metrics.states = self.states()

    def unready(self) -> str | None:
        """Why new calls would not be answered, or None: every model is started and moved on when last asked."""
        if self.is_draining:
            return "draining"
        if not self.is_started:
            return "model_loading"
        is_stuck = any(not self._infos[model].is_progressing for model in self.models if model in self._infos)
        return "engine_restarting" if is_stuck else None

    # -- life -------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        for model in self.models:
            await model.start()
        self.is_started, self.is_draining = True, False

    def close(self) -> None:
        """Refuse new calls from now on; those in flight go on."""
        self.is_draining = True

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
        self.is_started = False
        for model in reversed(self.models):
            await model.stop()


async def _ask(model: Model) -> ModelInfo:
    try:
        async with asyncio.timeout(INFO_TIMEOUT_S):
            return await model.info()
    except (TimeoutError, TriposError) as error:
        log.warning("%s did not report its state: %s", model.card.name, error or "timeout")
        return ModelInfo(is_progressing=False)
