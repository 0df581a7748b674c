"""Time, number and flow of connections: slow senders, slow readers, resets, pipelines, floods."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.api.after import After, Log, resident_bytes
from tests.api.corpus.row import CHUNKED, length, post
from tests.api.running import Running, TinyModel, running, running_service
from tripos.api.http import connection as protocol
from tripos.api.http import connection_limit
from tripos.api.http.connection_limit import ConnectionLimit
from tripos.service import Service
from tripos.testing import ScriptedModel

GET = b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


@pytest.fixture
async def watched(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Running, TinyModel, After, Log]]:
    """A server that is quick to lose patience."""
    monkeypatch.setattr(connection_limit, "SWEEP_S", 0.02)
    for name, value in (("HEAD_S", 0.4), ("IDLE_S", 0.4), ("BODY_GRACE_S", 0.3), ("STALL_S", 0.4), ("LINGER_S", 0.2)):
        monkeypatch.setattr(protocol, name, value)
    log, tiny = Log(), TinyModel(window=100_000)
    logger = logging.getLogger("tripos")
    logger.addHandler(log)
    before = logger.level
    logger.setLevel(logging.INFO)
    async with running(tiny) as server:
        server.http.headers["connection"] = "close"
        after = await After.of(server, tiny, log)
        after.forget()
        yield server, tiny, after, log
        await after.check()
    logger.removeHandler(log)
    logger.setLevel(before)


Watched = tuple[Running, TinyModel, After, Log]


async def connect(server: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", server.port)


def outcome(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


async def test_a_body_that_ends_early_has_no_effect(watched: Watched) -> None:
    server, tiny, _, _ = watched
    num_steps = tiny.engine.num_steps
    reader, writer = await connect(server)
    writer.write(post(length())[:-5])
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    assert tiny.engine.num_steps == num_steps


async def test_a_body_that_does_not_come_is_timed_out(watched: Watched) -> None:
    server = watched[0]
    assert outcome(await server.raw(post(length())[:-5])) == (408, "request_timeout")


async def test_a_body_that_comes_too_slowly_is_timed_out(watched: Watched) -> None:
    server = watched[0]
    reader, writer = await connect(server)
    writer.write(post(b"content-length: 1000000\r\n", body=b"x" * 600))  # 0.3 s, and 0.6 s for its bytes

    async def trickle() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(trickle())
    assert outcome(await reader.read()) == (408, "request_timeout")
    task.cancel()
    writer.close()


async def test_a_head_that_trickles_is_timed_out(watched: Watched) -> None:
    server = watched[0]
    reader, writer = await connect(server)
    answer = asyncio.create_task(reader.read())
    for byte in b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx: " + b"y" * 1000:
        if answer.done():
            break
        writer.write(bytes([byte]))
        await asyncio.sleep(0.02)
    assert outcome(await answer) == (408, "request_timeout")
    writer.close()


async def test_connections_that_say_nothing_are_closed(watched: Watched) -> None:
    server = watched[0]
    reader, writer = await connect(server)
    assert await reader.read() == b""
    writer.close()
    reader, writer = await connect(server)
    writer.write(GET)
    assert (await reader.read()).count(b"HTTP/1.1 200 OK") == 1
    writer.close()


async def test_what_stands_before_a_malformed_request_is_answered_and_nothing_after_it(watched: Watched) -> None:
    server, _, _, log = watched
    answer = await server.raw(GET * 49 + GET.replace(b" HTTP", b" HTTX") + GET * 50)
    assert answer.count(b"HTTP/1.1 200 OK") == 49
    assert answer.count(b"HTTP/1.1 ") == 50
    assert outcome(answer[answer.rindex(b"HTTP/1.1 400") :]) == (400, "invalid_http")
    assert len(log.lines) == 50


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reset_anywhere_leaves_one_line(watched: Watched, stream: bool) -> None:
    server, _, after, log = watched
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 20, "stream": stream}).encode()
    data = post(length(body), body=body)
    for cut in (3, 40, len(data) - len(body), len(data) - 1, len(data)):
        _, writer = await connect(server)
        sock: Any = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.write(data[:cut])
        await asyncio.sleep(0.03)
        writer.close()
        await asyncio.sleep(0.03)
        assert len(log.lines) <= 1
        await after.check()


async def test_a_million_chunks_cost_no_memory(watched: Watched) -> None:
    server = watched[0]
    data = post(CHUNKED, body=b"1\r\nx\r\n" * 200_000)
    for _ in range(5):
        await server.raw(data)
    gc.collect()
    before = resident_bytes()
    for _ in range(40):  # 48 MB
        assert outcome(await server.raw(data)) == (413, "request_too_large")
    gc.collect()
    assert resident_bytes() - before < 16 * 2**20


async def test_a_client_that_does_not_read_is_cut_off_and_others_are_not(watched: Watched) -> None:
    server, _, _, log = watched
    body = json.dumps({
        "model": "tiny", "prompt": "x", "max_tokens": 7000, "stream": True, "ignore_eos": True, "logprobs": 5
    }).encode()  # fmt: skip
    writers = []
    for _ in range(4):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
        _, writer = await asyncio.open_connection(sock=sock)
        writer.transport.pause_reading()
        writer.write(post(length(body), body=body))
        writers.append(writer)
    async with asyncio.timeout(60):
        while sum(line.get("code") == "client_left" for line in log.lines) < 4:
            assert len(await server.canary()) == 8
            await asyncio.sleep(0.05)
    for writer in writers:
        writer.transport.abort()


class Peer:
    def __init__(self, peer: str) -> None:
        self.peer = peer

        self.is_aborted = False

    def expire(self, now_s: float) -> None: ...

    def abort(self) -> None:
        self.is_aborted = True


def test_the_oldest_of_those_outside_makes_room_for_the_next() -> None:
    limit = ConnectionLimit(max_connections=1)
    assert limit.admit(Peer("192.0.2.1"))
    outside = [Peer("192.0.2.1") for _ in range(connection_limit.MAX_PROBES + 1)]
    for each in outside:
        assert not limit.admit(each)
        limit.admit_probe(each)
    assert [each.is_aborted for each in outside] == [True] + [False] * connection_limit.MAX_PROBES


PROBE = b"GET %b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"


async def test_probes_are_answered_when_every_place_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limit, "SWEEP_S", 0.02)
    monkeypatch.setattr(protocol, "PROBE_S", 0.3)
    service = Service()
    service.add(ScriptedModel())
    async with running_service(service, limit=ConnectionLimit(max_connections=2)) as server:
        taken = [await connect(server) for _ in range(2)]
        async with asyncio.timeout(5):
            while server.door.limit.num_admitted < 2:
                await asyncio.sleep(0.01)
        silent = [
            await connect(server) for _ in range(2 * connection_limit.MAX_PROBES)
        ]  # which take no place from a probe
        for path in (b"/livez", b"/readyz", b"/health", b"/metrics"):
            answer = await server.raw(PROBE % path)  # and is closed
            assert answer.startswith(b"HTTP/1.1 200"), path
            assert b"connection: close" in answer
        for refused in (PROBE % b"/v1/models", post(length()), b"nonsense\r\n\r\n", b""):
            answer = await server.raw(refused)
            assert outcome(answer)[0] == (400 if b"nonsense" in refused else 503)
        assert b"retry-after: 1" in answer
        for _, writer in (*silent, *taken):
            writer.transport.abort()
        async with asyncio.timeout(5):
            while server.door.limit.num_admitted:
                await asyncio.sleep(0.01)
        assert (await server.raw(PROBE.replace(b"1.1", b"1.0") % b"/v1/models")).startswith(b"HTTP/1.1 200")


def test_connections_are_counted_in_all_and_by_peer() -> None:
    limit = ConnectionLimit(max_connections=6, max_peer_connections=2)
    inside = [Peer("192.0.2.1") for _ in range(2)]
    assert all(limit.admit(each) for each in inside)
    assert not limit.admit(Peer("192.0.2.1"))
    ours = [Peer(address) for address in ("127.0.0.1", "127.0.0.1", "::1", "::ffff:127.0.0.1")]
    assert all(limit.admit(each) for each in ours)  # this machine's are counted in all only
    assert not limit.admit(Peer("192.0.2.2"))
    limit.release(inside[0])
    limit.release(inside[0])
    assert limit.num_admitted == 5
    assert limit.admit(Peer("192.0.2.1"))


RESETS = textwrap.dedent("""
    from tests.api.running import TinyModel
    from tripos.api.http.logs import logging_to_stderr
    from tripos.api.http.server import serve
    from tripos.config import ServerOptions
    from tripos.service import Service
    service = Service()
    service.add(TinyModel(step_s=0.001, window=100_000))
    with logging_to_stderr():
        serve(service, ServerOptions(port=0), lambda address: print(address, flush=True))
