"""Which sequences compute how many tokens in the next step. Integers only: no tensor, no clock, no thread of its own.

Owns the running set. Who waits is in waiting.py, what batch work is owed in fairness.py, cache blocks in
sequence_blocks.py, drafts in speculate.py. There are no phases: every running sequence gets tokens towards num_tokens,
so decoding, chunked prefill, prefix hits and recompute after preemption are one rule.
"""

from __future__ import annotations

import bisect
import itertools
from dataclasses import dataclass, field

from tripos.engine.admission import Admission
from tripos.engine.block_pool import BlockPool
from tripos.engine.fairness import BatchShare
from tripos.engine.sequence import Sequence, Status
from tripos.engine.sequence_blocks import SequenceBlocks
from tripos.engine.speculate import Speculator
from tripos.engine.waiting import Deadlines, WaitingQueue
from tripos.errors import ConfigError
from tripos.types import Priority


@dataclass(frozen=True)
class SchedulerOptions:
    """Limits of a step and of what may wait."""

    max_num_seqs: int = 64  # running at once
    token_budget: int = 512  # T of a step
    max_num_rows: int = 256  # S of a step: sampled tokens and prompt logprobs
    max_prefill_tokens: int = 256  # of a step that also decodes: bounds the time between a stream's tokens
    max_draft_tokens: int = 8  # of one sequence and step; 0: never
    max_waiting: int = 256  # requests
    max_waiting_tokens: int = 262_144  # prompt tokens
    max_wait_s: float = 30.0  # predicted, for the next request

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "token_budget", "max_num_rows", "max_prefill_tokens", "max_waiting"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name in ("token_budget", "max_num_rows"):
            if self.max_num_seqs > getattr(self, name):
                raise ConfigError(
                    f"max_num_seqs = {self.max_num_seqs} needs {name} of at least that, got {getattr(self, name)}: "
                    "each running sequence may draw one token per step"
                )


@dataclass
class Schedule:
    """The next step: sequences and how many of their tokens it computes."""

    entries: list[tuple[Sequence, int]] = field(default_factory=list)
    num_tokens: int = 0
    num_drafts: int = 0  # of these tokens
    is_decoding: bool = False  # nothing but pending tokens and drafts


