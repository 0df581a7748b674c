"""Schedule → StepInput: the ragged batch and its sampling parameters as arrays.

Owns one table row per running slot (block ids, sampling parameters), written when a sequence moves in and extended
as it grows, so that a step's Python work is a few operations per sequence. Knows nothing of policy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tripos.engine.sequence import Sequence
from tripos.runtime.executor import F32, I32, SamplingInput, StepInput

_ROW = np.dtype(
    [
        ("temperature", np.float32),
        ("top_k", np.int32),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("repetition_penalty", np.float32),
        ("presence_penalty", np.float32),
        ("frequency_penalty", np.float32),
        ("seed", np.uint64),
        ("num_logprobs", np.int32),
    ]
)
_NO_IDS = np.zeros(0, np.int32)
_NO_VALUES = np.zeros(0, np.float32)
_NO_MASK = np.zeros((0, 0), np.uint32)


@dataclass(frozen=True)
class RowOwner:
    """Whose logits row it is: the prompt token at `position` when forced, else the drawn token that goes there."""

    sequence: Sequence
    position: int
    is_forced: bool


@dataclass
class PackedStep:
    """A step and who owns its rows, in row order."""

    step: StepInput
    entries: list[tuple[Sequence, int]]
    owners: list[RowOwner]


class Packer:
    """Turns schedules into steps. `max_blocks` is the longest block table a sequence may have."""

    def __init__(self, max_num_seqs: int, max_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._tenants: list[tuple[Sequence | None, int]] = [(None, -1)] * max_num_seqs
        self._num_blocks = [0] * max_num_seqs
        self._block_tables = np.zeros((max_num_seqs, max_blocks), np.int32)
        self._rows = np.zeros(max_num_seqs, _ROW)
        self._bias: list[tuple[I32, F32]] = [(_NO_IDS, _NO_VALUES)] * max_num_seqs

    def pack(self, entries: list[tuple[Sequence, int]]) -> PackedStep:
        """`entries` are running sequences (with a slot) and the number of tokens to compute, at least 1."""
        num_seqs = len(entries)
        slot_idx = np.empty(num_seqs, np.int64)
        counts = np.empty(num_seqs, np.int32)
        starts = np.empty(num_seqs, np.int32)
        for i, (sequence, num_tokens) in enumerate(entries):
            self._settle(sequence)
            slot_idx[i] = sequence.slot
            counts[i] = num_tokens
            starts[i] = sequence.num_computed_tokens
        query_start = np.zeros(num_seqs + 1, np.int32)
        np.cumsum(counts, out=query_start[1:])
        seq_lens = starts + counts
        num_tokens = int(query_start[-1])
        seq_of_token = np.repeat(np.arange(num_seqs), counts)
        positions = np.arange(num_tokens, dtype=np.int32) + (starts - query_start[:-1])[seq_of_token]
        token_ids = np.empty(num_tokens, np.int32)
        for i, (sequence, count) in enumerate(entries):
            first = sequence.num_computed_tokens
            at = query_start[i]
            token_ids[at : at + count] = sequence.tokens[first : first + count]
        width = -(-int(seq_lens.max()) // self.block_size)
        block_tables = np.ascontiguousarray(self._block_tables[slot_idx, :width])
        blocks = block_tables[seq_of_token, positions // self.block_size]
        owners, last_rows = self._own_rows(entries, query_start)
        step = StepInput(
            token_ids=token_ids,
            positions=positions,
            query_start=query_start,
            seq_lens=seq_lens,
            block_tables=block_tables,
            slots=blocks * np.int32(self.block_size) + positions % np.int32(self.block_size),
            last_rows=last_rows,
            sampling=self._sampling(owners),
        )
        return PackedStep(step, entries, owners)

    def _settle(self, sequence: Sequence) -> None:
        """Bring the slot's rows up to date with the sequence that lives there now."""
        slot = sequence.slot
        tenant, stay = self._tenants[slot]
        if tenant is not sequence or stay != sequence.num_preemptions:
            self._move_in(sequence, slot)
        known, table = self._num_blocks[slot], sequence.block_table
        if known != len(table):
            self._block_tables[slot, known : len(table)] = table[known:]
            self._num_blocks[slot] = len(table)

    def _move_in(self, sequence: Sequence, slot: int) -> None:
        sampling = sequence.sampling
        self._tenants[slot] = (sequence, sequence.num_preemptions)
        self._num_blocks[slot] = 0
        self._rows[slot] = (
            sampling.temperature,
            sampling.top_k,
            sampling.top_p,
            sampling.min_p,
            sampling.repetition_penalty,
            sampling.presence_penalty,
            sampling.frequency_penalty,
            sequence.seed,
            -1 if sampling.logprobs is None else sampling.logprobs,
        )
        bias = sampling.logit_bias
        self._bias[slot] = (
            np.fromiter(bias.keys(), np.int32, len(bias)),
            np.fromiter(bias.values(), np.float32, len(bias)),
        )

    def _own_rows(self, entries: list[tuple[Sequence, int]], query_start: I32) -> tuple[list[RowOwner], I32]:
        owners: list[RowOwner] = []
        rows: list[int] = []
        for (sequence, count), at in zip(entries, query_start.tolist(), strict=False):
            first = sequence.num_computed_tokens
            if sequence.wants_prompt_rows:
                for position in range(max(first + 1, sequence.num_reported_prompt), first + count + 1):
                    if position < sequence.num_prompt_tokens:
                        owners.append(RowOwner(sequence, position, True))
                        rows.append(at + position - 1 - first)
            if first + count == sequence.num_tokens < sequence.max_num_tokens:
                owners.append(RowOwner(sequence, sequence.num_tokens, False))
                rows.append(at + count - 1)
        return owners, np.array(rows, np.int32)

    def _sampling(self, owners: list[RowOwner]) -> SamplingInput:
        num_rows = len(owners)
        slots = np.fromiter((owner.sequence.slot for owner in owners), np.int64, num_rows)
        positions = np.fromiter((owner.position for owner in owners), np.uint64, num_rows)
        rows = self._rows[slots]
        columns = {name: np.ascontiguousarray(rows[name]) for name in _ROW.names or ()}
        forced = np.full(num_rows, -1, np.int32)
        for row, owner in enumerate(owners):
            if owner.is_forced:
                forced[row] = owner.sequence.tokens[owner.position]
                columns["num_logprobs"][row] = owner.sequence.prompt_logprobs
        history_start, history_ids, history_counts = self._history(owners)
        bias_start, bias_ids, bias_values = self._biases(owners)
        return SamplingInput(
            **columns,
            counter=positions,
            forced_token=forced,
            history_start=history_start,
            history_ids=history_ids,
            history_counts=history_counts,
            bias_start=bias_start,
            bias_ids=bias_ids,
            bias_values=bias_values,
            mask_row=np.full(num_rows, -1, np.int32),
            mask=_NO_MASK,
        )

    def _history(self, owners: list[RowOwner]) -> tuple[I32, I32, I32]:
        start = np.zeros(len(owners) + 1, np.int32)
        ids, counts = [], []
        for row, owner in enumerate(owners):
            history = None if owner.is_forced else owner.sequence.history
            if history is not None:
                ids.append(history.ids)
                counts.append(history.counts)
                start[row + 1] = history.size
        if not ids:
            return start, _NO_IDS, _NO_IDS
        return np.cumsum(start, dtype=np.int32), np.concatenate(ids), np.concatenate(counts)

    def _biases(self, owners: list[RowOwner]) -> tuple[I32, I32, F32]:
        start = np.zeros(len(owners) + 1, np.int32)
        ids: list[npt.NDArray[np.int32]] = []
        values: list[npt.NDArray[np.float32]] = []
        for row, owner in enumerate(owners):
            sequence = owner.sequence
            if owner.is_forced:
                continue
            own_ids, own_values = self._bias[sequence.slot]
            if len(own_ids):
                ids.append(own_ids)
                values.append(own_values)
                start[row + 1] = len(own_ids)
            if sequence.num_output_tokens < sequence.sampling.min_tokens and sequence.banned_ids:
                banned = np.fromiter(sorted(sequence.banned_ids), np.int32, len(sequence.banned_ids))
                ids.append(banned)
                values.append(np.full(len(banned), -math.inf, np.float32))
                start[row + 1] += len(banned)
        if not ids:
            return start, _NO_IDS, _NO_VALUES
        return np.cumsum(start, dtype=np.int32), np.concatenate(ids), np.concatenate(values)
