"""Malformed requests without end: no crash, no 5xx of our making, no connection that hangs, no memory that grows."""

from __future__ import annotations

import json
import socket
from collections import Counter

import pytest

from tests.soak.mutate import Case, Mutator
from tests.soak.served import served

COUNT = 2000  # with --soak 500: a million
WAIT_S = 60.0  # for one answer; the machine may be busy
ALLOWED_5XX = {501, 504, 505}  # not served here; a timeout that the client chose; another HTTP
MAX_GROWTH_BYTES = 64 * 2**20  # 16 MiB of it may be stored responses


class Client:
    """One connection, made anew when the server has closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self.num_connections = 0

    def ask(self, case: Case) -> tuple[int, bytes]:
        """Status (0: closed without an answer) and everything that came."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=WAIT_S)
            self.num_connections += 1
        try:
            self._socket.sendall(case.data)
            if not case.is_whole:
                self._socket.shutdown(socket.SHUT_WR)
            answer, stays = self._read(is_open=case.is_whole)
        except (ConnectionResetError, BrokenPipeError):
            answer, stays = b"", False
        if not stays:
            self.close()
        return (int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0), answer

    def _read(self, *, is_open: bool) -> tuple[bytes, bool]:
        assert self._socket is not None
        answer = bytearray()
        while True:
            data = self._socket.recv(262_144)
            if not data:
                return bytes(answer), False
            answer += data
            if is_open and self._is_whole(answer):
                return bytes(answer), b"\r\nconnection: close\r\n" not in answer

    @staticmethod
    def _is_whole(answer: bytearray) -> bool:
        end = answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        at = answer.find(b"content-length: ", 0, end)
        if at < 0:
            return answer.endswith(b"0\r\n\r\n")
        return len(answer) >= end + 4 + int(answer[at + 16 : answer.index(b"\r", at)])

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None


def canary(port: int) -> str:
    body = json.dumps({"model": "tiny", "prompt": "canary", "max_tokens": 8, "seed": 7}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    client = Client(port)
    _, answer = client.ask(Case(head + b"content-length: %d\r\n\r\n" % len(body) + body, "", True))
    client.close()
    text: str = json.loads(answer.partition(b"\r\n\r\n")[2])["choices"][0]["text"]
    return text


@pytest.mark.soak
def test_malformed_requests_do_no_harm(soak: int, capsys: pytest.CaptureFixture[str]) -> None:
    statuses: Counter[int] = Counter()
    levels: Counter[str] = Counter()
    count, warm = COUNT * soak, 0
    with served() as server:
        right, mutator, client = canary(server.port), Mutator(seed=4), Client(server.port)
        for i in range(count):
            case = mutator.draw()
            status, answer = client.ask(case)
            statuses[status] += 1
            levels[case.level] += 1
            assert status < 500 or status in ALLOWED_5XX, (case, answer[:1000])
            assert b'"request_failed"' not in answer, case
            assert b"Traceback" not in answer, case
            if case.is_whole:
                assert status, (case, "closed without an answer")
            if i == count // 10:
                warm = server.resident_bytes
            if i % 1000 == 999:
                assert server.process.poll() is None
                assert canary(server.port) == right
        growth = server.resident_bytes - warm
        client.close()
    assert client.num_connections <= count // 10, "too few on connections that were kept"
    assert growth < MAX_GROWTH_BYTES
    with capsys.disabled():
        if soak > 1:
            print(f"\n{count:,} requests on {client.num_connections:,} connections, grown by {growth / 2**20:.1f} MiB")
            print(f"by level {dict(levels)}; by status {dict(sorted(statuses.items()))}")
