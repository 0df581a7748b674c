"""The composition root: options → executors, models, stages, routes → Service.

The only place where all parts meet. Owns the decision how much memory a model gets; prints nothing.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path

from tripos.config import ModelOptions, ServiceOptions
from tripos.controls.deadline import deadline
from tripos.controls.limits import limits
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.engine.memory import Fit, MemoryOptions, fit, mib
from tripos.engine.scheduler import SchedulerOptions
from tripos.errors import ConfigError, EnvironmentProblem
from tripos.models.config import ModelConfig, parse_config
from tripos.models.packed import Packing, write_packed
from tripos.models.registry import adapt_weights, check_weights, trace
from tripos.models.source import GenerationDefaults, Source, open_source
from tripos.plan.ir import Plan, Weights, WeightTensor
from tripos.plan.passes import optimize
from tripos.runtime.executor import Executor, ExecutorInfo, ExecutorOptions
from tripos.runtime.machine import available_memory_bytes, cpu_name, num_cores
from tripos.service import Service
from tripos.types import ModelCard, Sampling

Progress = Callable[[str, float], None]

BLOCK_SIZE = 32  # tokens per cache block
MEMORY_RESERVE_BYTES = 512 * 2**20  # left free for activations, the front and the system
MAX_NUM_ROWS = 256  # logits rows of a step: sampled tokens and prompt logprobs


def ignore_progress(phase: str, done: float) -> None:
    """For callers that show none."""


# -- one model ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Opened:
    """A model's files, read and checked against each other; nothing packed yet."""

    source: Source
    config: ModelConfig
    plan: Plan  # as traced
    weights: Weights  # under the plan's names
    fit: Fit
    notes: tuple[str, ...]  # what was found and is not used

    def optimized(self) -> Plan:
        """The plan that runs: fused, except across weights that are stored in different formats."""
        return optimize(self.plan, {name: _kind(self.weights[name]) for name in self.plan.weights})


def _kind(tensor: WeightTensor) -> str:
    """Equal for weights that may be stacked: the stored type, or the stack that they were packed in."""
    return tensor.dtype if tensor.panels is None else " ".join(tensor.panels.parts)


def open_model(options: ModelOptions) -> Opened:
    """Open and check. Milliseconds: files are mapped, not read. Raises ModelRefused, ConfigError."""
    source = open_source(options.source)
    if source.packed_as is not None and options.weights not in ("auto", source.packed_as):
        raise ConfigError(
            f"{source.name} is packed as {source.packed_as} and cannot run as {options.weights}: "
            "leave --weights out, or give the model that it was packed from"
        )
    config = parse_config(source.config, source.name)
    plan = trace(config)
    weights = adapt_weights(config, source.weights)
    unused = check_weights(plan, weights)
    notes = source.notes
    if unused:
        notes += (f"{len(unused)} tensors are not used, among them {unused[0]}",)
    fits = fit(source.name, plan, weights, config.max_position_embeddings, _memory_options(options))
    return Opened(source, config, plan, weights, fits, notes)


def load_model(options: ModelOptions, progress: Progress = ignore_progress) -> LanguageModel:
    """Open, check, pack and reserve. Raises ModelRefused, ConfigError, EnvironmentProblem."""
    progress("open", 0.0)
    opened = open_model(options)
    with ThreadPoolExecutor(1, thread_name_prefix="tripos-digest") as pool:
        digest = pool.submit(lambda: opened.source.digest)  # releases the GIL, so it runs beside packing
        progress("pack", 0.0)
        executor = make_executor(executor_options(options, opened.fit.kv_format))
        executor.load(opened.optimized(), opened.weights)
        progress("cache", 0.0)
        num_blocks = executor.reserve(opened.fit.num_blocks)
        progress("digest", 0.0)
        card = _card(options, opened, executor.info(), digest.result())
    engine_options = EngineOptions(
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        max_model_len=card.max_model_len,
        scheduler=scheduler_options(options),
    )
    progress("ready", 1.0)
    return LanguageModel(card, opened.source.tokenizer, Engine(executor, engine_options))


def _memory_options(options: ModelOptions) -> MemoryOptions:
    return MemoryOptions(
        limit_bytes=options.memory or max(0, available_memory_bytes() - MEMORY_RESERVE_BYTES),
        block_size=BLOCK_SIZE,
        max_sequences=options.max_sequences,
        max_model_len=options.max_model_len,
        weights=options.weights,
        kv_cache=options.kv_cache,
    )


