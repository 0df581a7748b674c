"""The blocks of the KV cache as integers: which sequence holds which, which may be reused, which is evicted next.

Owns ids, reference counts and the prefix cache; never sees a tensor. Every operation costs O(1) per block.
A block is free (no content), cached (content, no holder, evictable in LRU order) or held (ref_count > 0).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

ROOT = -1  # the parent of a first block


@dataclass(frozen=True)
class PrefixIdentity:
    """Everything besides the tokens that must be equal for two sequences to share blocks."""

    model_digest: str = ""
    adapter: str = ""
    principal: str = ""  # from the authenticated principal, never from the client's own fields
    cache_salt: str = ""  # from the client: it can only restrict sharing

    def encode(self) -> bytes:
        """Injective: each field tagged and length-prefixed."""
        fields = (self.model_digest, self.adapter, self.principal, self.cache_salt)
        return b"".join(_field(tag, value.encode()) for tag, value in zip(b"mapc", fields, strict=True))


def _field(tag: int, data: bytes) -> bytes:
    return bytes((tag,)) + len(data).to_bytes(8, "little") + data


def hash_block(parent: bytes, token_bytes: bytes) -> bytes:
    """SHA-256 over the parent's hash (for a first block: the identity) and the block's int32 token ids."""
    return hashlib.sha256(_field(ord("h"), parent) + _field(ord("t"), token_bytes)).digest()


@dataclass(frozen=True)
class BlockRef:
    """A block together with the content it had: stale once the block was given new content."""

    block_id: int
    generation: int


NO_PARENT = BlockRef(ROOT, 0)


@dataclass(frozen=True)
class _Content:
    """What a block holds. With `parent` compared by reference, equality of whole prefixes follows by induction."""

    block_hash: bytes
    identity: bytes
    parent: BlockRef
    token_bytes: bytes


class BlockPool:
    """Allocates, shares and evicts blocks 0 .. num_blocks - 1.

    The hash is only the key of a dictionary: on a hit the identity, the parent and the token ids are compared, so a
    collision costs a miss (`num_collisions`) and never another sequence's content.
    """

    def __init__(
        self, num_blocks: int, block_size: int, hash_function: Callable[[bytes, bytes], bytes] = hash_block
    ) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a block pool needs at least one block and token, got {num_blocks} × {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.hash_block = hash_function
        self.num_evictions = 0
        self.num_collisions = 0
        self._ref_counts = [0] * num_blocks
        self._generations = [0] * num_blocks
        self._contents: list[_Content | None] = [None] * num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._by_hash: dict[bytes, int] = {}
        self._num_held = 0

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can give: free and cached."""
        return len(self._free) + len(self._cached)

    @property
    def num_held(self) -> int:
        return self._num_held

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> list[int]:
        """Take `count` blocks for new content, evicting the least recently used cached ones last.

        Raises ValueError when fewer are available: callers look at num_available first.
        """
        if not 0 <= count <= self.num_available:
            raise ValueError(f"{count} blocks asked, {self.num_available} available")
        return [self._take() for _ in range(count)]

    def acquire(self, block_ids: Sequence[int]) -> None:
        """Hold blocks that have content (found by `lookup`, or held by another sequence) once more."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                if block_id not in self._cached:
                    raise ValueError(f"block {block_id} has no content to share")
                del self._cached[block_id]
                self._num_held += 1
            self._ref_counts[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Release a sequence's blocks. The last ones are evicted first: a prefix is more likely to be reused."""
        for block_id in reversed(block_ids):
            if self._ref_counts[block_id] < 1:
                raise ValueError(f"block {block_id} released more often than held")
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
                self._num_held -= 1
                if self._contents[block_id] is None:
                    self._free.append(block_id)
                else:
                    self._cached[block_id] = None

    def lookup(self, identity: bytes, hashes: Sequence[bytes], tokens: Sequence[bytes]) -> list[int]:
        """The longest cached prefix as block ids, not yet held. `tokens[i]` are block i's int32 token ids as bytes."""
        found: list[int] = []
        parent = NO_PARENT
        for block_hash, token_bytes in zip(hashes, tokens, strict=True):
            block_id = self._by_hash.get(block_hash)
            if block_id is None:
                break
            if not self._matches(block_id, identity, parent, token_bytes):
                self.num_collisions += 1
                break
            found.append(block_id)
            parent = BlockRef(block_id, self._generations[block_id])
        return found

    def ref(self, block_id: int) -> BlockRef:
        return BlockRef(block_id, self._generations[block_id])

    def register(
        self, block_id: int, identity: bytes, parent: BlockRef, block_hash: bytes, token_bytes: bytes
    ) -> BlockRef:
        """Make a held, fully computed block reusable. Returns the block that stands for this content from now on:
        this one, or the one that already held the same.
        """
        known = self._by_hash.get(block_hash)
        if known is not None:
            if known == block_id or self._matches(known, identity, parent, token_bytes):
                return self.ref(known)
            self._forget(known)
        if self._contents[block_id] is not None:
            self._forget(block_id)
        self._generations[block_id] += 1
        self._contents[block_id] = _Content(block_hash, identity, parent, token_bytes)
        self._by_hash[block_hash] = block_id
        return self.ref(block_id)

    def clear_cache(self) -> None:
        """Drop all reusable content (after an executor lost its memory)."""
        for block_id in list(self._by_hash.values()):
            self._forget(block_id)

    def check_integrity(self) -> None:
        """Raise RuntimeError unless free + cached + held = total and every index agrees. O(num_blocks)."""
        held = {i for i, count in enumerate(self._ref_counts) if count > 0}
        free, cached = set(self._free), set(self._cached)
        with_content = {i for i, content in enumerate(self._contents) if content is not None}
        faults = [
            name
            for name, is_wrong in (
                ("a negative reference count", any(count < 0 for count in self._ref_counts)),
                ("a block listed twice", len(free) != len(self._free)),
                ("the held count", len(held) != self._num_held),
                ("overlapping states", bool(free & cached or free & held or cached & held)),
                ("free + cached + held ≠ total", len(free) + len(cached) + len(held) != self.num_blocks),
                ("a free block with content", bool(free & with_content)),
                ("a cached block without content", not cached <= with_content),
                ("the hash index", {c.block_hash: i for i, c in enumerate(self._contents) if c} != self._by_hash),
                ("duplicate content", len(self._by_hash) != len(with_content)),
            )
            if is_wrong
        ]
        if faults:
            raise RuntimeError(f"block pool lost its integrity ({', '.join(faults)}): this is a bug in Tripos")

    def _take(self) -> int:
        if self._free:
            block_id = self._free.pop()
        else:
            block_id = next(iter(self._cached))
            self._forget(block_id)  # moves it to the end of the free list
            self._free.pop()
            self.num_evictions += 1
        self._ref_counts[block_id] = 1
        self._num_held += 1
        return block_id

    def _forget(self, block_id: int) -> None:
        """Drop a block's content; a cached block becomes free."""
        content = self._contents[block_id]
        if content is not None:
            del self._by_hash[content.block_hash]
            self._contents[block_id] = None
        if block_id in self._cached:
            del self._cached[block_id]
            self._free.append(block_id)

    def _matches(self, block_id: int, identity: bytes, parent: BlockRef, token_bytes: bytes) -> bool:
        content = self._contents[block_id]
        return (
            content is not None
            and content.token_bytes == token_bytes
            and content.parent == parent
            and content.identity == identity
        )
