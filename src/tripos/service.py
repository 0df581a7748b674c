"""The service: find the route of a call, run it, and know whether everything moves.

Owns the routes, their models' lives and the count of calls in flight. Every door comes through `run`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Protocol, cast, runtime_checkable

from tripos.errors import EngineFailed, NotFound, Overloaded
from tripos.metering.metrics import Metrics
from tripos.metering.usage import meter
from tripos.pipeline.chain import chain
from tripos.types import Call, Event, Generate, Model, ModelCard, Run, Stage
from tripos.wire.json import shown

log = logging.getLogger(__name__)

RETRY_S = 5.0


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


class Service:
    """Named routes, each a chain of stages with a model at its end."""

    def __init__(self, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._models: dict[str, Model] = {}
        self._runs: dict[str, Run] = {}
        self._calls: set[str] = set()
        self._num_in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._is_started = False
        self._is_draining = False

    def add(self, model: Model, stages: Sequence[Stage] = ()) -> None:
        """A route under the model's name; the first stage is the outermost, the meter goes around them all.

        Raises ValueError when the name is taken.
        """
        name = model.card.name
        if name in self._models:
            raise ValueError(f"two models are named {name}")
        self._models[name] = model
        self._runs[name] = chain((meter(self.metrics, model.card), *stages), model.run)
        self.metrics.add_model(name, model)

    @property
    def cards(self) -> list[ModelCard]:
        return [model.card for model in self._models.values()]

    @property
    def num_in_flight(self) -> int:
        return self._num_in_flight

    @property
    def is_draining(self) -> bool:
        return self._is_draining

    def model(self, name: str) -> Model:
        """Raises NotFound (model_not_found)."""
        model = self._models.get(name)
        if model is None:
            served = ", ".join(self._models) or "none"
            raise NotFound(f"no model is named {shown(name)}; served: {served}", code="model_not_found", param="model")
        return model

    async def run(self, call: Call) -> AsyncIterator[Event]:
        """The call's events. Raises NotFound, Overloaded (draining) and what the stages and the model raise."""
        self.model(call.route)
        if self._is_draining:
            raise Overloaded("the server is shutting down: ask another", code="draining", retry_after_s=RETRY_S)
        if not self._is_started:
            raise EngineFailed("the models are loading", code="model_loading", retry_after_s=RETRY_S)
        self._num_in_flight += 1
        self._idle.clear()
        try:
            async with aclosing(cast("Any", self._runs[call.route](call))) as events:
                async for event in events:
                    yield event
        finally:
            self._num_in_flight -= 1
            if not self._num_in_flight:
                self._idle.set()

    def unready(self) -> str | None:
        """Why new calls would not be answered, or None: every model is started and moves on."""
        if self._is_draining:
            return "draining"
        if not self._is_started:
            return "model_loading"
        stuck = [m for m in self._models.values() if isinstance(m, Progressing) and not m.is_progressing()]
        return "engine_restarting" if stuck else None

    async def start(self) -> None:
        for model in self._models.values():
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
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d calls were in flight after %.0f s of draining", self._num_in_flight, grace_s)
            return False
        return True

    async def wait_idle(self) -> None:
        """Until no call is in flight."""
        await self._idle.wait()

    async def stop(self) -> None:
        """End every model now; calls in flight get an error. Idempotent."""
        self.close()
        self._is_started = False
        for model in reversed(self._models.values()):
            await model.stop()
