"""The fakes that ship with the seams: ScriptedExecutor for runtime.Executor, ScriptedModel for types.Model; and a
tokenizer of single bytes. All are deterministic and take no time unless told to.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence

import numpy as np

from tripos.models.text.token_bytes import byte_alphabet
from tripos.models.text.tokenizer import Tokenizer, tokenizer_from_json
from tripos.plan.ir import Adapter, Plan, Weights
from tripos.runtime.executor import ExecutorInfo, ExecutorOptions, Progress, StepInput, StepOutput, ignore_progress
from tripos.runtime.sampling import GOLDEN, MASK
from tripos.runtime.sampling import mix as splitmix
from tripos.types import Call, Delta, Event, Finish, ModelCard, ModelInfo, Usage


def mix(state: int, value: int) -> int:
    """One SplitMix64 step (Steele et al. 2014): the arithmetic behind scripted tokens."""
    return splitmix((state + GOLDEN * (value + 1)) & MASK)


class ScriptedExecutor:
    """Draws tokens that depend on the whole sequence as the *cache* holds it, read through the block tables.

    The "cache" stores token id, position and adapter per slot, so a wrong slot, block, position, adapter, stale or
    missing entry changes what is drawn, or raises. `next_token(tokens, seed, counter)` may replace the script; an
    adapter changes the seed.
    """

    def __init__(
        self,
        vocab_size: int = 257,
        options: ExecutorOptions | None = None,
        *,
        next_token: Callable[[list[int], int, int], int] | None = None,
        step_s: float = 0.0,
        before_run: Callable[[StepInput], None] | None = None,
        is_ok: Callable[[list[int]], bool] | None = None,
    ) -> None:
        self.options = options or ExecutorOptions()
        self.vocab_size = vocab_size
        self.num_steps = 0
        self._next_token = next_token or self.script
        self._step_s = step_s
        self._before_run = before_run
        self._is_ok = is_ok or (lambda tokens: True)
        self._slots = np.full((0, 3), -1, np.int64)
        self.adapters: dict[int, Adapter] = {}  # by slot, the loaded ones

    def load(self, plan: Plan, weights: Weights, progress: Progress = ignore_progress) -> None:
        self.vocab_size = plan.vocab_size

    def reserve(self, num_blocks: int) -> int:
        self._slots = np.full((num_blocks * self.options.block_size, 3), -1, np.int64)
        return num_blocks

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        if adapter:
            self.adapters[slot] = adapter
        else:
            self.adapters.pop(slot, None)

    def run(self, step: StepInput) -> StepOutput:
        if self._before_run is not None:
            self._before_run(step)
        if self._step_s:
            time.sleep(self._step_s)
        self.num_steps += 1
        self._slots[step.slots, 0] = step.token_ids
        self._slots[step.slots, 1] = step.positions
        tags = [self._tag(step, owner) for owner in range(len(step.seq_lens))]
        self._slots[step.slots, 2] = np.repeat(tags, np.diff(step.query_start))
        out = StepOutput.zeros(step)
        out.ok[:] = 1
        for row, token_row in enumerate(step.last_rows.tolist()):
            self._draw(step, out, row, token_row)
        return out

    def info(self) -> ExecutorInfo:
        return ExecutorInfo("scripted", "none", 1, "none", "none", 0, 0, 0)

    def close(self) -> None:
        self.reserve(0)

    def _draw(self, step: StepInput, out: StepOutput, row: int, token_row: int) -> None:
        sampling = step.sampling
        owner = int(np.searchsorted(step.query_start, token_row, side="right")) - 1
        tokens = self._read(step, owner, int(step.positions[token_row]) + 1)
        counter = int(sampling.counter[row])
        if counter != len(tokens):
            raise ValueError(f"row {row} draws position {counter} after {len(tokens)} tokens")
        forced = int(sampling.forced_token[row])
        bias = slice(sampling.bias_start[row], sampling.bias_start[row + 1])
        banned = set(sampling.bias_ids[bias][np.isneginf(sampling.bias_values[bias])].tolist())
        seed = int(sampling.seed[row]) ^ self._tag(step, owner)
        if sampling.mask_row[row] >= 0:
            bits = np.unpackbits(sampling.mask[sampling.mask_row[row]].view(np.uint8), bitorder="little")
            banned |= set(np.flatnonzero(bits[: self.vocab_size] == 0).tolist())
        token = forced if forced >= 0 else self._allowed(self._next_token(tokens, seed, counter), banned)
        out.token_ids[row] = token
        out.ok[row] = self._is_ok(tokens)
        if sampling.num_logprobs[row] >= 0:
            state = self._digest(tokens)
            out.logprobs[row] = self._logprob(state, token)
            for i in range(sampling.requested_start[row], sampling.requested_start[row + 1]):
                out.requested_logprobs[i] = self._logprob(state, int(sampling.requested_ids[i]))
            for k in range(int(sampling.num_logprobs[row])):
                out.top_ids[row, k] = (token + k) % self.vocab_size
                out.top_logprobs[row, k] = out.logprobs[row] - k

    @staticmethod
    def _logprob(state: int, token: int) -> float:
        return -((mix(state, token) % 1000) / 100.0)

    def _read(self, step: StepInput, owner: int, num_tokens: int) -> list[int]:
        size = self.options.block_size
        positions = np.arange(num_tokens)
        cached = self._slots[step.block_tables[owner, positions // size] * size + positions % size]
        if not np.array_equal(cached[:, 1], positions):
            raise ValueError(f"sequence {owner} reads cache slots that hold other positions")
        if np.any(cached[:, 2] != self._tag(step, owner)):
            raise ValueError(f"sequence {owner} reads cache slots of another adapter")
        tokens: list[int] = cached[:, 0].tolist()
        return tokens

    def _tag(self, step: StepInput, owner: int) -> int:
        """0 without an adapter, else a number that the adapter's scales decide. Raises for a slot without one."""
        slot = -1 if step.adapter_slots is None else int(step.adapter_slots[owner])
        if slot < 0:
            return 0
        if slot not in self.adapters:
            raise ValueError(f"sequence {owner} uses slot {slot}, which holds no adapter")
        scales = sorted((name, low.scale) for name, low in self.adapters[slot].items())
        return zlib.crc32(repr(scales).encode())

    def _allowed(self, token: int, banned: set[int]) -> int:
        while token in banned:
            token = (token + 1) % self.vocab_size
        return token

    def _digest(self, tokens: Sequence[int]) -> int:
        state = 0
        for token in tokens:
            state = mix(state, token)
        return state

    def script(self, tokens: list[int], seed: int, counter: int) -> int:
        """The token that follows `tokens`, unless `next_token` says otherwise."""
        return mix(mix(self._digest(tokens), seed), counter) % self.vocab_size