class Scheduler:
    """Serves by priority, then first come first served; preempts in the opposite order, by recompute.

    A sequence gets blocks for all its known tokens when admitted and grows block by block while it decodes. The
    oldest of the highest priority is never preempted, and one that could not fit alone is refused by `add`: so some
    sequence always advances.
    """

    def __init__(self, pool: BlockPool, options: SchedulerOptions | None = None) -> None:
        self.options = options = options or SchedulerOptions()
        self.blocks = SequenceBlocks(pool)
        self.admission = Admission(options.max_waiting, options.max_waiting_tokens, options.max_wait_s)
        self.running: list[Sequence] = []  # by key
        self._waiting = WaitingQueue()
        self._batch_share = BatchShare(options.token_budget, options.max_num_seqs)
        self._held: set[Sequence] = set()  # neither run nor wait
        self._deadlines = Deadlines()
        self._free_idx = list(range(options.max_num_seqs - 1, -1, -1))
        self._orders = itertools.count(1)  # 0: never added
        self.speculator = Speculator(options.max_draft_tokens)
        self.num_preemptions = 0

    @property
    def num_waiting(self) -> int:
        """Sequences that wait for a place, preempted ones and siblings included."""
        return self._waiting.num_sequences

    @property
    def has_work(self) -> bool:
        return bool(self.running) or self.num_waiting > 0

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; its siblings follow once the prefix that they share with it is computed."""
        for each in (sequence, *sequence.siblings):
            self.blocks.check_fits(each.num_prompt_tokens, each.max_tokens)
        order = next(self._orders)
        sequence.order = (order, 0)
        for place, sibling in enumerate(sequence.siblings, 1):
            sibling.order = (order, place)
        group = (sequence, *sequence.siblings)
        self._waiting.push(sequence, num_new=len(group))
        for each in group:
            self._deadlines.add(each)

    def schedule(self) -> Schedule:
        """Choose the next step's work, admitting and preempting as needed."""
        step = _Step(self.options.token_budget, self.options.max_num_rows)
        behind = []
        for sequence in tuple(self.running):
            if sequence.num_tokens - sequence.num_computed_tokens > 1:
                behind.append(sequence)
            elif sequence.status is Status.RUNNING and self._grow(sequence, step):
                step.add(sequence, 1)
        if step.counts:  # decoding sequences wait for this step: bound its length
            step.num_tokens_left = min(step.num_tokens_left, self.options.max_prefill_tokens)
        self._fill(step, behind)
        self._settle_batch(step)
        is_decoding = all(s.num_tokens - s.num_computed_tokens == 1 and not s.wants_prompt_rows for s in step.counts)
        if is_decoding and self.options.max_draft_tokens:
            max_drafts = min(step.num_tokens_left, step.num_rows_left)
            for sequence in self.speculator.draft(list(step.counts), max_drafts, self.blocks, len(self.running)):
                step.extend(sequence, sequence.num_drafts)
        return step.finish(is_decoding)

    def _fill(self, step: _Step, behind: list[Sequence]) -> None:
        """Add prompts and newcomers: batch sequences get what online ones, running or waiting, leave, and their
        share."""
        may_admit = not step.preempted
        share = self._batch_share
        if share.is_due:
            self._catch_up(step, behind, Priority.BATCH)
            if share.may_protect:
                is_protected = share.protect_one_of(self.running)
                may_admit = is_protected or (may_admit and self._admit(step, Priority.BATCH, protect_one=True))
        for priority in Priority:
            self._catch_up(step, behind, priority)
            may_admit = may_admit and not step.preempted and self._admit(step, priority)

    def _catch_up(self, step: _Step, behind: list[Sequence], priority: Priority) -> None:
        for sequence in behind:
            is_due = sequence.priority == priority and sequence.status is Status.RUNNING
            if is_due and sequence not in step.counts and self._grow(sequence, step):
                step.add(sequence, step.chunk_of(sequence))

    def _settle_batch(self, step: _Step) -> None:
        is_running = bool(self.running) and self.running[-1].priority is Priority.BATCH
        if not is_running and self._waiting.first(Priority.BATCH) is None:
            self._batch_share.clear()
        else:
            self._batch_share.settle(step.counts)

    def advance(self, sequence: Sequence, num_tokens: int) -> None:
        """Note that a step computed `num_tokens` more of a sequence; full blocks become reusable. Drafts that were
        not accepted do not count: their places in the cache are written again.
        """
        sequence.num_computed_tokens += num_tokens
        sequence.num_drafts = 0
        self.blocks.register(sequence)
        if sequence.siblings and sequence.num_computed_tokens >= sequence.num_shared_tokens:
            self._free_siblings(sequence)

    def finish(self, sequence: Sequence) -> None:
        """End a sequence in any state and free what it holds. Idempotent."""
        if sequence.status is Status.FINISHED:
            return
        if not sequence.order[0]:
            sequence.status = Status.FINISHED
            return
        self.speculator.forget(sequence)
        if sequence.status is Status.RUNNING:
            self._leave(sequence)
        elif sequence.status is Status.HELD:
            self._held.discard(sequence)
        else:
            self._waiting.discount()
        sequence.status = Status.FINISHED
        if sequence.ticket is not None:
            sequence.ticket.release()
        self._free_siblings(sequence)

    def hold(self, sequence: Sequence) -> None:
        """Take the place of a running sequence until `resume`. As with a preempted one, its blocks may be found again
        in the prefix cache. A waiting sequence has no place and stays as it is.
        """
        if sequence.status is Status.RUNNING:
            self._leave(sequence)
            sequence.status = Status.HELD
            self._held.add(sequence)

    def resume(self, sequence: Sequence) -> None:
        """Let a held sequence wait for a place, in its old order."""
        if sequence.status is Status.HELD:
            self._held.discard(sequence)
            self._wait_again(sequence)

    def expired(self, now_s: float) -> list[Sequence]:
        """Unfinished sequences past their deadline, in any state. Each is returned once."""
        return self._deadlines.pop_expired(now_s, self.num_waiting + len(self.running) + len(self._held))

    def unfinished(self) -> list[Sequence]:
        """Every sequence that still runs, waits or is held."""
        known = [*self.running, *self._waiting.in_order(), *self._held]
        return [*known, *(s for leader in known for s in leader.siblings if not s.is_finished)]

    def _free_siblings(self, sequence: Sequence) -> None:
        for sibling in sequence.siblings:
            if not sibling.is_finished:
                self._waiting.push(sibling, num_new=0)
        sequence.siblings = []

    def _admit(self, step: _Step, priority: Priority, *, protect_one: bool = False) -> bool:
        """Start waiting sequences of a priority while there is room (`protect_one`: one, whose place is protected);
        they may take the place of lower ones that are not protected. Returns whether there was room.
        """
        while (sequence := self._waiting.first(priority)) is not None:
            if step.num_tokens_left <= 0 or step.num_rows_left <= 0 or sequence in step.preempted:
                return False
            if self._free_idx and self.blocks.take(sequence, len(self.running)):
                self._waiting.pop(priority)
                self._start(sequence)
                step.add(sequence, step.chunk_of(sequence))
                if protect_one:
                    self._batch_share.protect(sequence)
                    return True
            elif (victim := self._batch_share.last_below(priority, self.running)) is not None:
                self._preempt(victim, step)
            else:
                return False
        return True

    def _grow(self, sequence: Sequence, step: _Step) -> bool:
        """Give a running sequence the block its next token needs, preempting from the end of the queue."""
        missing = self.blocks.num_missing(sequence)
        if missing <= 0:
            return True
        while self.blocks.pool.num_available < missing:
            victim = self.running[-1]
            self._preempt(victim, step)
            if victim is sequence:
                return False
        self.blocks.extend(sequence, missing)
        return True

    def _start(self, sequence: Sequence) -> None:
        sequence.status = Status.RUNNING
        sequence.num_stays += 1
        sequence.batch_idx = self._free_idx.pop()
        bisect.insort(self.running, sequence, key=lambda s: s.key)
        if sequence.ticket is not None:
            sequence.ticket.release()

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._batch_share.release(sequence)
        self.blocks.release(sequence)
        self._free_idx.append(sequence.batch_idx)
        sequence.batch_idx = -1

    def _preempt(self, sequence: Sequence, step: _Step) -> None:
        step.remove(sequence)
        self._leave(sequence)
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self._wait_again(sequence)

    def _wait_again(self, sequence: Sequence) -> None:
        sequence.status = Status.PREEMPTED
        self._waiting.push(sequence)


