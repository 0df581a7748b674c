"""A load generator that costs little: one thread, raw sockets, answers recognised by their last bytes.

Closed loop: each connection asks again when its answer is there. Nothing of an answer is parsed but its end; `check`
looks at one of each kind before anything is counted.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from dataclasses import dataclass
from typing import Any

EVENT = b"data: {"
END_OF_STREAM = b"[DONE]\n\n\r\n0\r\n\r\n"
WAIT_S = 60.0


@dataclass
class Counted:
    """What came between the first request and the last answer."""

    num_answers: int
    num_events: int
    seconds: float


def encode(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nAccept: */*\r\n"
    return f"{head}User-Agent: load\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def check(port: int, path: str, body: dict[str, Any]) -> tuple[list[Any], bytes]:
    """The JSON of one answer, or of its events; and its last bytes. Raises RuntimeError when it is no good answer."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"the server on port {port} answers {response.status}: {text[:300]!r}")
    if not body.get("stream"):
        return [json.loads(text)], text[-16:]
    events = [line.removeprefix(b"data: ") for line in text.split(b"\n\n") if line]
    if events.pop() != b"[DONE]":
        raise RuntimeError("the stream has no end")
    return [json.loads(event) for event in events], END_OF_STREAM


class _Asker:
    """One connection and the answer that it waits for."""

    def __init__(self, port: int, request: bytes, end: bytes, event: bytes) -> None:
        self.socket = connect(port)
        self.request = request
        self.end = end
        self.event = event
        self.num_answers = self.num_events = 0
        self._tail = b""
        self._is_new = True

    def ask(self) -> None:
        self._tail, self._is_new = b"", True
        self.socket.send(self.request)

    def take(self) -> bool:
        """Read what there is; returns whether the answer is whole."""
        data = self.socket.recv(262_144)
        if self._is_new:
            if not data.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"the server answers {data[:200]!r}")
            self._is_new = False
        if self.event:
            self.num_events += data.count(self.event)
        if not data.endswith(self.end):
            if not data:
                raise RuntimeError("the server closed the connection")
            self._tail = (self._tail + data)[-len(self.end) :]
            if self._tail != self.end:
                return False
        self.num_answers += 1
        return True


def press(port: int, requests: list[bytes], end: bytes, *, event: bytes = b"", seconds: float = 0.0) -> Counted:
    """One connection per request. With `seconds` each asks again until they are over; without, once.

    `end`: the last bytes of every answer; `event`: how each event of a stream begins, to count them.
    """
    askers = [_Asker(port, request, end, event) for request in requests]
    selector = selectors.EpollSelector()
    for asker in askers:
        selector.register(asker.socket, selectors.EVENT_READ, asker)
    began_s = time.perf_counter()
    end_s = began_s + seconds
    for asker in askers:
        asker.ask()
    num_open = len(askers)
    while num_open:
        ready = selector.select(WAIT_S)
        if not ready:
            raise RuntimeError(f"no byte came in {WAIT_S:.0f} s")
        now_s = time.perf_counter()
        for key, _ in ready:
            asker = key.data
            if asker.take():
                if now_s < end_s:
                    asker.ask()
                else:
                    num_open -= 1
                    selector.unregister(asker.socket)
    total_s = time.perf_counter() - began_s
    for asker in askers:
        asker.socket.close()
    selector.close()
    return Counted(sum(a.num_answers for a in askers), sum(a.num_events for a in askers), total_s)
