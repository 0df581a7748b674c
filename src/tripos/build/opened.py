"""A model of any kind between its files and its place in memory: checked, and then loaded."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Generic, Protocol, TypeVar

from tripos.config import ModelOptions
from tripos.errors import EnvironmentProblem
from tripos.models.files.source import Source
from tripos.plan.ir import Plan, Weights
from tripos.plan.passes import optimize
from tripos.repository import LoadedModel, Progress, Table
from tripos.runtime.executor import Executor, ExecutorInfo, ExecutorOptions
from tripos.runtime.executor import ignore_progress as unheard
from tripos.runtime.guard import guarded
from tripos.runtime.machine import give_back_freed_memory
from tripos.types import ModelCard


def ignore_progress(phase: str, done: float) -> None:
    """For callers that show none."""


M = TypeVar("M", bound=LoadedModel)
MadeOf = TypeVar("MadeOf", bound=LoadedModel, covariant=True)


class Kind(Protocol[MadeOf]):
    """What is particular to one kind of model. Raises ModelRefused where memory is too little."""

    @property
    def min_bytes(self) -> int: ...
    @property
    def max_bytes(self) -> int: ...
    @property
    def executor_options(self) -> ExecutorOptions: ...
    def held_bytes(self, memory_bytes: int) -> int: ...
    def rows(self, memory_bytes: int) -> Table: ...
    def doctor_rows(self, info: ExecutorInfo) -> Table:
        """For people: what the loaded executor means for this kind."""
        return []

    def runnable(self, plan: Plan) -> Plan:
        """The fused plan, with what the options add to it."""
        return plan

    def card(self, card: ModelCard) -> ModelCard:
        """The card with what only this kind knows."""

    def reserve(self, executor: Executor, plan: Plan, memory_bytes: int) -> Callable[[ModelCard], MadeOf]:
        """Take the memory beside the weights; gives what makes the model, once its card is known."""


@dataclass(frozen=True)
class Opened(Generic[M]):
    """A model's files, read and checked against each other; nothing packed yet. Implements repository.Opening."""

    options: ModelOptions
    source: Source
    plan: Plan  # as traced
    weights: Weights  # under the plan's names
    kind: Kind[M]
    make_executor: Callable[[ExecutorOptions], Executor]
    notes: tuple[str, ...] = ()  # what was found and is not used

    @property
    def name(self) -> str:
        """That clients ask for."""
        return self.options.name or self.source.name

    @property
    def min_bytes(self) -> int:
        return self.kind.min_bytes

    @property
    def max_bytes(self) -> int:
        return self.kind.max_bytes

    @property
    def fixed_bytes(self) -> int:
        return self.options.memory

    def held_bytes(self, memory_bytes: int) -> int:
        """What is taken of the memory that may be. Raises ModelRefused when it is too little."""
        return self.kind.held_bytes(memory_bytes)

    def rows(self, memory_bytes: int) -> Table:
        """A table for people: what the model needs and gets. Raises ModelRefused."""
        return [*self.kind.rows(memory_bytes), *(("note", note) for note in self.notes)]

    def optimized(self) -> Plan:
        """The plan that runs: fused, except across weights that are stored in different formats."""
        return optimize(self.plan, self.weights)

    def runnable(self) -> Plan:
        """The same with room for adapters, where some may come."""
        return self.kind.runnable(self.optimized())

    def load(self, memory_bytes: int, progress: Progress = ignore_progress) -> M:
        """Pack, and reserve what else it needs. Raises ModelRefused, EnvironmentProblem."""
        self.held_bytes(memory_bytes)
        give_back_freed_memory()
        executor = self.make_executor(self.kind.executor_options)
        try:
            with guarded(), self.source.hashed():
                progress("pack", 0.0)
                plan = self.runnable()
                is_copied = self.source.packed_as is not None and progress is ignore_progress
                executor.load(plan, self.weights, unheard if is_copied else lambda done: progress("pack", done))
                progress("cache", 0.0)
                make = self.kind.reserve(executor, plan, memory_bytes)
                progress("digest", 0.0)
                card = self._card(executor, self.source.digest)
                self.source.check_unchanged()
            model = make(card)
        except BaseException:
            executor.close()
            raise
        progress("ready", 1.0)
        return model

    def close(self) -> None:
        """Let go of the files, if the model was not loaded."""
        self.source.close()

    def _card(self, executor: Executor, digest: str) -> ModelCard:
        info = executor.info()
        return self.kind.card(
            ModelCard(
                name=self.name,
                task="",
                digest=digest,
                weights=info.weights,
                file_format=self.source.file_format,
                num_bytes=info.weight_bytes,
                num_parameters=sum(prod(spec.shape) for spec in self.plan.weights.values()),
                created=int(time.time()),
            )
        )


def make_executor(options: ExecutorOptions) -> Executor:
    """Native where its library is; else the numpy reference, with a warning: it is correct and very slow."""
    from tripos.runtime.native import NativeExecutor

    try:
        return NativeExecutor(options)
    except EnvironmentProblem as problem:
        from tripos.runtime.reference import ReferenceExecutor

        warnings.warn(f"{problem.message}; running on the numpy reference, which is very slow", stacklevel=2)
        return ReferenceExecutor(options)
