"""The scheduler simulated without an executor: order, limits, preemption, progress."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tripos.engine.block_pool import BlockPool
from tripos.engine.scheduler import Schedule, Scheduler, SchedulerOptions
from tripos.engine.sequence import Sequence, Status
from tripos.errors import ConfigError, ContextLengthExceeded
from tripos.types import Priority

BLOCK_SIZE = 4


def sequence(num_prompt: int, max_tokens: int = 4, *, first: int = 1, **fields: object) -> Sequence:
    prompt = np.arange(first, first + num_prompt, dtype=np.int32)
    return Sequence(prompt, max_tokens, **fields)  # type: ignore[arg-type]


class Simulation:
    """A scheduler whose steps are computed by nobody: each catches up, each caught-up one gets a token."""

    def __init__(self, num_blocks: int = 32, **options: int) -> None:
        self.pool = BlockPool(num_blocks, BLOCK_SIZE)
        self.options = SchedulerOptions(**{"max_num_seqs": 8, "token_budget": 16, "max_num_rows": 16, **options})
        self.scheduler = Scheduler(self.pool, self.options)
        self.num_steps = 0
        self.finished: list[Sequence] = []
        self.added: list[Sequence] = []

    def add(self, *sequences: Sequence) -> None:
        for each in sequences:
            self.scheduler.add(each)
            self.added += [each, *each.siblings]

    def step(self) -> Schedule:
        schedule = self.scheduler.schedule()
        self.num_steps += 1
        self.check(schedule)
        for each, num_tokens in schedule.entries:
            self.scheduler.advance(each, num_tokens)
            if each.num_computed_tokens == each.num_tokens:
                each.append(self.num_steps % 7)
                if each.num_tokens == each.max_num_tokens:
                    self.scheduler.finish(each)
                    self.finished.append(each)
        return schedule

    def check(self, schedule: Schedule) -> None:
        """What must hold of every schedule."""
        assert schedule.num_tokens == sum(n for _, n in schedule.entries) <= self.options.token_budget
        assert len(schedule.entries) <= self.options.max_num_seqs
        assert all(n > 0 and each.status is Status.RUNNING for each, n in schedule.entries)
        places = [each.batch_idx for each in self.scheduler.running]
        assert len(set(places)) == len(places)
        assert self.scheduler.running == sorted(self.scheduler.running, key=lambda each: each.key)
        holders = Counter(block for each in self.scheduler.running for block in each.block_table)
        for each, n in schedule.entries:
            end = each.num_computed_tokens + n
            assert len(each.block_table) * BLOCK_SIZE >= end
            written = each.block_table[each.num_computed_tokens // BLOCK_SIZE : -(-end // BLOCK_SIZE)]
            assert all(holders[block] == 1 for block in written), "a shared block is written"
        assert self.scheduler.num_waiting == sum(
            each.status in (Status.WAITING, Status.PREEMPTED) for each in self.added
        )
        self.pool.check_integrity()

    def run(self, max_steps: int = 2000) -> None:
        while self.scheduler.has_work:
            assert self.step().entries, "a step without progress"
            assert self.num_steps < max_steps, "livelock"
        assert self.pool.num_held == 0
        self.pool.check_integrity()


def test_first_come_first_served() -> None:
    simulation = Simulation(max_num_seqs=1)
    sequences = [sequence(3) for _ in range(5)]
    simulation.add(*sequences)
    simulation.run()
    assert simulation.finished == sequences


def test_online_goes_before_batch_and_batch_fills_what_is_left() -> None:
    simulation = Simulation(max_num_seqs=2)
    batch = [sequence(3, priority=Priority.BATCH) for _ in range(2)]
    online = sequence(3)
    simulation.add(*batch, online)
    entries = simulation.step().entries
    assert [each for each, _ in entries] == [online, batch[0]]
    simulation.run()


def test_online_takes_the_place_of_running_batch() -> None:
    simulation = Simulation(max_num_seqs=2)
    batch = [sequence(3, max_tokens=20, priority=Priority.BATCH) for _ in range(2)]
    simulation.add(*batch)
    simulation.step()
    online = sequence(3)
    simulation.add(online)
    assert online in dict(simulation.step().entries)
    assert [each.num_preemptions for each in batch] == [0, 1]
    simulation.run()
    assert simulation.finished[0] is online


@pytest.mark.parametrize("max_num_seqs", [1, 2, 8])
def test_batch_keeps_its_share_while_online_work_never_ends(max_num_seqs: int) -> None:
    simulation = Simulation(num_blocks=64, max_num_seqs=max_num_seqs, token_budget=32)
    batch = [sequence(9, max_tokens=20, first=1000 * i, priority=Priority.BATCH) for i in range(60)]
    simulation.add(*batch)
    tokens = {Priority.ONLINE: 0, Priority.BATCH: 0}
    for _ in range(800):
        while sum(s.priority is Priority.ONLINE for s in simulation.added if not s.is_finished) < max_num_seqs + 2:
            simulation.add(sequence(10, max_tokens=8, first=100_000 + 16 * len(simulation.added)))
        for each, num_tokens in simulation.step().entries:
            tokens[each.priority] += num_tokens
        assert tokens[Priority.BATCH] > 0.05 * sum(tokens.values()) - 2 * simulation.options.token_budget
    assert tokens[Priority.BATCH] < 0.3 * tokens[Priority.ONLINE], "and no more than is fair"
    assert any(each in batch for each in simulation.finished)


def test_online_work_alone_owes_batch_nothing() -> None:
    simulation = Simulation(max_num_seqs=1)
    for first in range(30):
        simulation.add(sequence(10, max_tokens=8, first=first * 16))
    simulation.run()
    late = [sequence(5, priority=Priority.BATCH), sequence(5, first=900)]
    simulation.add(*late)
    simulation.run()
    assert simulation.finished[-2:] == [late[1], late[0]]


def test_a_long_batch_prompt_lets_online_work_pass() -> None:
    simulation = Simulation(token_budget=16)
    batch = sequence(60, priority=Priority.BATCH)
    simulation.add(batch)
    simulation.step()
    online = sequence(10, first=500)
    simulation.add(online)
    assert dict(simulation.step().entries) == {online: 10, batch: 6}


def test_a_long_prompt_is_computed_in_chunks_beside_decoding() -> None:
    simulation = Simulation(token_budget=16, max_prefill_tokens=5)
    running = sequence(3, max_tokens=30)
    simulation.add(running)
    simulation.step()
    simulation.add(sequence(23, max_tokens=2))
    chunks = []
    while len(simulation.finished) == 0:
        entries = dict(simulation.step().entries)
        assert entries.pop(running) == 1, "a decoding sequence must advance in every step"
        chunks += entries.values()
    assert chunks == [5, 5, 5, 5, 3, 1]


def test_an_idle_engine_gives_a_prompt_the_whole_budget() -> None:
    simulation = Simulation(token_budget=16, max_prefill_tokens=5)
    simulation.add(sequence(20))
    assert simulation.step().num_tokens == 16


def test_the_youngest_is_preempted_and_the_oldest_never() -> None:
    simulation = Simulation(num_blocks=8)
    sequences = [sequence(7, max_tokens=20, first=100 * i) for i in range(3)]
    simulation.add(*sequences)
    simulation.run()
    assert simulation.finished[0] is sequences[0]
    assert sequences[0].num_preemptions == 0
    assert sequences[2].num_preemptions > 0


def test_what_can_never_fit_is_refused_with_the_numbers() -> None:
    simulation = Simulation(num_blocks=4)
    with pytest.raises(ContextLengthExceeded, match="12 prompt tokens and 5 to generate need 5 cache blocks"):
        simulation.add(sequence(12, max_tokens=5))
    simulation.add(sequence(12, max_tokens=4))
    simulation.run()


def test_a_shared_prompt_is_computed_once_for_all_choices() -> None:
    simulation = Simulation()
    leader = sequence(13)
    leader.siblings = [sequence(13, index=i) for i in (1, 2)]
    siblings = list(leader.siblings)
    simulation.add(leader)
    assert dict(simulation.step().entries) == {leader: 13}
    assert dict(simulation.step().entries) == {leader: 1, siblings[0]: 1, siblings[1]: 1}
    assert [each.num_cached_tokens for each in siblings] == [12, 12]
    simulation.run()


def test_choices_go_on_when_the_first_is_aborted() -> None:
    simulation = Simulation()
    leader = sequence(30)
    sibling = sequence(30, index=1)
    leader.siblings = [sibling]
    simulation.add(leader)
    simulation.step()
    simulation.scheduler.finish(leader)
    simulation.run()
    assert simulation.finished == [sibling]


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_abort_frees_blocks_at_once_in_every_state(num_steps: int) -> None:
    simulation = Simulation()
    one = sequence(20)
    simulation.add(one)
    for _ in range(num_steps):
        simulation.step()
    simulation.scheduler.finish(one)
    simulation.scheduler.finish(one)
    assert simulation.pool.num_held == 0
    assert simulation.scheduler.num_waiting == 0
    assert not simulation.step().entries


def test_aborted_waiters_leave_no_memory_behind() -> None:
    simulation = Simulation(max_num_seqs=1)
    simulation.add(sequence(3, max_tokens=100))
    simulation.step()
    for _ in range(1000):
        one = sequence(3, deadline_s=1e9)
        simulation.scheduler.add(one)
        simulation.scheduler.finish(one)
        simulation.scheduler.expired(0.0)
    assert len(simulation.scheduler._waiting) < 100
    assert len(simulation.scheduler._deadlines) < 100


def test_deadlines_name_the_late_once_waiting_or_running() -> None:
    simulation = Simulation(max_num_seqs=1)
    running, waiting, patient = (sequence(3, deadline_s=deadline) for deadline in (5.0, 4.0, None))
    simulation.add(running, waiting, patient)
    simulation.step()
    scheduler = simulation.scheduler
    assert scheduler.expired(3.9) == []
    assert scheduler.expired(4.0) == [waiting]
    assert scheduler.expired(9.0) == [running]
    assert scheduler.expired(9.0) == []


def test_a_step_has_rows_for_all_it_draws() -> None:
    simulation = Simulation(max_num_rows=10)
    one = sequence(30, prompt_logprobs=0)
    simulation.add(one)
    assert simulation.step().num_tokens == 10


@pytest.mark.parametrize("name", ["max_num_seqs", "token_budget", "max_num_rows", "max_prefill_tokens", "max_waiting"])
def test_options_that_allow_nothing_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        SchedulerOptions(**{name: 0})
    with pytest.raises(ConfigError, match="token_budget of at least that"):
        SchedulerOptions(max_num_seqs=64, token_budget=63)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32))
def test_every_sequence_finishes_whatever_comes_and_goes(seed: int) -> None:
    chance = random.Random(seed)
    simulation = Simulation(
        num_blocks=chance.randrange(8, 40),
        max_num_seqs=chance.randrange(1, 9),
        token_budget=chance.randrange(8, 40),
        max_prefill_tokens=chance.randrange(1, 20),
    )
    aborted = 0
    for _ in range(60):
        if chance.random() < 0.7:
            one = sequence(
                chance.randrange(1, 20),
                chance.randrange(1, 12),
                first=chance.choice((1, 1, 50)),  # some share their prefix
                priority=chance.choice(list(Priority)),
            )
            one.siblings = [sequence(one.num_prompt_tokens, 3, index=i) for i in range(1, chance.choice((1, 1, 3)))]
            simulation.add(one)
        simulation.step()
        if chance.random() < 0.1:
            victim = chance.choice(simulation.added or [None])  # type: ignore[list-item]
            if victim is not None and not victim.is_finished:
                simulation.scheduler.finish(victim)
                aborted += 1
    simulation.run()
    assert len(simulation.finished) + aborted == len(simulation.added)


def test_a_stream_of_online_work_cannot_stop_an_older_sequence() -> None:
    simulation = Simulation(num_blocks=10, max_num_seqs=4)
    old = sequence(10, max_tokens=20, first=500)
    simulation.add(old)
    for i in range(200):
        simulation.add(sequence(6, max_tokens=6, first=20 * i))
        simulation.step()
        if old.is_finished:
            break
    assert old.is_finished
    assert simulation.num_steps <= 22
