"""One model of the repository: its state, what it takes to load it, and the errors on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from tripos.errors import Conflict, ModelRefused, RequestFailed, TriposError, reraise_stop
from tripos.repository.adapter import Adapter
from tripos.types import AdapterInfo, Model

if TYPE_CHECKING:
    from tripos.repository.settings import ModelSpec

log = logging.getLogger(__name__)

State = Literal["unloaded", "loading", "ready", "draining", "failed"]
Progress = Callable[[str, float], None]
Table = list[tuple[str, ...]]
Value = TypeVar("Value")


class Opening(Protocol):
    """A model whose files were checked, before it takes memory, and then the one model that it loads."""

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
    def load(self, memory_bytes: int, progress: Progress) -> Model: ...
    def close(self) -> None:
        """Let go of the files, and of the memory of the model, which must be stopped. Idempotent."""


@dataclass(eq=False)
class Entry:
    """One version of a model that the configuration names or an admin loaded. `model`: while it is loaded."""

    name: str
    spec: ModelSpec
    state: State = "unloaded"
    opening: Opening | None = None
    model: Model | None = None
    adapters: dict[str, Adapter] = field(default_factory=dict)  # by name
    held_bytes: int = 0
    error: str = ""
    since_s: float = field(default_factory=time.time)

    def put(self, opening: Opening, model: Model) -> None:
        """It is loaded, with the adapters of its options."""
        self.opening, self.model = opening, model
        for info in model.card.adapters:
            self.put_adapter(info)

    def put_adapter(self, info: AdapterInfo) -> None:
        if self.model is not None:
            self.adapters[info.name] = Adapter.of(self.model.card, info)

    @property
    def carried(self) -> list[str]:
        """Adapters that came after it, which a new version would not have."""
        return [name for name in self.adapters if name not in dict(self.spec.adapters)]

    def describe(self, routes: Mapping[str, Model], num_in_flight: int) -> dict[str, Any]:
        """For /admin/models. `routes`: of the service."""
        card = self.model.card if self.model is not None else None
        return {
            "name": self.name,
            "state": self.state,
            "source": self.spec.source,
            "error": self.error,
            "memory_bytes": self.held_bytes,
            "num_in_flight": num_in_flight,
            "routes": [name for name, model in routes.items() if model is self.model],
            "digest": card.digest if card is not None else "",
            "max_model_len": card.max_model_len if card is not None else 0,
            "since": int(self.since_s),
        }


def ignore_progress(phase: str, done: float) -> None:
    """Nobody watches a load at run time."""


@contextmanager
def closing_on_error(opening: Opening) -> Iterator[None]:
    """Not when we are cancelled: then a thread still reads the files."""
    try:
        yield
    except Exception:
        opening.close()
        raise


def run_loader(function: Callable[..., Value], *arguments: Any) -> Value:
    """Call what reads a model's files. Raises TriposError for everything that goes wrong with them."""
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
