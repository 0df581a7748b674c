"""Engines and models over the ScriptedExecutor, and calls for them, for the tests of this folder."""

from __future__ import annotations

from typing import Any

from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.engine.scheduler import SchedulerOptions
from tripos.runtime.executor import Executor, ExecutorOptions
from tripos.testing import ScriptedExecutor, byte_tokenizer
from tripos.types import Call, Generate, ModelCard, Sampling

EOS = 256
VOCAB_SIZE = 257
BLOCK_SIZE = 4


CARD = ModelCard(name="tiny", task="generate", digest="d" * 64, max_model_len=256, vocab_size=VOCAB_SIZE)


def make_engine(
    num_blocks: int = 64, executor: Executor | None = None, max_model_len: int = 256, **scheduler: Any
) -> Engine:
    executor = executor or ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=BLOCK_SIZE))
    executor.reserve(num_blocks)
    options = EngineOptions(num_blocks, BLOCK_SIZE, max_model_len, SchedulerOptions(**scheduler))
    return Engine(executor, options)


def make_model(num_blocks: int = 64, executor: Executor | None = None, **scheduler: Any) -> LanguageModel:
    return LanguageModel(CARD, byte_tokenizer(), make_engine(num_blocks, executor, **scheduler))


def call(prompt: str | tuple[int, ...] = "hello", *, id: str = "c", principal: str = "", **fields: Any) -> Call:
    generate = {name: fields.pop(name) for name in list(fields) if name in Generate.__struct_fields__}
    outer = {name: fields.pop(name) for name in list(fields) if name in Call.__struct_fields__}
    sampling = Sampling(**{"seed": 1, "ignore_eos": True, **fields})
    request = Generate(prompt=prompt, sampling=sampling, **{"max_tokens": 8, **generate})
    return Call(id=id, route="tiny", principal=principal, request=request, **outer)
