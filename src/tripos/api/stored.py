"""Stored responses: in memory, bounded in bytes, each for KEEP_S seconds, each principal with its own.

The id of another principal's response is as unknown as a random one.
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
_OVERHEAD_BYTES = 512  # of an entry or a message, estimated upwards


class StoredResponse(msgspec.Struct, frozen=True):
    """The body of a response, and the conversation up to and including it, without instructions."""

    body: bytes
    messages: tuple[Message, ...]
    expires_s: float

    @property
    def num_bytes(self) -> int:
        return len(self.body) + sum(map(_num_bytes, self.messages)) + _OVERHEAD_BYTES


def _num_bytes(message: Message) -> int:
    texts = [message.content or "", message.reasoning or "", *(call.arguments for call in message.tool_calls)]
    return 4 * sum(map(len, texts)) + _OVERHEAD_BYTES * (1 + len(message.tool_calls))


class _PrincipalResponses:
    """One principal's responses, oldest first."""

    def __init__(self) -> None:
        self.entries: OrderedDict[str, StoredResponse] = OrderedDict()
        self.num_bytes = 0

    def pop(self, id: str) -> None:
        self.num_bytes -= self.entries.pop(id).num_bytes

    def pop_oldest(self) -> None:
        self.pop(next(iter(self.entries)))


class ResponseStore:
    """A response that does not fit removes the oldest of its principal; when all together are too large, the oldest of
    the principal that holds most.
    """

    def __init__(
        self,
        keep_s: float = KEEP_S,
        max_bytes: int = MAX_BYTES,
        max_principal_bytes: int = MAX_PRINCIPAL_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep_s, self._max_bytes, self._max_principal_bytes = keep_s, max_bytes, max_principal_bytes
        self._clock = clock
        self._principals: dict[str, _PrincipalResponses] = {}

    @property
    def num_bytes(self) -> int:
        return sum(responses.num_bytes for responses in self._principals.values())

    def put(self, principal: str, id: str, body: bytes, messages: Sequence[Message]) -> None:
        self._expire()
        responses = self._principals.setdefault(principal, _PrincipalResponses())
        if id in responses.entries:
            responses.pop(id)
        responses.entries[id] = entry = StoredResponse(body, tuple(messages), self._clock() + self._keep_s)
        responses.num_bytes += entry.num_bytes
        while responses.num_bytes > self._max_principal_bytes:
            responses.pop_oldest()
        while self.num_bytes > self._max_bytes:
            max(self._principals.values(), key=lambda each: each.num_bytes).pop_oldest()

    def get(self, principal: str, id: str, param: str | None = None) -> StoredResponse:
        """Raises NotFound."""
        self._expire()
        responses = self._principals.get(principal)
        if responses is None or id not in responses.entries:
            message = "no response has this id: it was not stored, was deleted, or is older than an hour"
            raise NotFound(message, param=param)
        return responses.entries[id]

    def delete(self, principal: str, id: str) -> None:
        """Raises NotFound."""
        self.get(principal, id)
        self._principals[principal].pop(id)

    def _expire(self) -> None:
        now_s = self._clock()
        for responses in self._principals.values():
            while responses.entries and next(iter(responses.entries.values())).expires_s <= now_s:
                responses.pop_oldest()
        self._principals = {name: responses for name, responses in self._principals.items() if responses.entries}
