"""An entry of the repository: one model, its state, and how it is opened and loaded."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from tripos.errors import Conflict, ModelRefused, RequestFailed, TriposError, reraise_stop
from tripos.repository.adapter import Adapter
from tripos.service import Service
from tripos.types import AdapterInfo, Model

if TYPE_CHECKING:
    from tripos.repository.settings import ModelSpec

log = logging.getLogger(__name__)

State = Literal["unloaded", "loading", "ready", "draining", "failed"]
Progress = Callable[[str, float], None]
Table = list[tuple[str, ...]]
Value = TypeVar("Value")


class LoadedModel(Model, Protocol):
    """A model in the memory of this process."""

    def close(self) -> None:
        """Free it, once it is stopped."""


class Opening(Protocol):
    """A model whose files are open and checked, before it takes memory."""

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
    def load(self, memory_bytes: int, progress: Progress) -> LoadedModel: ...
    def close(self) -> None:
        """Close the files, if the model was not loaded."""


@dataclass(eq=False)
class Entry:
    """One version of a model that the configuration names or an admin loaded."""

    name: str
    spec: ModelSpec
    state: State = "unloaded"
    model: LoadedModel | None = None
    adapters: dict[str, Adapter] = field(default_factory=dict)  # by name
    held_bytes: int = 0
    error: str = ""
    since_s: float = field(default_factory=time.time)

    def enter(self, state: State, error: str = "") -> None:
        self.state, self.error, self.since_s = state, error, time.time()

    def put(self, model: LoadedModel) -> None:
        """Note the loaded model and the adapters that were loaded with it."""
        self.model = model
        for info in model.card.adapters:
            self.put_adapter(info)

    def put_adapter(self, info: AdapterInfo) -> None:
        if self.model is not None:
            self.adapters[info.name] = Adapter.of(self.model.card, info)

    @property
    def carried(self) -> list[str]:
        """Adapters that were loaded at run time. A new version of the model would not have them."""
        return [name for name in self.adapters if name not in dict(self.spec.adapters)]

    def describe(self, service: Service) -> dict[str, Any]:
        """For /admin/models."""
        card = self.model.card if self.model is not None else None
        return {
            "name": self.name,
            "state": self.state,
            "source": self.spec.source,
            "error": self.error,
            "memory_bytes": self.held_bytes,
            "num_in_flight": service.num_on(self.model) if self.model is not None else 0,
            "routes": [name for name, model in service.routes.items() if model is self.model],
            "digest": card.digest if card is not None else "",
            "max_model_len": card.max_model_len if card is not None else 0,
            "since": int(self.since_s),
        }


def ignore_progress(phase: str, done: float) -> None:
    """Loads at run time show no progress."""


@contextmanager
def closing_on_error(opening: Opening) -> Iterator[None]:
    """Close on failure, but not on cancellation: then a thread may still read the files."""
    try:
        yield
    except Exception:
        opening.close()
        raise


def run_loader(function: Callable[..., Value], *arguments: Any) -> Value:
    """Call a function that reads a model's files. Raises TriposError for every failure."""
    try:
        return function(*arguments)
    except TriposError:
        raise
    except MemoryError:
        raise Conflict("the machine has too little memory for this model: unload another one") from None
    except OSError as error:
        raise ModelRefused(f"a file of the model cannot be read: {error.strerror}") from error
    except BaseException as error:
        reraise_stop(error)
        log.exception("a model could not be loaded: this is a bug in Tripos")
        raise RequestFailed(f"the model could not be loaded: {type(error).__name__}") from error