def executor_options(options: ModelOptions, kv_format: str) -> ExecutorOptions:
    """What the executor is told; isa comes from TRIPOS_ISA, which the native executor reads."""
    return ExecutorOptions(
        block_size=BLOCK_SIZE,
        max_num_tokens=options.token_budget,
        max_num_rows=max(options.max_sequences, MAX_NUM_ROWS),
        threads=options.threads or num_cores(),
        weights=options.weights,
        kv_cache=kv_format,
    )


def scheduler_options(options: ModelOptions) -> SchedulerOptions:
    return SchedulerOptions(
        max_num_seqs=options.max_sequences,
        token_budget=max(options.token_budget, options.max_sequences),
        max_num_rows=max(options.max_sequences, MAX_NUM_ROWS),
        max_draft_tokens=0 if options.speculate == "off" else SchedulerOptions.max_draft_tokens,
        max_waiting=4 * options.max_sequences,
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


def quantize_model(options: ModelOptions, folder: Path, progress: Progress = ignore_progress) -> None:
    """Write `options.source`, its matrices packed as `options.weights`, as a directory that loads without conversion.

    Raises ModelRefused, ConfigError, EnvironmentProblem.
    """
    from tripos.runtime.native import NativeExecutor

    progress("open", 0.0)
    opened = open_model(replace(options, max_model_len=1))  # no cache is wanted
    if opened.source.packed_as is not None:
        raise ConfigError(f"{opened.source.name} is packed already: give the model that it was packed from")
    plan = opened.optimized()
    executor = NativeExecutor(executor_options(options, opened.fit.kv_format))
    try:
        progress("check", 0.0)
        digest = opened.source.digest
        progress("pack", 0.0)
        executor.load(plan, opened.weights)
        unpacked = {name for op in plan.ops for name in op.weights[op.kind == "linear" :]} - set(plan.constants)
        packing = Packing(
            weights=options.weights,
            source_digest=digest,
            panels=executor.panels(),
            rows={name: spec.shape[0] for name, spec in opened.plan.weights.items()},
            tensors=[opened.weights[part] for name in sorted(unpacked) for part in plan.weights[name].parts],
            files=opened.source.files(),
        )
        write_packed(folder, packing, lambda done: progress("write", done))
    finally:
        executor.close()
        opened.source.close()


def _card(options: ModelOptions, opened: Opened, info: ExecutorInfo, digest: str) -> ModelCard:
    return ModelCard(
        name=options.name or opened.source.name,
        task="generate",
        digest=digest,
        max_model_len=opened.fit.max_model_len,
        vocab_size=opened.config.vocab_size,
        architecture=opened.config.architecture,
        weights=info.weights,
        num_parameters=sum(prod(spec.shape) for spec in opened.plan.weights.values()),
        created=int(time.time()),
        sampling=_recommended(opened.source.generation),
    )


def _recommended(defaults: GenerationDefaults) -> Sampling:
    given = {name: value for name, value in asdict(defaults).items() if value is not None}
    return Sampling(**given)


# -- tables for people ----------------------------------------------------------------------------------------------
def fit_table(options: ModelOptions) -> list[tuple[str, ...]]:
    """What the model needs and gets, before it is loaded. Raises as open_model."""
    opened = open_model(options)
    try:
        return opened.fit.rows() + [("note", note) for note in opened.notes]
    finally:
        opened.source.close()


def describe_machine(options: ModelOptions) -> list[tuple[str, ...]]:
    """The processor, its memory, and the kernel that each op of the model got."""
    opened = open_model(options)
    executor = make_executor(executor_options(options, opened.fit.kv_format))
    try:
        executor.load(opened.optimized(), opened.weights)
        info = executor.info()
    finally:
        executor.close()
        opened.source.close()
    rows: list[tuple[str, ...]] = [
        ("processor", cpu_name()),
        ("cores", str(num_cores())),
        ("memory", f"{mib(available_memory_bytes())} available"),
        ("executor", f"{info.name}, {info.isa}, {info.threads} threads"),
        ("weights", f"{info.weights}, {mib(info.weight_bytes)} packed"),
        ("cache", f"{info.kv_cache}, {info.kv_bytes_per_token:,} bytes per token"),
    ]
    return rows + [(f"kernel of {op}", kernel) for op, kernel in info.kernels.items()]


# -- the service ----------------------------------------------------------------------------------------------------
def build_service(options: ServiceOptions, progress: Progress = ignore_progress) -> Service:
    """Load every model and put its stages around it. Raises as load_model, and ConfigError for two equal names."""
    service = Service()
    for model_options in options.models:
        model = load_model(model_options, progress)
        if any(model.card.name == card.name for card in service.cards):
            raise ConfigError(f"two models are named {model.card.name}: serve one of them under another --name")
        service.add(model, (limits(max_model_len=model.card.max_model_len), deadline()))
    return service
