"""A sequence: its known tokens, how many are computed, and the blocks it holds. Steps let computed catch up with known.

Owns no policy; scheduler, packer and engine each change their own fields.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from tripos.engine.admission import Ticket
from tripos.engine.block_pool import NO_PARENT, BlockRef
from tripos.engine.reasoning import ReasoningMatcher
from tripos.engine.rules import TokenRules
from tripos.grammar.matcher import Matcher
from tripos.runtime.executor import I32
from tripos.types import Priority, Sampling


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"  # waits again; its tokens are known, its blocks are gone
    HELD = "held"  # nobody reads its output: it waits for `resume`, not for a place
    FINISHED = "finished"


def choice_seed(seed: int, index: int) -> int:
    """The seed of choice `index` of a request: the request's own for choice 0, else the first 8 bytes
    (little-endian) of SHA-256("tripos.choice" ‖ seed as 8 bytes ‖ index as 4 bytes).
    """
    if index == 0:
        return seed
    data = b"tripos.choice" + seed.to_bytes(8, "little") + index.to_bytes(4, "little")
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


class TokenCounts:
    """The distinct tokens of a sequence and how often each was output, for penalties. Grows in place."""

    def __init__(self, prompt: Iterable[int]) -> None:
        self._row_of = {token: row for row, token in enumerate(dict.fromkeys(prompt))}
        self.size = len(self._row_of)
        self._ids = np.fromiter(self._row_of, np.int32, self.size)
        self._counts = np.zeros(self.size, np.int32)

    @property
    def ids(self) -> I32:
        return self._ids[: self.size]

    @property
    def counts(self) -> I32:
        return self._counts[: self.size]

    def add(self, token: int) -> None:
        row = self._row_of.setdefault(token, self.size)
        if row == self.size:
            if self.size == len(self._ids):
                space = np.zeros(max(64, self.size), np.int32)
                self._ids, self._counts = np.concatenate((self._ids, space)), np.concatenate((self._counts, space))
            self._ids[row] = token
            self.size += 1
        self._counts[row] += 1


@dataclass(eq=False)
class Sequence:
    """One choice of one request. `order` is its place in its priority's queue; smaller goes first.

    Positions count from 0; `tokens[:num_tokens]` are known, of these the first `num_computed_tokens` stand in the
    cache. `seed` and a token's position fix its draw, whatever the batch.
    """

    prompt: I32
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    eos_ids: frozenset[int] = frozenset()
    identity: bytes = b""  # PrefixIdentity.encode()
    priority: Priority = Priority.ONLINE
    deadline_s: float | None = None
    arrival_s: float = 0.0
    prompt_logprobs: int | None = None
    index: int = 0  # which choice of its request
    adapter_slot: int = -1  # of the executor; -1: none
    matcher: Matcher | ReasoningMatcher | None = None  # follows the output tokens where they are constrained
    rules: TokenRules | None = None  # defaults of the checkpoint, where there are any and no matcher decides
    siblings: list[Sequence] = field(default_factory=list)  # wait until the shared prefix is in the cache
    num_shared_tokens: int = 0  # of the prompt: with the sequence it waits for; of a leader, with any sibling
    ticket: Ticket | None = None  # of admission, released when first scheduled

    order: tuple[int, int] = (0, 0)
    status: Status = Status.WAITING
    num_computed_tokens: int = 0
    num_drafts: int = 0  # draft tokens, written after the known ones and not known until drawn
    num_cached_tokens: int = 0  # found in the prefix cache when first admitted
    block_table: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)  # of the full blocks of known tokens, grown on demand
    num_registered_blocks: int = 0
    last_registered: BlockRef = NO_PARENT
    batch_idx: int = -1  # its place among the running, and row in pack's tables; -1: none
    num_stays: int = 0  # how often it was given a place
    num_preemptions: int = 0
    num_reported_prompt: int = 1  # prompt tokens whose logprob is reported or has none
    first_scheduled_s: float | None = None
    first_token_s: float | None = None
    prefill_s: float = 0.0
    decode_s: float = 0.0

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.prompt)
        self.num_tokens = self.num_prompt_tokens
        self.tokens = np.empty(self.num_prompt_tokens + 64, np.int32)
        self.tokens[: self.num_tokens] = self.prompt
        sampling = self.sampling
        stops = frozenset(sampling.stop_token_ids)
        self.stop_ids = stops if sampling.ignore_eos else stops | self.eos_ids
        self.banned_ids = stops | self.eos_ids  # until min_tokens are output
        has_penalty = sampling.presence_penalty or sampling.frequency_penalty or sampling.repetition_penalty != 1.0
        self.history: TokenCounts | None = None
        if has_penalty:
            self.history = TokenCounts(self.prompt.tolist() if sampling.repetition_penalty != 1.0 else ())
        # whether the packer needs more than its row of the tables
        has_own_ids = sampling.logit_bias or sampling.logprob_token_ids
        self.is_adjusted = bool(has_penalty or has_own_ids or sampling.min_tokens or self.matcher or self.rules)
        # whether the next step has the same sampling parameters
        self.is_steady = not (has_penalty or sampling.min_tokens or (self.rules and self.rules.depends_on_place))

    @property
    def key(self) -> tuple[int, tuple[int, int]]:
        """Smaller is served first and preempted last."""
        return (int(self.priority), self.order)

    @property
    def num_output_tokens(self) -> int:
        return self.num_tokens - self.num_prompt_tokens

    @property
    def max_num_tokens(self) -> int:
        return self.num_prompt_tokens + self.max_tokens

    @property
    def wants_prompt_rows(self) -> bool:
        """Whether logprobs of prompt tokens are still to be computed."""
        return self.prompt_logprobs is not None and self.num_reported_prompt < self.num_prompt_tokens

    @property
    def is_finished(self) -> bool:
        return self.status is Status.FINISHED

    def draft(self, tokens: list[int]) -> None:
        """Write draft tokens behind the known ones, for one step."""
        end = self.num_tokens + len(tokens)
        if end >= len(self.tokens):  # the token drawn after the last draft token has its place too
            self.tokens = np.concatenate((self.tokens, np.empty_like(self.tokens)))
        self.tokens[self.num_tokens : end] = tokens
        self.num_drafts = len(tokens)

    def append(self, token: int) -> None:
        if self.num_tokens == len(self.tokens):
            self.tokens = np.concatenate((self.tokens, np.empty_like(self.tokens)))
        self.tokens[self.num_tokens] = token
        self.num_tokens += 1
        if self.history is not None:
            self.history.add(token)

    def block_tokens(self, index: int, block_size: int) -> bytes:
        """Token ids of full block `index` as little-endian int32 bytes."""
        return self.tokens[index * block_size : (index + 1) * block_size].astype("<i4", copy=False).tobytes()
