"""`tripos serve` in a process of its own, and requests to it over plain sockets."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = Path(sys.executable).with_name("tripos")
START_S, ANSWER_S = 60, 60


@dataclass(frozen=True)
class Answer:
    """As it came: the status, the headers in small letters, the body without its framing."""

    status: int
    headers: dict[str, str]
    body: bytes


def environment() -> dict[str, str]:
    """Without settings of the caller's: the plain kernels, wide pages of help."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("TRIPOS_")}
    return {**own, "TRIPOS_ISA": "scalar", "COLUMNS": "100", "LC_ALL": "C.UTF-8"}


@contextmanager
def serving(config: Path) -> Iterator[int]:
    """The port of a server that is ready. Its log is in the file beside `config`."""
    log = config.with_suffix(".log")
    with log.open("w") as file:
        command = [str(COMMAND), "serve", "--config", str(config)]
        process = subprocess.Popen(command, stderr=file, cwd=config.parent, env=environment())
        try:
            yield _port(process, log)
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    for _ in range(START_S * 20):
        for line in log.read_text().splitlines():
            if "listening on " in line:
                return int(line.partition("listening on ")[2].split()[0].rpartition(":")[2])
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        break
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def send(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    """On a connection of its own, in one piece: whether a server that refuses by the head alone closes the connection
    depends on whether the body has come."""
    lines = {"host": f"127.0.0.1:{port}", **({"content-length": str(len(body))} if body else {}), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        response = http.client.HTTPResponse(connection, method=method)
        response.begin()
        content = response.read()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)


def send_raw(port: int, data: bytes) -> Answer:
    """The first answer to bytes that end a connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
        connection.sendall(data)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)