class _Step:
    """A schedule under construction, with the tokens and rows that are left."""

    def __init__(self, num_tokens: int, num_rows: int) -> None:
        self.num_tokens_left = num_tokens
        self.num_rows_left = num_rows
        self.num_drafts = 0
        self.counts: dict[Sequence, int] = {}
        self.preempted: set[Sequence] = set()

    def chunk_of(self, sequence: Sequence) -> int:
        remaining = min(sequence.num_tokens - sequence.num_computed_tokens, self.num_tokens_left)
        return min(remaining, self.num_rows_left) if sequence.wants_prompt_rows else remaining

    def _num_rows(self, sequence: Sequence, num_tokens: int) -> int:
        return num_tokens if sequence.wants_prompt_rows else 1

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        if num_tokens > 0 and self.num_rows_left > 0:
            self.counts[sequence] = num_tokens
            self.num_tokens_left -= num_tokens
            self.num_rows_left -= self._num_rows(sequence, num_tokens)

    def remove(self, sequence: Sequence) -> None:
        num_tokens = self.counts.pop(sequence, 0)
        if num_tokens:
            self.num_tokens_left += num_tokens
            self.num_rows_left += self._num_rows(sequence, num_tokens)
        self.preempted.add(sequence)

    def extend(self, sequence: Sequence, num_drafts: int) -> None:
        """Drafts after the pending token, each with a row of its own."""
        self.counts[sequence] += num_drafts
        self.num_tokens_left -= num_drafts
        self.num_rows_left -= num_drafts
        self.num_drafts += num_drafts

    def finish(self, is_decoding: bool) -> Schedule:
        return Schedule(list(self.counts.items()), sum(self.counts.values()), self.num_drafts, is_decoding)