""")


def test_a_reset_while_text_waits_to_be_sent_is_no_error() -> None:
    """In a process, for the event loop is the one that servers run."""
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 500, "stream": True, "ignore_eos": True}).encode()
    stream = post(length(body), body=body)
    pipeline = PROBE % b"/openapi.json" * 20 + b"nonsense\r\n\r\n" + b"y" * 10_000
    process = subprocess.Popen(
        [sys.executable, "-c", RESETS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        for i in range(200):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closing is a reset
                sock.sendall((stream, pipeline)[i % 2])
                time.sleep((0, 0.001, 0.004, 0.016)[i // 2 % 4])
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in errors
    assert " ERROR " not in errors


@pytest.mark.parametrize("num_files", [8, 16, 63])
def test_too_few_files_are_told_in_one_line(num_files: int) -> None:
    command = f"ulimit -n {num_files}; exec {sys.executable} -m tripos serve --port 0"
    done = subprocess.run(["/bin/sh", "-c", command], cwd="/", capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert done.stderr.startswith(f"tripos: this process may open {num_files} files")
    assert done.stderr.count("\n") == 1


FLOOD = textwrap.dedent("""
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    from tripos.api.http.server import serve
    from tripos.config import ServerOptions
    from tripos.service import Service
    from tripos.testing import ScriptedModel
    service = Service()
    service.add(ScriptedModel())
    serve(service, ServerOptions(port=0), on_ready=lambda address: print(address, flush=True))
""")


def test_a_flood_of_connections_is_refused_and_leaves_no_mark() -> None:
    process = subprocess.Popen([sys.executable, "-c", FLOOD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        kept = socket.create_connection(("127.0.0.1", port))

        def probe(sock: socket.socket) -> bytes:
            sock.settimeout(10)
            sock.sendall(GET.replace(b"/v1/models", b"/livez"))
            return sock.recv(100_000)

        assert probe(kept).startswith(b"HTTP/1.1 200")
        flood = [socket.create_connection(("127.0.0.1", port)) for _ in range(600)]
        assert probe(kept).startswith(b"HTTP/1.1 200")  # whoever is inside is answered
        flood[-1].settimeout(10)
        try:
            refused = flood[-1].recv(1000)
        except ConnectionResetError:
            refused = b""
        assert refused == b"" or refused.startswith(b"HTTP/1.1 503")
        for sock in flood:
            sock.close()
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port)) as sock:
                if probe(sock).startswith(b"HTTP/1.1 200"):
                    break
        else:
            raise AssertionError("nobody is let in after the flood")
        kept.close()
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert process.returncode == 0
