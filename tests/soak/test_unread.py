"""Streams that nobody reads: each costs what it may, others are answered meanwhile, and the memory comes back."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import httpx
import pytest

from tests.soak.served import Server, served

COUNT, MOST = 16, 1000  # --soak multiplies, up to MOST
MAX_STREAM_BYTES = 300 * 1024  # of a stream that answers one prompt
MAX_PROMPT_BYTES = 100 * 1024  # more for each further prompt of one request
MAX_ONCE_BYTES = 6 * 2**20  # that the server takes once, whatever their number: most of it where they are few
MAX_LEFT = 1.10  # of what a first round left
WINDOW = 4096
QUIET_S = 1.0  # without a change: all streams are full
CHAT = {"messages": [{"role": "user", "content": "Hello?"}], "logprobs": True, "top_logprobs": 20}
TEXTS = {"prompt": "Hello?", "logprobs": 20, "echo": True, "n": 2}
SEVERAL = {"prompt": ["Hello?", "Hello!"], "logprobs": 20}
LINES = {"messages": [{"role": "user", "content": "Hello?"}], "logprobs": True, "top_logprobs": 20}
BODIES = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": TEXTS | {"max_tokens": 1500},
    "/v1/completions ": SEVERAL | {"max_tokens": 2000},
    "/api/chat": LINES,
}


def open_stream(server: Server, path: str) -> socket.socket:
    """A client that sends its request and never reads."""
    body = json.dumps(BODIES[path] | {"model": "tiny", "stream": True}).encode()
    head = f"POST {path.strip()} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", server.port))
    client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return client


def is_begun(client: socket.socket) -> bool:
    client.settimeout(30)
    return client.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200"


def canary(server: Server) -> str:
    body = {"model": "tiny", "prompt": "canary", "max_tokens": 8, "seed": 7}
    answer = httpx.post(f"http://127.0.0.1:{server.port}/v1/completions", json=body, timeout=30, trust_env=False)
    assert answer.status_code == 200, answer.text
    text: str = answer.json()["choices"][0]["text"]
    return text


def settled(value: Callable[[], int], seconds: float = 600.0) -> int:
    """The value once it has not moved by a hundredth for a while."""
    began_s = since_s = time.monotonic()
    last = value()
    while time.monotonic() - since_s < QUIET_S:
        assert time.monotonic() - began_s < seconds, "it does not come to rest"
        time.sleep(0.1)
        now = value()
        if abs(now - last) > last / 100:
            last, since_s = now, time.monotonic()
    return value()


def unread_round(server: Server, path: str, count: int, expected: str) -> tuple[int, int]:
    """Resident bytes with so many unread streams, and when they are gone."""
    with ExitStack() as clients:
        for _ in range(count):
            client = clients.enter_context(open_stream(server, path))
            assert is_begun(client)
        full = settled(lambda: server.resident_bytes)
        assert canary(server) == expected, "streams that nobody reads keep others from being answered"
    return full, settled(lambda: server.resident_bytes)


@pytest.mark.soak
@pytest.mark.parametrize("path", BODIES)
def test_unread_streams_cost_little_and_leave_nothing(path: str, soak: int, capsys: pytest.CaptureFixture[str]) -> None:
    count = min(MOST, COUNT * soak)
    with served(window=WINDOW, stall_s=3600.0) as server:
        expected = canary(server)
        before = settled(lambda: server.resident_bytes)
        full, warm = unread_round(server, path, count, expected)  # which takes memory that is not there yet
        _, left = unread_round(server, path, count, expected)
    each = (full - before) / count
    if soak > 1:
        with capsys.disabled():
            print(
                f"\n{path}: {count} unread streams, {each / 1024:.0f} KiB each; {left / warm:.1%} of the memory after"
            )
    most = MAX_STREAM_BYTES + MAX_PROMPT_BYTES * path.endswith(" ")
    assert full - before <= most * count + MAX_ONCE_BYTES
    assert left <= MAX_LEFT * warm


def test_a_client_that_does_not_read_for_long_is_cut_off() -> None:
    with served(window=WINDOW, stall_s=1.0) as server:
        expected = canary(server)
        with open_stream(server, "/v1/chat/completions") as client:
            assert is_begun(client)
            time.sleep(6)
            client.settimeout(10)
            received = b"".join(iter(lambda: client.recv(65536), b""))
            assert b"[DONE]" not in received
            assert b'finish_reason":"' not in received
        assert canary(server) == expected
