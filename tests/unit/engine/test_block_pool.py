"""The block pool against a simple twin, and its promises one by one."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tripos.engine.block_pool import NO_PARENT, BlockPool, BlockRef, PrefixIdentity, hash_block

NUM_EXAMPLES, NUM_OPERATIONS = 80, 1500  # 120,000 operations


def one_hash(parent: bytes, token_bytes: bytes) -> bytes:
    """Every block collides."""
    return b"same"


def few_hashes(parent: bytes, token_bytes: bytes) -> bytes:
    return hash_block(parent, token_bytes)[:1]


class Holder:
    """A sequence as the pool's user: tokens, blocks, and how far they are registered."""

    def __init__(self, identity: bytes, tokens: list[int], size: int) -> None:
        self.identity = identity
        self.chunks = [np.array(tokens[i : i + size], "<i4").tobytes() for i in range(0, len(tokens), size)]
        self.blocks: list[int] = []
        self.num_registered = 0
        self.parent: BlockRef = NO_PARENT

    def hashes(self, pool: BlockPool) -> list[bytes]:
        hashes, parent = [], self.identity
        for chunk in self.chunks:
            parent = pool.hash_block(parent, chunk)
            hashes.append(parent)
        return hashes

    def prefix(self, num_blocks: int) -> tuple[bytes, ...]:
        return (self.identity, *self.chunks[:num_blocks])


