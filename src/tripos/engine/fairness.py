"""What batch sequences get while online sequences never end: a share of the computed tokens and of the places.

Owns the balance of the share and which running batch sequences are protected from preemption by online ones.
Tested in tests/unit/engine/test_scheduler.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from collections.abc import Sequence as Listed

from tripos.engine.sequence import Sequence
from tripos.types import Priority

BATCH_SHARE = 0.05  # of computed tokens and of places, at least, while batch sequences run or wait


class BatchShare:
    """Counts the tokens that batch sequences are short of their share, at most `token_budget` either way."""

    def __init__(self, token_budget: int, max_num_seqs: int) -> None:
        self._limit = token_budget
        self._max_protected = BATCH_SHARE * max_num_seqs
        self._num_owed_tokens = 0.0
        self._protected: set[Sequence] = set()

    @property
    def is_due(self) -> bool:
        return self._num_owed_tokens > 0

    @property
    def may_protect(self) -> bool:
        return len(self._protected) < 1 + self._max_protected

    def protect(self, sequence: Sequence) -> None:
        """No online newcomer takes the place of this sequence until it is released."""
        self._protected.add(sequence)

    def protect_one_of(self, running: Listed[Sequence]) -> bool:
        """Protect the first running batch sequence, from the end, that is not. False: there is none."""
        for sequence in reversed(running):
            if sequence.priority is not Priority.BATCH:
                break
            if sequence not in self._protected:
                self._protected.add(sequence)
                return True
        return False

    def release(self, sequence: Sequence) -> None:
        self._protected.discard(sequence)

    def last_below(self, priority: Priority, running: Listed[Sequence]) -> Sequence | None:
        """The running sequence whose place one of `priority` may take."""
        lower = itertools.takewhile(lambda sequence: sequence.priority > priority, reversed(running))
        return next((sequence for sequence in lower if sequence not in self._protected), None)

    def settle(self, counts: Mapping[Sequence, int]) -> None:
        """After a step of so many tokens per sequence while batch sequences ran or waited."""
        num_batch_tokens = sum(n for sequence, n in counts.items() if sequence.priority is Priority.BATCH)
        owed = self._num_owed_tokens + BATCH_SHARE * sum(counts.values()) - num_batch_tokens
        self._num_owed_tokens = min(max(owed, -self._limit), self._limit)

    def clear(self) -> None:
        """After a step without batch sequences: nothing is owed."""
        self._num_owed_tokens = 0.0
