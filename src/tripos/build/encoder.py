"""The part of the composition root that opens embedders and rerankers: a source's files → plan → EncoderModel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from tripos.build.opened import Kind, Opened
from tripos.build.opened import make_executor as make_default_executor
from tripos.config import ModelOptions
from tripos.engine.memory import WeightsNeed, measure_weights, mib
from tripos.errors import ConfigError, ModelRefused
from tripos.models.encoders import Encoder, is_expected_leftover, open_encoder
from tripos.models.families.static import is_static
from tripos.models.files.source import Source
from tripos.models.registry import check_weights
from tripos.models.text.tokenizer import Tokenizer
from tripos.plan.ir import Plan
from tripos.predict.batcher import BatcherOptions
from tripos.predict.encoder import EncoderModel
from tripos.predict.outputs import EncoderOptions
from tripos.repository import Table
from tripos.runtime.executor import Executor, ExecutorOptions
from tripos.runtime.machine import num_cores
from tripos.types import ModelCard

MAX_TEXTS = 256  # of a step
LIVE_TENSORS = 4  # as wide as the widest, at most, at any time of a step


@dataclass(frozen=True)
class EncoderKind(Kind[EncoderModel]):
    """An encoder takes its weights and the activations of a full step, whatever it may take."""

    options: ModelOptions
    source_name: str
    encoder: Encoder
    max_length: int
    need: WeightsNeed
    tokenizer: Callable[[], Tokenizer]

    @property
    def min_bytes(self) -> int:
        """Weights as they run, tables of embeddings as they are stored, and the activations of a full step."""
        return self.need.packed_bytes + self.need.table_bytes + self._activation_bytes

    @property
    def max_bytes(self) -> int:
        return self.min_bytes

    @property
    def _activation_bytes(self) -> int:
        widest = max(tensor.cols for tensor in self.encoder.plan.tensors)
        return 4 * widest * LIVE_TENSORS * self.token_budget

    @property
    def token_budget(self) -> int:
        """Tokens of the largest step."""
        return max(self.options.token_budget, self.max_length)

    def held_bytes(self, memory_bytes: int) -> int:
        if memory_bytes < self.min_bytes:
            raise ModelRefused(
                f"{self.source_name} needs {mib(self.min_bytes)} for weights ({self.need.formats}) and a step of "
                f"{self.token_budget:,} tokens; {mib(memory_bytes)} may be taken: give more --memory, choose smaller "
                "--weights or a smaller --token-budget"
            )
        return self.min_bytes

    def rows(self, memory_bytes: int) -> Table:
        self.held_bytes(memory_bytes)
        return [
            ("will it fit?", self.source_name),
            ("task", self.encoder.task),
            self.need.row(),
            ("activations", f"{mib(self._activation_bytes)} at most, for {self.token_budget:,} tokens in a step"),
            ("inputs", f"up to {self.max_length:,} tokens each"),
            ("limit", f"{mib(memory_bytes)} (--memory)"),
        ]

    @property
    def executor_options(self) -> ExecutorOptions:
        return ExecutorOptions(
            max_num_tokens=self.token_budget,
            max_num_rows=MAX_TEXTS,
            threads=self.options.threads or num_cores(),
            weights=self.options.weights,
            keep_logits=True,
        )

    def card(self, card: ModelCard) -> ModelCard:
        encoder = self.encoder
        return replace(
            card,
            task=encoder.task,
            max_model_len=self.max_length,
            vocab_size=encoder.vocab_size,
            architecture=encoder.architecture,
            dimensions=encoder.dimensions if encoder.task == "embed" else 0,
        )

    def reserve(self, executor: Executor, plan: Plan, memory_bytes: int) -> Callable[[ModelCard], EncoderModel]:
        """There is nothing beside the weights."""
        encoder, modules = self.encoder, self.encoder.modules
        options = EncoderOptions(
            max_length=self.max_length,
            row=encoder.row,
            normalize=modules.normalize,
            has_sigmoid=encoder.has_sigmoid,
            lower_case=modules.lower_case,
            prompts=modules.prompts,
            default_prompt=modules.default_prompt,
            truncate_dim=modules.truncate_dim,
            has_special_tokens=encoder.has_special_tokens,
            num_token_types=encoder.num_token_types,
            empty_row=encoder.plan.vocab_size if is_static(encoder.plan) else 0,
        )
        batching = BatcherOptions(token_budget=self.token_budget, max_texts=MAX_TEXTS)
        return lambda card: EncoderModel(card, self.tokenizer(), executor, options, batching)


def open_encoder_model(
    options: ModelOptions,
    source: Source,
    make_executor: Callable[[ExecutorOptions], Executor] = make_default_executor,
) -> Opened[EncoderModel]:
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
        types = max(map(max, filter(None, source.tokenizer.pair_frame.types)), default=0)
        if encoder.task == "rerank" and types >= encoder.num_token_types > 1:
            raise ModelRefused(
                f"tokenizer.json: post_processor gives type {types}; type_vocab_size is {encoder.num_token_types}"
            )
    except BaseException:
        source.close()
        raise
    notes = source.notes
    if left_over:
        notes += (f"{len(left_over)} tensors are not used, among them {left_over[0]}",)
    longest = options.max_model_len or encoder.max_length
    kind = EncoderKind(options, source.name, encoder, longest, need, lambda: source.tokenizer)
    return Opened(options, source, encoder.plan, weights, kind, make_executor, notes)
