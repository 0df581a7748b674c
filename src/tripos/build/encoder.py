"""The part of the composition root that makes an EncoderModel: a source's files → plan → executor → model.

build chooses between this and a language model by the source's task.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from tripos.config import ModelOptions
from tripos.engine.memory import WeightsNeed, measure_weights, mib
from tripos.errors import ConfigError, ModelRefused
from tripos.models.encoders import Encoder, is_expected_leftover, open_encoder
from tripos.models.families.static import is_static
from tripos.models.files.source import Source
from tripos.models.registry import check_weights
from tripos.plan.ir import Plan, Weights
from tripos.plan.passes import optimize
from tripos.predict.batcher import BatcherOptions
from tripos.predict.encoder import EncoderModel
from tripos.predict.options import EncoderOptions
from tripos.runtime.executor import Executor, ExecutorInfo, ExecutorOptions
from tripos.runtime.guard import guarded
from tripos.runtime.machine import give_back_freed_memory, num_cores
from tripos.types import Model, ModelCard

MAX_TEXTS = 256  # of a step
LIVE_TENSORS = 4  # as wide as the widest, at most, at any time of a step


@dataclass(frozen=True)
class OpenedEncoder:
    """An encoder's files, read and checked against each other; nothing packed yet. Implements residents.Opening."""

    options: ModelOptions
    source: Source
    encoder: Encoder
    weights: Weights  # under the plan's names
    max_length: int
    need: WeightsNeed
    notes: tuple[str, ...]
    make_executor: Callable[[ExecutorOptions], Executor]

    @property
    def name(self) -> str:
        """That clients ask for."""
        return self.options.name or self.source.name

    @property
    def min_bytes(self) -> int:
        """Weights as they run, tables of embeddings as they are stored, and the activations of a full step."""
        return self.need.packed_bytes + self.need.table_bytes + self._activation_bytes

    @property
    def _activation_bytes(self) -> int:
        widest = max(tensor.cols for tensor in self.plan.tensors)
        return 4 * widest * LIVE_TENSORS * self.token_budget

    @property
    def max_bytes(self) -> int:
        return self.min_bytes

    @property
    def fixed_bytes(self) -> int:
        return self.options.memory

    @property
    def token_budget(self) -> int:
        """Tokens of the largest step."""
        return max(self.options.token_budget, self.max_length)

    def held_bytes(self, memory_bytes: int) -> int:
        """What is taken of the memory that may be. Raises ModelRefused when it is too little."""
        if memory_bytes < self.min_bytes:
            raise ModelRefused(
                f"{self.source.name} needs {mib(self.min_bytes)} for weights ({self.need.formats}) and a step of "
                f"{self.token_budget:,} tokens; {mib(memory_bytes)} may be taken: give more --memory, choose smaller "
                "--weights or a smaller --token-budget"
            )
        return self.min_bytes

    def rows(self, memory_bytes: int) -> list[tuple[str, ...]]:
        """A table for people: what the model needs and gets. Raises ModelRefused."""
        self.held_bytes(memory_bytes)
        return [
            ("will it fit?", self.source.name),
            ("task", self.encoder.task),
            self.need.row(),
            ("activations", f"{mib(self._activation_bytes)} at most, for {self.token_budget:,} tokens in a step"),
            ("inputs", f"up to {self.max_length:,} tokens each"),
            ("limit", f"{mib(memory_bytes)} (--memory)"),
            *(("note", note) for note in self.notes),
        ]

    @property
    def plan(self) -> Plan:
        """As traced."""
        return self.encoder.plan

    def optimized(self) -> Plan:
        """The plan that runs: fused, except across weights that are stored in different formats."""
        return optimize(self.plan, self.weights)

    def runnable(self) -> Plan:
        """The same: encoders take no adapters."""
        return self.optimized()

    def executor_options(self) -> ExecutorOptions:
        return ExecutorOptions(
            max_num_tokens=self.token_budget,
            max_num_rows=MAX_TEXTS,
            threads=self.options.threads or num_cores(),
            weights=self.options.weights,
            keep_logits=True,
        )

    def load(self, progress: Callable[[str, float], None]) -> EncoderModel:
        """Pack. Raises ModelRefused, EnvironmentProblem."""
        give_back_freed_memory()
        executor = self.make_executor(self.executor_options())
        try:
            with guarded(), self.source.hashed():
                progress("pack", 0.0)
                executor.load(self.runnable(), self.weights, lambda done: progress("pack", done))
                progress("digest", 0.0)
                card = self._card(executor.info(), self.source.digest)
                self.source.check_unchanged()
        except BaseException:
            executor.close()
            raise
        modules = self.encoder.modules
        options = EncoderOptions(
            max_length=self.max_length,
            row=self.encoder.row,
            normalize=modules.normalize,
            has_sigmoid=self.encoder.has_sigmoid,
            lower_case=modules.lower_case,
            prompts=modules.prompts,
            default_prompt=modules.default_prompt,
            truncate_dim=modules.truncate_dim,
            has_special_tokens=self.encoder.has_special_tokens,
            num_token_types=self.encoder.num_token_types,
            empty_row=self.plan.vocab_size if is_static(self.plan) else 0,
        )
        batching = BatcherOptions(token_budget=self.token_budget, max_texts=MAX_TEXTS)
        progress("ready", 1.0)
        return EncoderModel(card, self.source.tokenizer, executor, options, batching)

    def load_models(self, memory_bytes: int, progress: Callable[[str, float], None]) -> list[Model]:
        """As residents.Opening wants it."""
        self.held_bytes(memory_bytes)
        return [self.load(progress)]

    def close(self) -> None:
        """Let go of the files, if the model was not loaded."""
        self.source.close()

    def _card(self, info: ExecutorInfo, digest: str) -> ModelCard:
        encoder = self.encoder
        return ModelCard(
            name=self.name,
            task=encoder.task,
            digest=digest,
            max_model_len=self.max_length,
            vocab_size=encoder.vocab_size,
            architecture=encoder.architecture,
            weights=info.weights,
            file_format=self.source.file_format,
            num_bytes=info.weight_bytes,
            num_parameters=sum(prod(spec.shape) for spec in encoder.plan.weights.values()),
            dimensions=encoder.dimensions if encoder.task == "embed" else 0,
            created=int(time.time()),
        )


def open_encoder_model(
    options: ModelOptions, source: Source, make_executor: Callable[[ExecutorOptions], Executor]
) -> OpenedEncoder:
    """Open and check. Raises ModelRefused, ConfigError."""
    try:
        source.check_packed_as(options.weights)
        encoder, weights = open_encoder(source.config, source.weights, source.file)
        left_over = [name for name in check_weights(encoder.plan, weights) if not is_expected_leftover(name)]
        if options.max_model_len > encoder.max_length:
            raise ConfigError(
                f"--max-model-len {options.max_model_len}: {source.name} was made for {encoder.max_length} tokens"
            )
        need = measure_weights(encoder.plan, weights, options.weights)
    except BaseException:
        source.close()
        raise
    types = max(map(max, filter(None, source.tokenizer.pair_frame.types)), default=0)
    if encoder.task == "rerank" and types >= encoder.num_token_types > 1:
        source.close()
        raise ModelRefused(
            f"tokenizer.json: post_processor gives type {types}; type_vocab_size is {encoder.num_token_types}"
        )
    notes = source.notes
    if left_over:
        notes += (f"{len(left_over)} tensors are not used, among them {left_over[0]}",)
    longest = options.max_model_len or encoder.max_length
    return OpenedEncoder(options, source, encoder, weights, longest, need, notes, make_executor)