class Twin:
    """The obvious model: who holds each block, and what was last written into it."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.holders: dict[int, int] = dict.fromkeys(range(num_blocks), 0)
        self.content: dict[int, tuple[bytes, ...]] = {}

    @property
    def num_held(self) -> int:
        return sum(count > 0 for count in self.holders.values())


class Run:
    """Random operations on a pool and its twin, compared after each."""

    def __init__(self, seed: int, num_blocks: int, hash_function: str) -> None:
        self.random = random.Random(seed)
        functions = {"sha": hash_block, "few": few_hashes, "one": one_hash}
        self.pool = BlockPool(num_blocks, 2, functions[hash_function])
        self.twin = Twin(num_blocks)
        self.holders: list[Holder] = []

    def operate(self) -> None:
        self.random.choice((self.admit, self.admit, self.register, self.register, self.register, self.leave))()
        assert self.pool.num_held == self.twin.num_held
        assert self.pool.num_available == self.twin.num_blocks - self.twin.num_held

    def admit(self) -> None:
        pool, twin = self.pool, self.twin
        tokens = [self.random.randrange(2) for _ in range(2 * self.random.randrange(1, 6))]
        holder = Holder(self.random.choice((b"a", b"b")), tokens, 2)
        hits = pool.lookup(holder.identity, holder.hashes(pool), holder.chunks)
        for i, block in enumerate(hits):
            assert twin.content[block] == holder.prefix(i + 1), "a hit must hold exactly this prefix"
        pool.acquire(hits)
        for block in hits:
            twin.holders[block] += 1
        missing = len(holder.chunks) - len(hits)
        holder.blocks = list(hits)
        holder.num_registered = len(hits)
        holder.parent = pool.ref(hits[-1]) if hits else NO_PARENT
        self.holders.append(holder)
        if missing > pool.num_available:
            with pytest.raises(ValueError, match="available"):
                pool.allocate(missing)
            self.leave(-1)
            return
        for i, block in enumerate(pool.allocate(missing), len(hits)):
            assert twin.holders[block] == 0, "a held block was given away"
            twin.holders[block] = 1
            twin.content[block] = holder.prefix(i + 1)
            holder.blocks.append(block)

    def register(self) -> None:
        if not self.holders:
            return
        holder = self.random.choice(self.holders)
        i = holder.num_registered
        if i == len(holder.blocks):
            return
        block_hash = holder.hashes(self.pool)[i]
        holder.parent = self.pool.register(
            holder.blocks[i], holder.identity, holder.parent, block_hash, holder.chunks[i]
        )
        holder.num_registered += 1
        assert self.twin.content[holder.parent.block_id] == holder.prefix(i + 1)

    def leave(self, index: int | None = None) -> None:
        if not self.holders:
            return
        holder = self.holders.pop(self.random.randrange(len(self.holders)) if index is None else index)
        self.pool.release(holder.blocks)
        for block in holder.blocks:
            self.twin.holders[block] -= 1


@settings(max_examples=NUM_EXAMPLES, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), num_blocks=st.integers(1, 40), hash_function=st.sampled_from(("sha", "few", "one")))
def test_free_cached_and_held_make_the_total_whatever_happens(seed: int, num_blocks: int, hash_function: str) -> None:
    run = Run(seed, num_blocks, hash_function)
    for i in range(NUM_OPERATIONS):
        run.operate()
        if i % 25 == 0:
            run.pool.check_integrity()
    while run.holders:
        run.leave()
    run.pool.check_integrity()
    assert run.pool.num_available == num_blocks


def fill(pool: BlockPool, tokens: list[int], identity: bytes = b"id") -> Holder:
    holder = Holder(identity, tokens, pool.block_size)
    holder.blocks = pool.allocate(len(holder.chunks))
    for block, block_hash, chunk in zip(holder.blocks, holder.hashes(pool), holder.chunks, strict=True):
        holder.parent = pool.register(block, identity, holder.parent, block_hash, chunk)
    return holder


def find(pool: BlockPool, tokens: list[int], identity: bytes = b"id") -> list[int]:
    holder = Holder(identity, tokens, pool.block_size)
    return pool.lookup(identity, holder.hashes(pool), holder.chunks)


def test_a_released_prefix_is_found_again() -> None:
    pool = BlockPool(4, 2)
    holder = fill(pool, [1, 2, 3, 4])
    pool.release(holder.blocks)
    assert find(pool, [1, 2, 3, 4, 5, 6]) == holder.blocks
    assert find(pool, [1, 2, 9, 9]) == holder.blocks[:1]
    assert find(pool, [9, 9, 3, 4]) == []


def test_another_principal_never_hits() -> None:
    pool = BlockPool(4, 2)
    pool.release(fill(pool, [1, 2], PrefixIdentity("m", "", "alice").encode()).blocks)
    assert find(pool, [1, 2], PrefixIdentity("m", "", "alice").encode())
    assert not find(pool, [1, 2], PrefixIdentity("m", "", "bob").encode())


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), min_size=8, max_size=8))
def test_identities_differ_when_any_field_differs(fields: list[str]) -> None:
    one, other = PrefixIdentity(*fields[:4]), PrefixIdentity(*fields[4:])
    assert (one.encode() == other.encode()) == (one == other)


def test_a_hash_collision_costs_a_miss_and_nothing_else() -> None:
    pool = BlockPool(4, 2, one_hash)
    pool.release(fill(pool, [1, 2]).blocks)
    assert find(pool, [3, 4]) == []
    assert pool.num_collisions == 1


def test_the_least_recently_used_goes_first_and_tails_before_heads() -> None:
    pool = BlockPool(4, 2)
    old, new = fill(pool, [1, 2, 3, 4]), fill(pool, [5, 6, 7, 8])
    pool.release(old.blocks)
    pool.release(new.blocks)
    assert pool.allocate(1) == old.blocks[1:]
    assert find(pool, [1, 2, 3, 4]) == old.blocks[:1]
    assert find(pool, [5, 6, 7, 8]) == new.blocks


def test_a_child_of_overwritten_content_is_not_found() -> None:
    pool = BlockPool(2, 2)
    first = fill(pool, [1, 2, 3, 4])
    pool.release(first.blocks[:1])  # the parent alone becomes evictable
    pool.release(fill(pool, [7, 7]).blocks)
    assert find(pool, [1, 2, 3, 4]) == []
    pool.release(first.blocks[1:])
    pool.check_integrity()


def test_misuse_is_refused() -> None:
    pool = BlockPool(2, 2)
    blocks = pool.allocate(2)
    pool.release(blocks)
    with pytest.raises(ValueError, match="more often"):
        pool.release(blocks)
    with pytest.raises(ValueError, match="no content"):
        pool.acquire(blocks)
    with pytest.raises(ValueError, match="at least one"):
        BlockPool(0, 2)


def test_a_lost_block_is_noticed() -> None:
    pool = BlockPool(4, 2)
    pool._free.pop()
    with pytest.raises(RuntimeError, match="integrity"):
        pool.check_integrity()


def test_clearing_forgets_content_but_not_holders() -> None:
    pool = BlockPool(4, 2)
    held, gone = fill(pool, [1, 2]), fill(pool, [3, 4])
    pool.release(gone.blocks)
    pool.clear_cache()
    pool.check_integrity()
    assert find(pool, [1, 2]) == []
    assert pool.num_held == len(held.blocks)
