"""The part of the composition root that makes one model: options → source, plan, executor → LanguageModel.

Owns the decision how much memory a model gets; prints nothing. build_service puts routes around models. What only some
models need is imported where they are made: a process is to answer soon after it starts.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tripos.config import ModelOptions
from tripos.dialects.families import describe
from tripos.engine.adapter_slots import SPARE_SLOTS, Adapters
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.engine.memory import MemoryOptions, Need, measure, mib
from tripos.engine.rules import TokenRules
from tripos.engine.scheduler import SchedulerOptions
from tripos.errors import ConfigError, EnvironmentProblem
from tripos.models.config import ModelConfig, parse_config
from tripos.models.files.generation import GenerationDefaults
from tripos.models.files.packed import WEIGHTS_FILE, Packing, write_packed
from tripos.models.files.source import Source, open_source
from tripos.models.registry import adapt_weights, check_weights, notes_on_unused, trace, with_own_head
from tripos.models.task import task_of
from tripos.models.text.tokenizer import Tokenizer
from tripos.plan.ir import Plan, Weights
from tripos.plan.lora import Place, places, with_adapters
from tripos.plan.passes import optimize
from tripos.runtime.executor import Executor, ExecutorInfo, ExecutorOptions
from tripos.runtime.executor import ignore_progress as unheard
from tripos.runtime.guard import guarded
from tripos.runtime.machine import available_memory_bytes, give_back_freed_memory, num_cores
from tripos.runtime.peaks import machine_rows
from tripos.types import Model, ModelCard, Sampling

if TYPE_CHECKING:
    from tripos.build.encoder import OpenedEncoder
    from tripos.models.files.lora import ReadAdapter
    from tripos.predict.encoder import EncoderModel

Progress = Callable[[str, float], None]

BLOCK_SIZE = 32  # tokens per cache block
MEMORY_RESERVE_BYTES = 512 * 2**20  # left free for activations, the front and the system
MAX_NUM_ROWS = 256  # logits rows of a step: sampled tokens and prompt logprobs


@contextmanager
def without_collection() -> Iterator[None]:
    """Inside, no garbage is looked for: a vocabulary is made of hundreds of thousands of objects that all stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def ignore_progress(phase: str, done: float) -> None:
    """For callers that show none."""


