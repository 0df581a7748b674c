"""A byte-level tokenizer and an engine over the ScriptedExecutor, for the tests of this folder."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.engine.scheduler import SchedulerOptions
from tripos.runtime.executor import Executor, ExecutorOptions
from tripos.testing import ScriptedExecutor
from tripos.types import Call, Generate, Message, ModelCard, Sampling

EOS = 0
BLOCK_SIZE = 4


class ByteDecoder:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        return self._decoder.decode(bytes((token_id,)))

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)


class ByteTokenizer:
    """One token per byte; 0 ends."""

    vocab_size = 256
    eos_ids = frozenset({EOS})

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def encode_chat(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = (), **template_args: Any
    ) -> list[int]:
        return self.encode("".join(f"{message.role}: {message.content}\n" for message in messages))

    def token_bytes(self, token_id: int) -> bytes:
        return bytes((token_id,))

    def decoder(self, prompt: Sequence[int] = ()) -> ByteDecoder:
        return ByteDecoder()


CARD = ModelCard(name="tiny", task="generate", digest="d" * 64, max_model_len=256, vocab_size=256)


def make_engine(
    num_blocks: int = 64, executor: Executor | None = None, max_model_len: int = 256, **scheduler: Any
) -> Engine:
    executor = executor or ScriptedExecutor(options=ExecutorOptions(block_size=BLOCK_SIZE))
    executor.reserve(num_blocks)
    options = EngineOptions(num_blocks, BLOCK_SIZE, max_model_len, SchedulerOptions(**scheduler))
    return Engine(executor, options)


def make_model(num_blocks: int = 64, executor: Executor | None = None, **scheduler: Any) -> LanguageModel:
    return LanguageModel(CARD, ByteTokenizer(), make_engine(num_blocks, executor, **scheduler))


def call(prompt: str | tuple[int, ...] = "hello", *, id: str = "c", principal: str = "", **fields: Any) -> Call:
    generate = {name: fields.pop(name) for name in list(fields) if name in Generate.__struct_fields__}
    outer = {name: fields.pop(name) for name in list(fields) if name in Call.__struct_fields__}
    sampling = Sampling(**{"seed": 1, "ignore_eos": True, **fields})
    request = Generate(prompt=prompt, sampling=sampling, **{"max_tokens": 8, **generate})
    return Call(id=id, route="tiny", principal=principal, request=request, **outer)
