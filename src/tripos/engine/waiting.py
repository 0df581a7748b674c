"""The sequences that wait for a place, by priority and then by order, and the deadlines of all sequences.

Owns the heaps and the number of sequences that wait. Sequences that finished meanwhile are dropped when met.
Tested in tests/unit/engine/test_scheduler.py.
"""

from __future__ import annotations

import heapq

from tripos.engine.sequence import Sequence
from tripos.types import Priority


class WaitingQueue:
    """Sequences without a place, each priority in the order served. `num_sequences` counts siblings too, which are
    counted with their leader and pushed later."""

    def __init__(self) -> None:
        self._heaps: dict[Priority, list[tuple[tuple[int, tuple[int, int]], Sequence]]] = {p: [] for p in Priority}
        self.num_sequences = 0

    def push(self, sequence: Sequence, num_new: int = 1) -> None:
        """`num_new`: sequences that begin to wait with this one; 0: this one was counted before."""
        self.num_sequences += num_new
        self._prune()
        heapq.heappush(self._heaps[sequence.priority], (sequence.key, sequence))

    def first(self, priority: Priority) -> Sequence | None:
        """The sequence of a priority that is served next."""
        heap = self._heaps[priority]
        while heap and heap[0][1].is_finished:
            heapq.heappop(heap)
        return heap[0][1] if heap else None

    def pop(self, priority: Priority) -> None:
        """Take out the sequence that `first` returned."""
        heapq.heappop(self._heaps[priority])
        self.num_sequences -= 1

    def discount(self) -> None:
        """Note that a sequence that waits is about to finish."""
        self.num_sequences -= 1

    def _prune(self) -> None:
        """Keep at most about twice as many entries as sequences that wait: the others were aborted."""
        if len(self) > 2 * self.num_sequences + 64:
            for priority, heap in self._heaps.items():
                self._heaps[priority] = [entry for entry in heap if not entry[1].is_finished]
                heapq.heapify(self._heaps[priority])

    def __len__(self) -> int:
        return sum(map(len, self._heaps.values()))

    def in_order(self) -> list[Sequence]:
        entries = sorted((entry for heap in self._heaps.values() for entry in heap), key=lambda entry: entry[0])
        return [sequence for _, sequence in entries if not sequence.is_finished]


class Deadlines:
    """The deadlines of unfinished sequences, in any state."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []

    def add(self, sequence: Sequence) -> None:
        if sequence.deadline_s is not None:
            heapq.heappush(self._heap, (sequence.deadline_s, id(sequence), sequence))

    def pop_expired(self, now_s: float, num_unfinished: int) -> list[Sequence]:
        """Unfinished sequences past their deadline; each is returned once. `num_unfinished` bounds what is kept."""
        late = []
        while self._heap and self._heap[0][0] <= now_s:
            sequence = heapq.heappop(self._heap)[2]
            if not sequence.is_finished:
                late.append(sequence)
        if len(self._heap) > 2 * num_unfinished + 64:
            self._heap = [entry for entry in self._heap if not entry[2].is_finished]
            heapq.heapify(self._heap)
        return late

    def __len__(self) -> int:
        return len(self._heap)
