"""Every kind of model that can be opened, and what is done with one whatever its kind: load, quantize, describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripos.build.language import open_model
from tripos.build.opened import Opened, ignore_progress, make_executor
from tripos.config import ModelOptions
from tripos.engine.memory import mib
from tripos.errors import ConfigError
from tripos.models.files.packed import WEIGHTS_FILE, Packing, write_packed
from tripos.models.files.source import Source, open_source
from tripos.models.task import task_of
from tripos.repository import Opening, Progress
from tripos.runtime.guard import guarded
from tripos.runtime.machine import available_memory_bytes
from tripos.runtime.peaks import machine_rows

if TYPE_CHECKING:
    from tripos.predict.encoder import EncoderModel


@dataclass(frozen=True)
class Registration:
    """A kind of model: `accepts` tells it by a checkpoint's config, `open` reads and checks the files."""

    accepts: Callable[[Mapping[str, Any]], bool]
    open: Callable[[ModelOptions, Source], Opening]


def _open_encoder(options: ModelOptions, source: Source) -> Opened[EncoderModel]:
    from tripos.build.encoder import open_encoder_model

    return open_encoder_model(options, source)


KINDS = [
    Registration(lambda config: task_of(config) in ("embed", "rerank"), _open_encoder),
    Registration(lambda config: task_of(config) == "generate", open_model),
]
"""The first that accepts a checkpoint opens it."""


def open_any(options: ModelOptions) -> Opening:
    """Whatever the source is. Raises ModelRefused, ConfigError."""
    with guarded():
        source = open_source(options.source)
        return next(kind for kind in KINDS if kind.accepts(source.config)).open(options, source)


def _open_with_plan(options: ModelOptions) -> Opened[Any]:
    opened = open_any(options)
    if not isinstance(opened, Opened):
        opened.close()
        raise ConfigError(f"{opened.name} is run by another library: it has no plan of ours")
    return opened


def load_encoder(options: ModelOptions, progress: Progress = ignore_progress) -> EncoderModel:
    """One embedder or reranker alone. Raises ModelRefused, ConfigError, EnvironmentProblem."""
    progress("open", 0.0)
    with guarded():
        opened = _open_encoder(options, open_source(options.source))
    return opened.load(opened.min_bytes, progress)


@guarded()
def quantize_model(options: ModelOptions, folder: Path, progress: Progress = ignore_progress) -> tuple[int, int]:
    """Write `options.source`, its matrices packed as `options.weights`, as a directory that loads without conversion.
    How many bytes the files of weights had, and have.

    Raises ModelRefused, ConfigError, EnvironmentProblem.
    """
    from tripos.runtime.native import NativeExecutor

    progress("open", 0.0)
    opened = _open_with_plan(options)
    if opened.source.packed_as is not None:
        raise ConfigError(f"{opened.source.name} is packed already: give the model that it was packed from")
    plan = opened.optimized()
    if all(op.kind != "linear" for op in plan.ops):
        raise ConfigError(f"{opened.source.name} has no matrices to pack, only a table: serve it as it is")
    executor = NativeExecutor(opened.kind.executor_options)
    try:
        progress("check", 0.0)
        digest = opened.source.digest
        progress("pack", 0.0)
        executor.load(plan, opened.weights, lambda done: progress("pack", done))
        unpacked = {name for op in plan.ops for name in op.weights[op.kind == "linear" :]} - set(plan.constants)
        packing = Packing(
            weights=options.weights,
            source_digest=digest,
            panels=executor.panels(),
            rows={name: spec.shape[0] for name, spec in opened.plan.weights.items()},
            tensors=[opened.weights[part] for name in sorted(unpacked) for part in plan.weights[name].parts],
            files=opened.source.files(),
        )
        write_packed(folder, packing, lambda done: progress("write", done), opened.source.check_unchanged)
        return opened.source.weight_bytes, (folder / WEIGHTS_FILE).stat().st_size
    finally:
        executor.close()
        opened.source.close()


@guarded()
def describe_machine(options: ModelOptions) -> list[tuple[str, ...]]:
    """The processor, its memory, what it reaches, and the kernel that each op of the model got."""
    opened = _open_with_plan(options)
    executor = make_executor(opened.kind.executor_options)
    try:
        executor.load(opened.runnable(), opened.weights)
        info = executor.info()
        of_kind = opened.kind.doctor_rows(info)
    finally:
        executor.close()
        opened.source.close()
    rows: list[tuple[str, ...]] = [
        *machine_rows(info),
        ("memory", f"{mib(available_memory_bytes())} available"),
        ("executor", f"{info.name}, {info.isa}, {info.threads} threads"),
        *([("weights", f"{info.weights}, {mib(info.weight_bytes)} packed")] * bool(info.weight_bytes)),
        *of_kind,
    ]
    return rows + [(f"kernel of {op}", kernel) for op, kernel in info.kernels.items()]
