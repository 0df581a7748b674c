"""Schedule → StepInput: the ragged batch and its sampling parameters as arrays.

Owns one table row per place in the batch (block ids, sampling parameters), written when a sequence moves in and
extended as it grows, so that a step's Python work is a few operations per sequence. Knows nothing of policy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tripos.engine.packed_step import MaskRows, PackedStep, RowKey, RowOwner, SteadyStep
from tripos.engine.sequence import Sequence
from tripos.runtime.executor import F32, I32, U32, SamplingInput, StepInput

_COLUMNS: dict[str, type[np.generic]] = {
    "temperature": np.float32,
    "top_k": np.int32,
    "top_p": np.float32,
    "min_p": np.float32,
    "repetition_penalty": np.float32,
    "presence_penalty": np.float32,
    "frequency_penalty": np.float32,
    "seed": np.uint64,
    "num_logprobs": np.int32,
}
_NO_IDS = np.zeros(0, np.int32)
_NO_VALUES = np.zeros(0, np.float32)
_NO_MASK = np.zeros((0, 0), np.uint32)


class Packer:
    """Turns schedules into steps. `max_blocks`: entries of the longest block table."""

    def __init__(self, max_num_seqs: int, max_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self._tenants: list[tuple[Sequence | None, int]] = [(None, -1)] * max_num_seqs
        self._num_blocks = [0] * max_num_seqs
        self._block_tables = np.zeros((max_num_seqs, max_blocks), np.int32)
        self._columns = {name: np.zeros(max_num_seqs, dtype) for name, dtype in _COLUMNS.items()}
        self._adapter_slots = np.full(max_num_seqs, -1, np.int32)
        self._num_moves = 0
        self._last: SteadyStep | None = None
        self._bias: list[tuple[I32, F32]] = [(_NO_IDS, _NO_VALUES)] * max_num_seqs
        self._mask = _NO_MASK  # grows on demand; its rows are written before each step

    def pack(self, entries: list[tuple[Sequence, int]]) -> PackedStep:
        """`entries` are running sequences (with a batch_idx) and the number of tokens to compute, at least 1."""
        for sequence, _ in entries:
            self._settle(sequence)
        last = self._last
        if last is not None and last.is_continued_by(entries, self._num_moves):
            return last.advance(entries)
        batch_idx = np.array([sequence.batch_idx for sequence, _ in entries])
        counts = np.array([num_tokens for _, num_tokens in entries], np.int32)
        starts = np.array([sequence.num_computed_tokens for sequence, _ in entries], np.int32)
        query_start = np.zeros(len(entries) + 1, np.int32)
        np.cumsum(counts, out=query_start[1:])
        seq_lens = starts + counts
        seq_of_token = np.repeat(np.arange(len(entries)), counts)
        positions = np.arange(query_start[-1], dtype=np.int32) + (starts - query_start[:-1])[seq_of_token]
        token_ids = np.concatenate([s.tokens[s.num_computed_tokens : s.num_computed_tokens + n] for s, n in entries])
        width = -(-int(seq_lens.max()) // self.block_size)
        block_tables = np.ascontiguousarray(self._block_tables[batch_idx, :width])
        blocks = block_tables[seq_of_token, positions // self.block_size]
        owners, last_rows = self._own_rows(entries, query_start)
        sampling, masks, key = self._sampling(owners)
        adapter_slots = self._adapter_slots[batch_idx]
        step = StepInput(
            token_ids=token_ids,
            positions=positions,
            query_start=query_start,
            seq_lens=seq_lens,
            block_tables=block_tables,
            slots=blocks * np.int32(self.block_size) + positions % np.int32(self.block_size),
            last_rows=last_rows,
            sampling=sampling,
            adapter_slots=adapter_slots if adapter_slots.max() >= 0 else None,
        )
        packed = PackedStep(step, entries, owners, masks)
        self._last = SteadyStep(packed, key, self.block_size) if key is not None else None
        return packed

    def _settle(self, sequence: Sequence) -> None:
        """Bring the tables' rows up to date with the sequence that has the place now."""
        idx = sequence.batch_idx
        tenant, stay = self._tenants[idx]
        if tenant is not sequence or stay != sequence.num_stays:
            self._move_in(sequence, idx)
        known, table = self._num_blocks[idx], sequence.block_table
        if known != len(table):
            self._block_tables[idx, known : len(table)] = table[known:]
            self._num_blocks[idx] = len(table)

    def _move_in(self, sequence: Sequence, idx: int) -> None:
        sampling = sequence.sampling
        self._num_moves += 1
        self._tenants[idx] = (sequence, sequence.num_stays)
        self._num_blocks[idx] = 0
        self._adapter_slots[idx] = sequence.adapter_slot
        num_logprobs = -1 if sampling.logprobs is None else sampling.logprobs
        own = {"seed": sequence.seed, "num_logprobs": num_logprobs}
        for name, column in self._columns.items():
            column[idx] = own[name] if name in own else getattr(sampling, name)
        bias = sampling.logit_bias
        own_bias = (
            np.fromiter(bias.keys(), np.int32, len(bias)),
            np.fromiter(bias.values(), np.float32, len(bias)),
        )
        self._bias[idx] = _joined(own_bias, sequence.rules.always) if sequence.rules is not None else own_bias

    def _own_rows(self, entries: list[tuple[Sequence, int]], query_start: I32) -> tuple[list[RowOwner], I32]:
        owners: list[RowOwner] = []
        rows: list[int] = []
        for (sequence, count), at in zip(entries, query_start.tolist(), strict=False):
            first = sequence.num_computed_tokens
            if sequence.prompt_logprobs is not None and sequence.wants_prompt_rows:
                for position in range(max(first + 1, sequence.num_reported_prompt), first + count + 1):
                    if position < sequence.num_prompt_tokens:
                        owners.append(RowOwner(sequence, position, True))
                        rows.append(at + position - 1 - first)
            known = sequence.num_tokens
            if (
                known < sequence.max_num_tokens
            ):  # one row for the last known token, and one for each draft token after it
                for position in range(known, first + count + 1):
                    owners.append(RowOwner(sequence, position, False))
                    rows.append(at + position - 1 - first)
        return owners, np.array(rows, np.int32)

    def _sampling(self, owners: list[RowOwner]) -> tuple[SamplingInput, list[MaskRows], RowKey | None]:
        """The rows' sampling parameters, the masks to write, and the key of the rows where all are steady."""
        num_rows = len(owners)
        batch_idx = np.array([owner.sequence.batch_idx for owner in owners], np.int64)
        positions = np.array([owner.position for owner in owners], np.uint64)
        is_steady = all(owner.sequence.is_steady and not owner.is_forced for owner in owners)
        key = RowKey(self._num_moves, batch_idx.tobytes()) if is_steady else None
        if self._last is not None and key == self._last.key:
            return self._last.sampling(positions), self._last.masks, key
        columns: dict[str, Any] = {name: column[batch_idx] for name, column in self._columns.items()}
        forced = np.full(num_rows, -1, np.int32)
        adjusted = []
        for row, owner in enumerate(owners):
            if owner.is_forced:
                forced[row] = owner.sequence.tokens[owner.position]
                columns["num_logprobs"][row] = owner.sequence.prompt_logprobs
            elif owner.sequence.is_adjusted:
                adjusted.append((row, owner))
        history_start, history_ids, history_counts = self._history(adjusted, num_rows)
        bias_start, bias_ids, bias_values = self._biases(adjusted, num_rows)
        mask_row, mask, mask_rows = self._mask_rows(adjusted, num_rows)
        requested_start, requested_ids = self._requested(adjusted, num_rows)
        sampling = SamplingInput(
            **columns,
            counter=positions,
            forced_token=forced,
            history_start=history_start,
            history_ids=history_ids,
            history_counts=history_counts,
            bias_start=bias_start,
            bias_ids=bias_ids,
            bias_values=bias_values,
            mask_row=mask_row,
            mask=mask,
            requested_start=requested_start,
            requested_ids=requested_ids,
        )
        return sampling, mask_rows, key

    def _mask_rows(self, adjusted: list[tuple[int, RowOwner]], num_rows: int) -> tuple[I32, U32, list[MaskRows]]:
        """Rows of the mask for constrained sequences, those of one sequence side by side, not yet written."""
        mask_row = np.full(num_rows, -1, np.int32)
        spans: dict[Sequence, int] = {}
        num_masks = 0
        for row, owner in adjusted:
            if owner.sequence.matcher is not None:
                spans.setdefault(owner.sequence, num_masks)
                mask_row[row] = num_masks
                num_masks += 1
        if not spans:
            return mask_row, _NO_MASK, []
        num_words = max(sequence.matcher.num_words for sequence in spans if sequence.matcher is not None)
        if self._mask.shape[0] < num_masks or self._mask.shape[1] != num_words:
            self._mask = np.empty((max(num_masks, 2 * len(self._mask)), num_words), np.uint32)
        mask = self._mask[:num_masks]
        ends = [*list(spans.values())[1:], num_masks]
        return mask_row, mask, [MaskRows(s, mask[at:end]) for (s, at), end in zip(spans.items(), ends, strict=True)]

    def _history(self, adjusted: list[tuple[int, RowOwner]], num_rows: int) -> tuple[I32, I32, I32]:
        counts_of = [(row, owner.sequence.history) for row, owner in adjusted if owner.sequence.history is not None]
        if not counts_of:
            return np.zeros(num_rows + 1, np.int32), _NO_IDS, _NO_IDS
        start = _starts(num_rows, [(row, history.size) for row, history in counts_of])
        return (
            start,
            np.concatenate([history.ids for _, history in counts_of]),
            np.concatenate([history.counts for _, history in counts_of]),
        )

    def _biases(self, adjusted: list[tuple[int, RowOwner]], num_rows: int) -> tuple[I32, I32, F32]:
        biases = [(row, *self._bias_of(owner)) for row, owner in adjusted]
        if not biases:
            return np.zeros(num_rows + 1, np.int32), _NO_IDS, _NO_VALUES
        start = _starts(num_rows, [(row, len(ids)) for row, ids, _ in biases])
        return start, np.concatenate([ids for _, ids, _ in biases]), np.concatenate([values for _, _, values in biases])

    def _requested(self, adjusted: list[tuple[int, RowOwner]], num_rows: int) -> tuple[I32, I32]:
        ids_of = [(row, np.array(owner.sequence.sampling.logprob_token_ids, np.int32)) for row, owner in adjusted]
        if not ids_of:
            return np.zeros(num_rows + 1, np.int32), _NO_IDS
        return _starts(num_rows, [(row, len(ids)) for row, ids in ids_of]), np.concatenate([ids for _, ids in ids_of])

    def _bias_of(self, owner: RowOwner) -> tuple[I32, F32]:
        """The request's own bias, the model's rules, and a ban on every stop token until min_tokens are output."""
        sequence = owner.sequence
        bias = self._bias[sequence.batch_idx]
        if sequence.rules is not None and sequence.rules.depends_on_place:
            before = sequence.tokens[: owner.position]  # drafts too
            bias = _joined(bias, sequence.rules.at(before, sequence.num_prompt_tokens))
        if owner.position - sequence.num_prompt_tokens < sequence.sampling.min_tokens:
            banned = np.array(sorted(sequence.banned_ids), np.int32)
            bias = _joined(bias, (banned, np.full(len(banned), -math.inf, np.float32)))
        return bias


def _joined(one: tuple[I32, F32], other: tuple[I32, F32]) -> tuple[I32, F32]:
    return np.concatenate((one[0], other[0])), np.concatenate((one[1], other[1]))


def _starts(num_rows: int, sizes: list[tuple[int, int]]) -> I32:
    """Where each row's entries begin; rows not listed have none."""
    start = np.zeros(num_rows + 1, np.int32)
    for row, size in sizes:
        start[row + 1] = size
    return np.cumsum(start, dtype=np.int32)