def byte_tokenizer(markers: Sequence[str] = ()) -> Tokenizer:
    """256 tokens, one per byte, token id = byte, and id 256 = "</s>", which ends; then `markers`, special as well."""
    vocab = dict(byte_alphabet())
    definition = {
        "version": "1.0",
        "added_tokens": [
            {"id": 256 + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
            for i, content in enumerate(("</s>", *markers))
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {"type": "BPE", "vocab": vocab, "merges": []},
    }  # fmt: skip
    tokenizer = tokenizer_from_json(json.dumps(definition).encode())
    tokenizer.assign_roles(bos_id=None, eos_ids=frozenset({256}), template_source=None)
    return tokenizer


class ScriptedModel:
    """Answers every call with the same events, `delay_s` apart; remembers the calls and who let go early."""

    def __init__(
        self,
        events: Sequence[Event | Exception] | None = None,
        *,
        name: str = "scripted",
        card: ModelCard | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.card = card or ModelCard(
            name=name, task="generate", digest="0" * 64, max_model_len=2048, vocab_size=256, architecture="scripted"
        )
        self.events: Sequence[Event | Exception] = events if events is not None else _default_events()
        self.delay_s = delay_s
        self.calls: list[Call] = []
        self.num_cancelled = 0
        self.num_active = 0
        self.is_started = False

    async def start(self) -> None:
        self.is_started = True

    async def stop(self) -> None:
        self.is_started = False

    async def info(self) -> ModelInfo:
        return ModelInfo(is_progressing=self.is_started)

    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        self.calls.append(call)
        self.num_active += 1
        is_complete = False
        try:
            for event in self.events:
                await asyncio.sleep(self.delay_s)
                if isinstance(event, Exception):
                    raise event
                is_complete = isinstance(event, Finish)
                yield event
        finally:
            self.num_active -= 1
            self.num_cancelled += not is_complete


def _default_events() -> list[Event]:
    return [
        Delta(text="Hello", token_ids=(1,)),
        Delta(text=" there", token_ids=(2,)),
        Delta(text=".", token_ids=(3,), finish_reason="stop"),
        Finish(reason="stop", usage=Usage(prompt_tokens=4, output_tokens=3)),
    ]
