"""Who waits for a place, by priority and then by order; and what batch work is owed when online work never ends.

Owns two heaps and one number. Sequences that finished while waiting are dropped when met.
"""

from __future__ import annotations

import heapq

from tripos.engine.sequence import Sequence
from tripos.types import Priority

BATCH_SHARE = 0.05  # of computed tokens and of places, at least, while batch work is there


class WaitingRoom:
    """Sequences without a place, each priority in the order served."""

    def __init__(self) -> None:
        self._heaps: dict[Priority, list[tuple[tuple[int, tuple[int, int]], Sequence]]] = {p: [] for p in Priority}

    def push(self, sequence: Sequence) -> None:
        heapq.heappush(self._heaps[sequence.priority], (sequence.key, sequence))

    def first(self, priority: Priority) -> Sequence | None:
        """Whose turn it is."""
        heap = self._heaps[priority]
        while heap and heap[0][1].is_finished:
            heapq.heappop(heap)
        return heap[0][1] if heap else None

    def pop(self, priority: Priority) -> None:
        heapq.heappop(self._heaps[priority])

    def prune(self, num_waiting: int) -> None:
        """Keep at most about twice as many entries as really wait: the others were aborted."""
        if len(self) > 2 * num_waiting + 64:
            for priority, heap in self._heaps.items():
                self._heaps[priority] = [entry for entry in heap if not entry[1].is_finished]
                heapq.heapify(self._heaps[priority])

    def __len__(self) -> int:
        return sum(map(len, self._heaps.values()))

    def in_order(self) -> list[Sequence]:
        entries = sorted((entry for heap in self._heaps.values() for entry in heap), key=lambda entry: entry[0])
        return [sequence for _, sequence in entries if not sequence.is_finished]


class BatchDebt:
    """Tokens that batch work is short of its share, within `limit` either way."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._num_tokens = 0.0

    @property
    def is_due(self) -> bool:
        return self._num_tokens > 0

    def settle(self, num_tokens: int, num_batch_tokens: int) -> None:
        """After a step of so many tokens while batch work was there."""
        owed = self._num_tokens + BATCH_SHARE * num_tokens - num_batch_tokens
        self._num_tokens = min(max(owed, -self._limit), self._limit)

    def clear(self) -> None:
        """There is no batch work."""
        self._num_tokens = 0.0
