"""The executor contract: load a plan, reserve cache blocks, run one step of a ragged batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tripos.plan.ir import Adapter, Plan, Weights

I32 = npt.NDArray[np.int32]
F32 = npt.NDArray[np.float32]
U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]


def _i32(n: int = 0) -> I32:
    return np.zeros(n, np.int32)


def _f32(n: int = 0) -> F32:
    return np.zeros(n, np.float32)


@dataclass
class SamplingInput:
    """How to turn S rows of logits into S tokens. Arrays have length S unless stated.

    Penalties read `history`: for row r the entries history_start[r]:history_start[r+1] list the distinct token
    ids seen so far; history_counts is how often each stands in the *output* (0: only in the prompt).
    Bias entries bias_start[r]:bias_start[r+1] are added to the logits (-inf bans a token).
    """

    temperature: F32  # 0 = greedy
    top_k: I32  # 0 = all
    top_p: F32
    min_p: F32
    repetition_penalty: F32
    presence_penalty: F32
    frequency_penalty: F32
    seed: U64
    counter: U64  # position of the token to be drawn; with seed it fixes the random number
    forced_token: I32  # >= 0: no draw, report this token's logprob; -1: draw
    num_logprobs: I32  # -1: none, k >= 0: the chosen token's and the k likeliest
    history_start: I32  # [S + 1]
    history_ids: I32
    history_counts: I32
    bias_start: I32  # [S + 1]
    bias_ids: I32
    bias_values: F32
    mask_row: I32  # row of `mask` that allows tokens, -1: all allowed
    mask: U32  # [num_masks, ceil(vocab_size / 32)], bit set = allowed
    requested_start: I32  # [S + 1]
    requested_ids: I32  # tokens whose logprobs a row reports too; such a row has num_logprobs >= 0

    @staticmethod
    def greedy(num_rows: int) -> SamplingInput:
        """Plain argmax for every row."""
        ones = np.ones(num_rows, np.float32)
        return SamplingInput(
            temperature=_f32(num_rows), top_k=_i32(num_rows), top_p=ones, min_p=_f32(num_rows),
            repetition_penalty=ones, presence_penalty=_f32(num_rows), frequency_penalty=_f32(num_rows),
            seed=np.zeros(num_rows, np.uint64), counter=np.zeros(num_rows, np.uint64),
            forced_token=np.full(num_rows, -1, np.int32), num_logprobs=np.full(num_rows, -1, np.int32),
            history_start=_i32(num_rows + 1), history_ids=_i32(), history_counts=_i32(),
            bias_start=_i32(num_rows + 1), bias_ids=_i32(), bias_values=_f32(),
            mask_row=np.full(num_rows, -1, np.int32), mask=np.zeros((0, 0), np.uint32),
            requested_start=_i32(num_rows + 1), requested_ids=_i32(),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class StepInput:
    """One step: T tokens of B sequences, S rows whose logits are wanted. All int32, C-contiguous.

    Sequence b owns tokens query_start[b]:query_start[b+1]; they are its positions
    seq_lens[b] - num_queries[b] .. seq_lens[b] - 1. block_tables[b, i] is the block that holds positions
    i*block_size .. (i+1)*block_size - 1; slots[t] = block * block_size + position % block_size.

    An executor may be given the same object again: its arrays are the same ones, and of their contents only token_ids,
    positions, seq_lens, block_tables, slots, sampling.counter and sampling.mask may be new.
    """

    token_ids: I32  # [T]
    positions: I32  # [T]
    query_start: I32  # [B + 1]
    seq_lens: I32  # [B], tokens in the cache once this step's are written
    block_tables: I32  # [B, max_blocks], unused entries 0
    slots: I32  # [T]
    last_rows: I32  # [S], token rows that get logits
    sampling: SamplingInput
    token_types: I32 = field(default_factory=_i32)  # [T], rows of the table of token types; empty: all 0
    adapter_slots: I32 | None = None  # [B], the adapter of each sequence, -1: none; None: no sequence has one


@dataclass
class StepOutput:
    """What a step drew. Rows with `ok` 0 had non-finite logits: fail that request, keep the others."""

    token_ids: I32  # [S]
    logprobs: F32  # [S], of token_ids under the unmodified distribution; 0 where not asked
    top_ids: I32  # [S, K], K = largest num_logprobs of the step, likeliest first
    top_logprobs: F32  # [S, K]
    ok: npt.NDArray[np.uint8]  # [S]
    requested_logprobs: F32 = field(default_factory=_f32)  # of requested_ids, under the unmodified distribution
    logits: F32 | None = None  # [S, vocab_size], only when the executor was told to keep them

    @staticmethod
    def zeros(step: StepInput, logits: F32 | None = None) -> StepOutput:
        """The output arrays of a step, zeroed."""
        num_rows = len(step.last_rows)
        width = max((0, *step.sampling.num_logprobs.tolist()))
        return StepOutput(
            token_ids=_i32(num_rows),
            logprobs=_f32(num_rows),
            top_ids=np.zeros((num_rows, width), np.int32),
            top_logprobs=np.zeros((num_rows, width), np.float32),
            ok=np.zeros(num_rows, np.uint8),
            requested_logprobs=_f32(len(step.sampling.requested_ids)),
            logits=logits,
        )


@dataclass(frozen=True)
class ExecutorOptions:
    """Options of every executor."""

    block_size: int = 32  # tokens per cache block
    max_num_tokens: int = 2048  # T of the largest step
    max_num_rows: int = 256  # S of the largest step
    threads: int = 0  # 0: one per core that we may use
    weights: str = "auto"  # auto = the checkpoint's own type; fp32, bf16, fp16, int8, int4, fp8
    kv_cache: str = "auto"  # fp32, fp16, int8
    isa: str = "auto"  # auto, or one of what native.about() names
    keep_logits: bool = False
    max_adapters: int = 0  # slots for low-rank adapters; the plan must have gone through plan.lora.with_adapters
    profile: bool = False  # time each kind of phase; costs about 1 %


@dataclass(frozen=True)
class ExecutorInfo:
    """What the executor uses, for `tripos doctor`, logs and benchmarks."""

    name: str
    isa: str
    threads: int
    weights: str
    kv_cache: str
    weight_bytes: int
    kv_bytes_per_token: int
    arena_bytes: int
    kernels: dict[str, str] = field(default_factory=dict)  # op or format -> kernel
    num_sliced_steps: int = 0  # steps since load of which each thread ran a slice of its own
    # Kind of phase -> seconds since load, all threads together: running, waiting before it. Empty without a profile.
    profile: dict[str, tuple[float, float]] = field(default_factory=dict)


Progress = Callable[[float], None]  # is called with the part of a load that is done, 0 to 1


def ignore_progress(done: float) -> None:
    """The default: shows no progress."""


class Executor(Protocol):
    """Runs plans. Calls come from one thread at a time."""

    def load(self, plan: Plan, weights: Weights, progress: Progress = ignore_progress) -> None:
        """Copy the weights into memory of the executor: no step reads them from their files."""
        ...

    def reserve(self, num_blocks: int) -> int:
        """Reserve cache memory for num_blocks blocks (again: grow or shrink; contents are lost)."""
        ...

    def run(self, step: StepInput) -> StepOutput: ...

    def load_adapter(self, slot: int, adapter: Adapter) -> None:
        """Put an adapter into a slot, or an empty one to free it. May come from another thread, and while a step runs
        that does not use the slot. Raises ModelRefused for one that does not fit the plan."""
        ...

    def info(self) -> ExecutorInfo: ...
    def close(self) -> None: ...
