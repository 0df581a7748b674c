"""The part of the composition root that opens language models: options → source, plan, executor → LanguageModel.

What only some models need is imported where they are made: a process is to answer soon after it starts.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from tripos.build.opened import Opened, ignore_progress, make_executor
from tripos.config import ModelOptions
from tripos.dialects.families import describe
from tripos.engine.adapter_slots import SPARE_SLOTS, Adapters
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.engine.memory import MemoryOptions, Need, measure
from tripos.engine.rules import TokenRules
from tripos.engine.scheduler import SchedulerOptions
from tripos.errors import ConfigError
from tripos.models.config import ModelConfig, parse_config
from tripos.models.files.generation import GenerationDefaults
from tripos.models.files.source import Source, open_source
from tripos.models.registry import adapt_weights, check_weights, notes_on_unused, trace, with_own_head
from tripos.models.task import task_of
from tripos.models.text.tokenizer import Tokenizer
from tripos.plan.ir import Plan, Weights
from tripos.plan.lora import Place, places, with_adapters
from tripos.repository import Progress, Table
from tripos.runtime.executor import Executor, ExecutorInfo, ExecutorOptions
from tripos.runtime.guard import guarded
from tripos.runtime.machine import available_memory_bytes, num_cores
from tripos.types import ModelCard, Sampling

if TYPE_CHECKING:
    from tripos.models.files.lora import ReadAdapter

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


@dataclass(frozen=True)
class LanguageKind:
    """Implements opened.Kind. What memory is left beside the weights holds the cache."""

    options: ModelOptions
    source: Source
    config: ModelConfig
    need: Need
    weights: Weights

    @property
    def min_bytes(self) -> int:
        return self.need.min_bytes

    @property
    def max_bytes(self) -> int:
        return self.need.max_bytes

    def held_bytes(self, memory_bytes: int) -> int:
        return self.need.within(memory_bytes).held_bytes

    def rows(self, memory_bytes: int) -> Table:
        return self.need.within(memory_bytes).rows()

    def doctor_rows(self, info: ExecutorInfo) -> Table:
        dialects = dialects_of(self.source.tokenizer, self.options)
        return [
            ("cache", f"{info.kv_cache}, {info.kv_bytes_per_token:,} bytes per token"),
            ("tool calls", dialects["tool_dialect"]),
            ("reasoning", dialects["reasoning_dialect"] or "none"),
        ]

    def runnable(self, plan: Plan) -> Plan:
        return with_adapters(plan, self.options.max_adapter_rank) if self.options.num_adapters else plan

    @property
    def executor_options(self) -> ExecutorOptions:
        return executor_options(self.options, self.need.kv_format)

    def card(self, card: ModelCard) -> ModelCard:
        return replace(
            card,
            task="generate",
            max_model_len=self.need.max_model_len,
            vocab_size=self.config.vocab_size,
            architecture=self.config.architecture,
            sampling=_recommended(self.source.generation),
            template_args=self.source.tokenizer.template_args,
            **dialects_of(self.source.tokenizer, self.options),
        )

    def reserve(self, executor: Executor, plan: Plan, memory_bytes: int) -> Callable[[ModelCard], LanguageModel]:
        """The cache, and slots for adapters."""
        num_blocks = executor.reserve(self.need.within(memory_bytes).num_blocks)
        adapters = make_adapters(self.options, executor, places(plan, self.weights))
        options = EngineOptions(
            num_blocks=num_blocks,
            block_size=BLOCK_SIZE,
            max_model_len=self.need.max_model_len,
            scheduler=scheduler_options(self.options),
        )

        def make(card: ModelCard) -> LanguageModel:
            rules = TokenRules(self.source.generation, self.source.tokenizer.eos_ids)
            engine = Engine(executor, options)
            return LanguageModel(card, self.source.tokenizer, engine, adapters=adapters, rules=rules)

        return make


def open_model(options: ModelOptions, source: Source | None = None) -> Opened[LanguageModel]:
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
    kind = LanguageKind(options, source, config, need, weights)
    return Opened(options, source, plan, weights, kind, make_executor, source.notes + unused)


def load_model(options: ModelOptions, progress: Progress = ignore_progress) -> LanguageModel:
    """One model alone: open, check, pack and reserve. Raises ModelRefused, ConfigError, EnvironmentProblem."""
    progress("open", 0.0)
    with without_collection(), guarded():
        source = open_source(options.source, is_patient=False)
        with source.hashed():
            return open_model(options, source).load(options.memory or free_memory_bytes(), progress)


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


def dialects_of(tokenizer: Tokenizer, options: ModelOptions) -> dict[str, Any]:
    return describe(
        tokenizer.template_source, tokenizer.special_tokens, options.tool_dialect, tokenizer.tool_template_source
    )


def _recommended(defaults: GenerationDefaults) -> Sampling:
    given = {name: getattr(defaults, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    return Sampling(**{name: value for name, value in given.items() if value is not None})
