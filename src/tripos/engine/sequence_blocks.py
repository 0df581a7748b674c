"""The cache blocks of sequences: found in the prefix cache, allocated, registered for reuse, released.

Owns every call to the block pool and the counts of prefix reuse. Knows nothing of order, priority or places.
Tested in tests/unit/engine/test_scheduler.py.
"""

from __future__ import annotations

from tripos.engine.block_pool import NO_PARENT, BlockPool
from tripos.engine.sequence import Sequence
from tripos.errors import ContextLengthExceeded


class SequenceBlocks:
    """Gives sequences blocks of one pool."""

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.num_prefix_queries = 0  # tokens
        self.num_prefix_hits = 0

    def check_fits(self, num_prompt_tokens: int, max_tokens: int) -> None:
        """Raise ContextLengthExceeded for a sequence that could never finish, however long it waits."""
        num_blocks = self.pool.num_blocks_for(num_prompt_tokens + max_tokens)
        if num_blocks > self.pool.num_blocks:
            raise ContextLengthExceeded(
                f"{num_prompt_tokens} prompt tokens and {max_tokens} to generate need {num_blocks} cache blocks of "
                f"{self.pool.block_size} tokens, the model was given {self.pool.num_blocks}: shorten the prompt, lower "
                "max_tokens or give it more cache memory"
            )

    def take(self, sequence: Sequence, num_running: int) -> bool:
        """Give a sequence blocks for all its known tokens, cached ones where the content is the same. False: too few
        are free. One block per running sequence stays spare, lest the newcomer be preempted at once.
        """
        pool = self.pool
        hits = self._lookup(sequence)
        pool.acquire(hits)
        missing = pool.num_blocks_for(sequence.num_tokens) - len(hits)
        if missing + num_running > pool.num_available:
            pool.release(hits)
            return False
        sequence.block_table = hits + pool.allocate(missing)
        sequence.num_computed_tokens = len(hits) * pool.block_size
        sequence.num_registered_blocks = len(hits)
        sequence.last_registered = pool.ref(hits[-1]) if hits else NO_PARENT
        if sequence.num_stays == 0:
            sequence.num_cached_tokens = sequence.num_computed_tokens
            self.num_prefix_queries += sequence.num_prompt_tokens
            self.num_prefix_hits += sequence.num_cached_tokens
        return True

    def num_missing(self, sequence: Sequence) -> int:
        """Blocks that the known tokens and the drafts need beyond those the sequence has."""
        return self.pool.num_blocks_for(sequence.num_tokens + sequence.num_drafts) - len(sequence.block_table)

    def extend(self, sequence: Sequence, num_blocks: int) -> None:
        """`num_blocks` must be available."""
        sequence.block_table += self.pool.allocate(num_blocks)

    def num_spare_tokens(self, sequence: Sequence, num_running: int) -> int:
        """Tokens that fit behind the known ones, in the sequence's blocks and those that no running one needs next."""
        spare = max(0, self.pool.num_available - num_running)
        return (len(sequence.block_table) + spare) * self.pool.block_size - sequence.num_tokens

    def register(self, sequence: Sequence) -> None:
        """Make the blocks that have become full reusable."""
        size = self.pool.block_size
        num_full = sequence.num_computed_tokens // size
        if num_full == sequence.num_registered_blocks:
            return
        self._hash_blocks(sequence, num_full)
        for i in range(sequence.num_registered_blocks, num_full):
            sequence.last_registered = self.pool.register(
                sequence.block_table[i],
                sequence.identity,
                sequence.last_registered,
                sequence.block_hashes[i],
                sequence.block_tokens(i, size),
            )
        sequence.num_registered_blocks = num_full

    def release(self, sequence: Sequence) -> None:
        """Give all blocks back; nothing of the sequence counts as computed any more."""
        self.pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed_tokens = sequence.num_registered_blocks = sequence.num_drafts = 0
        sequence.last_registered = NO_PARENT

    def _lookup(self, sequence: Sequence) -> list[int]:
        """Cached blocks of the known tokens, always leaving one token to compute: its logits are wanted."""
        if sequence.wants_prompt_rows:  # logprobs of cached tokens are not stored
            return []
        size = self.pool.block_size
        num_blocks = (sequence.num_tokens - 1) // size
        self._hash_blocks(sequence, num_blocks)
        tokens = [sequence.block_tokens(i, size) for i in range(num_blocks)]
        return self.pool.lookup(sequence.identity, sequence.block_hashes[:num_blocks], tokens)

    def _hash_blocks(self, sequence: Sequence, num_blocks: int) -> None:
        hashes = sequence.block_hashes
        for i in range(len(hashes), num_blocks):
            parent = hashes[-1] if hashes else sequence.identity
            hashes.append(self.pool.hash_block(parent, sequence.block_tokens(i, self.pool.block_size)))
