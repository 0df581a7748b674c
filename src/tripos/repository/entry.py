"""One model in memory, what it takes to get it there, and the errors on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar

from tripos.config import ModelOptions, RouteOptions, ServiceOptions
from tripos.errors import Conflict, ModelRefused, RequestFailed, TriposError, reraise_stop
from tripos.types import Model, Stage

log = logging.getLogger(__name__)

State = Literal["unloaded", "loading", "ready", "draining", "failed"]
Progress = Callable[[str, float], None]
Table = list[tuple[str, ...]]
Value = TypeVar("Value")


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


def told(function: Callable[..., Value], *arguments: Any) -> Value:
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
    except BaseException as error:
        reraise_stop(error)
        log.exception("a model could not be loaded: this is a bug in Tripos")
        raise RequestFailed(f"the model could not be loaded: {type(error).__name__}") from error
