"""Responses that clients may come back to: in memory, bounded, each for a while, each principal its own.

Nobody learns of another's: a foreign id is as unknown as a random one.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from tripos.errors import NotFound
from tripos.types import Message

KEEP_S = 3600.0
MAX_BYTES = 64 * 2**20
MAX_PRINCIPAL_BYTES = 16 * 2**20
_OVERHEAD_BYTES = 512  # of an entry or a message, generous


class Stored(msgspec.Struct, frozen=True):
    """A response's body and the conversation that it ends, without instructions."""

    body: bytes
    messages: tuple[Message, ...]
    expires_s: float

    @property
    def num_bytes(self) -> int:
        return len(self.body) + sum(map(_num_bytes, self.messages)) + _OVERHEAD_BYTES


def _num_bytes(message: Message) -> int:
    texts = [message.content or "", message.reasoning or "", *(call.arguments for call in message.tool_calls)]
    return 4 * sum(map(len, texts)) + _OVERHEAD_BYTES * (1 + len(message.tool_calls))


class Shelf:
    """One principal's responses, oldest first."""

    def __init__(self) -> None:
        self.entries: OrderedDict[str, Stored] = OrderedDict()
        self.num_bytes = 0

    def pop(self, id: str) -> None:
        self.num_bytes -= self.entries.pop(id).num_bytes

    def pop_oldest(self) -> None:
        self.pop(next(iter(self.entries)))


class ResponseStore:
    """What does not fit pushes out the oldest of its own principal; of all together, of who holds most."""

    def __init__(
        self,
        keep_s: float = KEEP_S,
        max_bytes: int = MAX_BYTES,
        max_principal_bytes: int = MAX_PRINCIPAL_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep_s, self._max_bytes, self._max_principal_bytes = keep_s, max_bytes, max_principal_bytes
        self._clock = clock
        self._shelves: dict[str, Shelf] = {}

    @property
    def num_bytes(self) -> int:
        return sum(shelf.num_bytes for shelf in self._shelves.values())

    def put(self, principal: str, id: str, body: bytes, messages: Sequence[Message]) -> None:
        self._expire()
        shelf = self._shelves.setdefault(principal, Shelf())
        if id in shelf.entries:
            shelf.pop(id)
        shelf.entries[id] = entry = Stored(body, tuple(messages), self._clock() + self._keep_s)
        shelf.num_bytes += entry.num_bytes
        while shelf.num_bytes > self._max_principal_bytes:
            shelf.pop_oldest()
        while self.num_bytes > self._max_bytes:
            max(self._shelves.values(), key=lambda each: each.num_bytes).pop_oldest()

    def get(self, principal: str, id: str, param: str | None = None) -> Stored:
        """Raises NotFound."""
        self._expire()
        shelf = self._shelves.get(principal)
        if shelf is None or id not in shelf.entries:
            message = "no response has this id: it was not stored, was deleted, or its hour is over"
            raise NotFound(message, param=param)
        return shelf.entries[id]

    def delete(self, principal: str, id: str) -> None:
        """Raises NotFound."""
        self.get(principal, id)
        self._shelves[principal].pop(id)

    def _expire(self) -> None:
        now_s = self._clock()
        for shelf in self._shelves.values():
            while shelf.entries and next(iter(shelf.entries.values())).expires_s <= now_s:
                shelf.pop_oldest()
        self._shelves = {principal: shelf for principal, shelf in self._shelves.items() if shelf.entries}
