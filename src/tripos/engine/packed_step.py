"""A step as the engine hands it to the executor, who owns its rows, and the same step one token on.

Owns the rule of what of a step holds for the next one as well.
Tested in tests/unit/engine/test_pack.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from tripos.engine.sequence import Sequence
from tripos.runtime.executor import U32, U64, SamplingInput, StepInput


class RowOwner(NamedTuple):
    """Whose logits row it is: the prompt token at `position` when forced, else the drawn token that goes there."""

    sequence: Sequence
    position: int
    is_forced: bool


class MaskRows(NamedTuple):
    """The rows of the step's mask that a constrained sequence needs: for its next token, and after each draft token."""

    sequence: Sequence
    rows: U32  # [1 + num_drafts, ceil(vocab_size / 32)]


@dataclass
class PackedStep:
    """A step and who owns its rows, in row order."""

    step: StepInput
    entries: list[tuple[Sequence, int]]
    owners: list[RowOwner]
    masks: list[MaskRows]  # to be written before the executor draws


class RowKey(NamedTuple):
    """Two steps with equal keys have the same sampling parameters: no sequence got a place between them, and the rows
    belong to the same places."""

    num_moves: int
    batch_idx: bytes  # int64 [S]


class SteadyStep:
    """A step whose rows `Sequence.is_steady`: a step with the same rows has the same sampling parameters, but for the
    counters. Where each sequence also computed one token and drew one, and the batch stays, the next step is this one a
    token further on, in the same arrays: other memory, and code that is not needed, cost a step of a small model half a
    millisecond, because a step's weights have put everything else out of the caches."""

    def __init__(self, packed: PackedStep, key: RowKey, block_size: int) -> None:
        self.key = key
        self.masks = packed.masks
        self._step = step = packed.step
        self._entries = entries = packed.entries
        self._block_size = block_size
        self._is_decoding = len(packed.owners) == len(entries) == len(step.token_ids)
        self._positions: list[int] = step.positions.tolist() if self._is_decoding else []
        self._num_blocks = [len(sequence.block_table) for sequence, _ in entries]

    def sampling(self, counter: U64) -> SamplingInput:
        """The sampling parameters of a step with the same key, whose rows draw tokens at the positions `counter`."""
        return replace(self._step.sampling, counter=counter)

    def is_continued_by(self, entries: list[tuple[Sequence, int]], num_moves: int) -> bool:
        """Whether `advance` gives the step of `entries`."""
        if not self._is_decoding or num_moves != self.key.num_moves or len(entries) != len(self._entries):
            return False
        width = self._step.block_tables.shape[1]
        for (sequence, count), (before, _), position in zip(entries, self._entries, self._positions, strict=True):
            is_same = sequence is before and count == 1 and sequence.num_computed_tokens == position + 1
            if not is_same or sequence.num_tokens != position + 2 or sequence.num_tokens >= sequence.max_num_tokens:
                return False
            if position + 1 >= width * self._block_size:
                return False
        return True

    def advance(self, entries: list[tuple[Sequence, int]]) -> PackedStep:
        """The step a token further on: the same StepInput, of which only the contents of some arrays are new."""
        step, size = self._step, self._block_size
        owners, tokens, slots = [], [], []
        for row, (sequence, _) in enumerate(entries):
            position, table = sequence.num_computed_tokens, sequence.block_table
            if len(table) != self._num_blocks[row]:
                end = step.block_tables.shape[1]
                step.block_tables[row, : len(table)] = table[:end]
                self._num_blocks[row] = len(table)
            self._positions[row] = position
            tokens.append(sequence.tokens[position])
            slots.append(table[position // size] * size + position % size)
            owners.append(RowOwner(sequence, position + 1, False))
        step.token_ids[:] = tokens
        step.slots[:] = slots
        for array in (step.positions, step.seq_lens, step.sampling.counter):
            array += 1
        self._entries = entries
        return PackedStep(step, entries, owners, self.masks)
