"""The store of responses keeps its bounds whatever is put into it."""

from __future__ import annotations

import pytest

from tripos.api.stored import ResponseStore, StoredResponse
from tripos.errors import NotFound
from tripos.types import Message, ToolCall


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def put(store: ResponseStore, principal: str, id: str, size: int = 1000) -> None:
    store.put(principal, id, b"x" * size, [Message(role="user", content="y" * 10)])


def test_a_response_is_there_for_its_time_only() -> None:
    clock = Clock()
    store = ResponseStore(keep_s=10, clock=clock)
    put(store, "a", "1")
    clock.now_s = 9.9
    assert store.get("a", "1").messages[0].content == "y" * 10
    clock.now_s = 10
    with pytest.raises(NotFound):
        store.get("a", "1")
    assert store.num_bytes == 0


def test_a_principal_pushes_out_its_own_oldest_only() -> None:
    store = ResponseStore(max_principal_bytes=10_000)
    put(store, "b", "mine")
    for i in range(100):
        put(store, "a", str(i))
    assert store.get("b", "mine")
    assert store.get("a", "99")
    with pytest.raises(NotFound):
        store.get("a", "0")


def test_all_together_stay_below_the_bound() -> None:
    store = ResponseStore(max_bytes=20_000, max_principal_bytes=10_000)
    for i in range(200):
        put(store, f"p{i}", "1", size=500)
        assert store.num_bytes <= 20_000
    assert store.get("p199", "1")


def test_what_is_too_large_alone_is_not_kept() -> None:
    store = ResponseStore(max_principal_bytes=10_000)
    put(store, "a", "1", size=20_000)
    assert store.num_bytes == 0
    with pytest.raises(NotFound):
        store.get("a", "1")


def test_putting_again_replaces_and_deleting_frees() -> None:
    store = ResponseStore()
    put(store, "a", "1")
    before = store.num_bytes
    put(store, "a", "1")
    assert store.num_bytes == before
    store.delete("a", "1")
    assert store.num_bytes == 0
    with pytest.raises(NotFound):
        store.delete("a", "1")


def test_calls_and_reasoning_take_room() -> None:
    plain = StoredResponse(b"", (Message(role="assistant", content="x"),), 0.0)
    call = ToolCall(id="c", name="f", arguments="x" * 1000)
    full = StoredResponse(b"", (Message(role="assistant", content="x", tool_calls=(call,), reasoning="y" * 1000),), 0.0)
    assert full.num_bytes >= plain.num_bytes + 8000