# -- one model ------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Opened:
    """A model's files, read and checked against each other; nothing packed yet. Implements residents.Opening."""

    options: ModelOptions
    source: Source
    config: ModelConfig
    plan: Plan  # as traced
    weights: Weights  # under the plan's names
    need: Need
    unused: tuple[str, ...]  # what was found in the weights

    @property
    def name(self) -> str:
        """That clients ask for."""
        return self.options.name or self.source.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What was found and is not used."""
        return self.source.notes + self.unused

    @property
    def min_bytes(self) -> int:
        return self.need.min_bytes

    @property
    def max_bytes(self) -> int:
        return self.need.max_bytes

    @property
    def fixed_bytes(self) -> int:
        return self.options.memory

    def held_bytes(self, memory_bytes: int) -> int:
        """What is taken of the memory that may be. Raises ModelRefused when it is too little."""
        return self.need.within(memory_bytes).held_bytes

    def rows(self, memory_bytes: int) -> list[tuple[str, ...]]:
        """A table for people: what the model needs and gets. Raises ModelRefused."""
        return self.need.within(memory_bytes).rows() + [("note", note) for note in self.notes]

    def optimized(self) -> Plan:
        """The plan that runs: fused, except across weights that are stored in different formats."""
        return optimize(self.plan, self.weights)

    def runnable(self) -> Plan:
        """The same with room for adapters, where some may come."""
        plan = self.optimized()
        return with_adapters(plan, self.options.max_adapter_rank) if self.options.num_adapters else plan

    def executor_options(self) -> ExecutorOptions:
        return executor_options(self.options, self.need.kv_format)

    def load(self, memory_bytes: int, progress: Progress = ignore_progress) -> LanguageModel:
        """Pack, and reserve the cache. Raises ModelRefused, EnvironmentProblem."""
        fit = self.need.within(memory_bytes)
        give_back_freed_memory()
        executor = make_executor(self.executor_options())
        try:
            with guarded(), self.source.hashed():
                progress("pack", 0.0)
                plan = self.runnable()
                is_copied = self.source.packed_as is not None and progress is ignore_progress
                executor.load(plan, self.weights, unheard if is_copied else lambda done: progress("pack", done))
                progress("cache", 0.0)
                num_blocks = executor.reserve(fit.num_blocks)
                adapters = make_adapters(self.options, executor, places(plan, self.weights))
                progress("digest", 0.0)
                card = self._card(executor.info(), self.source.digest)
                self.source.check_unchanged()
        except BaseException:
            executor.close()
            raise
        engine_options = EngineOptions(
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            max_model_len=card.max_model_len,
            scheduler=scheduler_options(self.options),
        )
        progress("ready", 1.0)
        engine = Engine(executor, engine_options)
        rules = TokenRules(self.source.generation, self.source.tokenizer.eos_ids)
        return LanguageModel(card, self.source.tokenizer, engine, adapters=adapters, rules=rules)

    def load_models(self, memory_bytes: int, progress: Progress = ignore_progress) -> list[Model]:
        """As residents.Opening wants it."""
        model = self.load(memory_bytes, progress)
        return [model, *model.adapter_models()]

    def _card(self, info: ExecutorInfo, digest: str) -> ModelCard:
        return ModelCard(
            name=self.name,
            task="generate",
            digest=digest,
            max_model_len=self.need.max_model_len,
            vocab_size=self.config.vocab_size,
            architecture=self.config.architecture,
            weights=info.weights,
            file_format=self.source.file_format,
            num_bytes=info.weight_bytes,
            num_parameters=sum(prod(spec.shape) for spec in self.plan.weights.values()),
            created=int(time.time()),
            sampling=_recommended(self.source.generation),
            template_args=self.source.tokenizer.template_args,
            **_dialects(self.source.tokenizer, self.options),
        )

    def close(self) -> None:
        """Let go of the files, if the model was not loaded."""
        self.source.close()


def open_any(options: ModelOptions) -> Opened | OpenedEncoder:
    """Whatever the source is: a language model, an embedder or a reranker. Raises as open_model."""
    with guarded():
        source = open_source(options.source)
        if task_of(source.config) == "generate":
            return open_model(options, source)
        from tripos.build.encoder import open_encoder_model

        return open_encoder_model(options, source, make_executor)


def open_model(options: ModelOptions, source: Source | None = None) -> Opened:
    """Open and check. Milliseconds: files are mapped, not read. Raises ModelRefused, ConfigError."""
    source = source or open_source(options.source)
    try:
        if (task := task_of(source.config)) != "generate":
            raise ConfigError(f"{source.name} is no language model, it is there to {task}: serve it with tripos serve")
        source.check_packed_as(options.weights)
        config, notes = with_own_head(parse_config(source.config, source.file), source.weights)
        plan = trace(config)
        weights = adapt_weights(config, source.weights)
        unused = notes + notes_on_unused(check_weights(plan, weights), config.num_layers)
        need = measure(source.name, plan, weights, config.max_position_embeddings, _memory_options(options))
    except BaseException:
        source.close()
        raise
    return Opened(options, source, config, plan, weights, need, unused)


def load_model(options: ModelOptions, progress: Progress = ignore_progress) -> LanguageModel:
    """One model alone: open, check, pack and reserve. Raises ModelRefused, ConfigError, EnvironmentProblem."""
    progress("open", 0.0)
    with without_collection(), guarded():
        source = open_source(options.source, is_patient=False)
        with source.hashed():
            return open_model(options, source).load(options.memory or free_memory_bytes(), progress)


def load_encoder(options: ModelOptions, progress: Progress = ignore_progress) -> EncoderModel:
    """One embedder or reranker alone. Raises ModelRefused, ConfigError, EnvironmentProblem."""
    from tripos.build.encoder import open_encoder_model

    progress("open", 0.0)
    with guarded():
        opened = open_encoder_model(options, open_source(options.source), make_executor)
    return opened.load(progress)


def free_memory_bytes() -> int:
    """What models may take when nobody says how much."""
    return max(0, available_memory_bytes() - MEMORY_RESERVE_BYTES)


def make_adapters(options: ModelOptions, executor: Executor, known: Mapping[str, Place]) -> Adapters | None:
    """The slots for adapters, those of the options loaded; None where there are none. Raises ModelRefused."""
    if not options.num_adapters:
        return None
    from tripos.models.files.lora import read_adapter

    dtype = "f32" if executor.info().weights == "fp32" else "bf16"

    def read(path: str) -> ReadAdapter:
        return read_adapter(Path(path), known, max_rank=options.max_adapter_rank, dtype=dtype)

    adapters = Adapters(executor, options.num_adapters, read)
    for name, path in options.adapters:
        adapters.load(name, path)
    return adapters


def _memory_options(options: ModelOptions) -> MemoryOptions:
    return MemoryOptions(
        block_size=BLOCK_SIZE,
        max_sequences=options.max_sequences,
        max_model_len=options.max_model_len,
        weights=options.weights,
        kv_cache=options.kv_cache,
        max_adapters=options.num_adapters,
        max_adapter_rank=options.max_adapter_rank,
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
        max_adapters=options.num_adapters + SPARE_SLOTS if options.num_adapters else 0,
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


@guarded()
def quantize_model(options: ModelOptions, folder: Path, progress: Progress = ignore_progress) -> tuple[int, int]:
    """Write `options.source`, its matrices packed as `options.weights`, as a directory that loads without conversion.
    How many bytes the files of weights had, and have.

    Raises ModelRefused, ConfigError, EnvironmentProblem.
    """
    from tripos.runtime.native import NativeExecutor

    progress("open", 0.0)
    opened = open_any(options)
    if opened.source.packed_as is not None:
        raise ConfigError(f"{opened.source.name} is packed already: give the model that it was packed from")
    plan = opened.optimized()
    if all(op.kind != "linear" for op in plan.ops):
        raise ConfigError(f"{opened.source.name} has no matrices to pack, only a table: serve it as it is")
    executor = NativeExecutor(opened.executor_options())
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


def _dialects(tokenizer: Tokenizer, options: ModelOptions) -> dict[str, Any]:
    return describe(
        tokenizer.template_source, tokenizer.special_tokens, options.tool_dialect, tokenizer.tool_template_source
    )


def _recommended(defaults: GenerationDefaults) -> Sampling:
    given = {name: getattr(defaults, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    return Sampling(**{name: value for name, value in given.items() if value is not None})


# -- tables for people ----------------------------------------------------------------------------------------------
@guarded()
def describe_machine(options: ModelOptions) -> list[tuple[str, ...]]:
    """The processor, its memory, what it reaches, and the kernel that each op of the model got."""
    opened = open_any(options)
    executor = make_executor(opened.executor_options())
    try:
        executor.load(opened.runnable(), opened.weights)
        info = executor.info()
        of_language_model = _generation_rows(info, opened) if isinstance(opened, Opened) else []
    finally:
        executor.close()
        opened.source.close()
    rows: list[tuple[str, ...]] = [
        *machine_rows(info),
        ("memory", f"{mib(available_memory_bytes())} available"),
        ("executor", f"{info.name}, {info.isa}, {info.threads} threads"),
        *([("weights", f"{info.weights}, {mib(info.weight_bytes)} packed")] * bool(info.weight_bytes)),
        *of_language_model,
    ]
    return rows + [(f"kernel of {op}", kernel) for op, kernel in info.kernels.items()]


def _generation_rows(info: ExecutorInfo, opened: Opened) -> list[tuple[str, ...]]:
    dialects = _dialects(opened.source.tokenizer, opened.options)
    return [
        ("cache", f"{info.kv_cache}, {info.kv_bytes_per_token:,} bytes per token"),
        ("tool calls", dialects["tool_dialect"]),
        ("reasoning", dialects["reasoning_dialect"] or "none"),
    ]
