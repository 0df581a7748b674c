"""One verdict per request, however its bytes arrive; and what we take, a second parser reads the same."""

from __future__ import annotations

import random

import h11
import pytest

from tests.api.corpus import framing_rows
from tests.api.corpus.row import Ask, Row
from tripos.api.http.body import Body
from tripos.api.http.framing import MAX_FIELDS, MAX_HEAD_BYTES, MAX_LINE_BYTES, HeadReader
from tripos.errors import TriposError

MARKER = b"GET /marker HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
Read = tuple[str, bytes, tuple[tuple[bytes, bytes], ...], bytes]


def read(pieces: list[bytes]) -> tuple[list[Read], str]:
    """The whole requests, and the code of the error that ended the connection."""
    reader, buffer, found = HeadReader(), bytearray(), []
    head = body = None
    try:
        for piece in pieces:
            buffer += piece
            while True:
                if head is None or body is None:
                    head = reader.read(buffer)
                    if head is None:
                        break
                    body = Body(head.length)
                if not body.feed(buffer):
                    break
                found.append((head.method, head.path, tuple(head.fields), body.data))
                if not head.keeps_alive:
                    return found, ""
                head = None
    except TriposError as error:
        return found, error.code
    return found, ""


def sent(row: Row) -> bytes:
    assert not isinstance(row.sends, Ask)
    return row.sends() if callable(row.sends) else row.sends


SMALL = [row for row in framing_rows.ROWS if not isinstance(row.sends, Ask) and len(sent(row)) < 40_000]
# Each limit from just below to just above.
EDGES = [
    *(b"GET /%b HTTP/1.1\r\nhost: a\r\n\r\n" % (b"a" * (MAX_LINE_BYTES - 14 + n)) for n in range(-2, 3)),
    *(b"GET / HTTP/1.1\r\nhost: a\r\nx: %b\r\n\r\n" % (b"y" * (MAX_HEAD_BYTES - 28 + n)) for n in range(-4, 5)),
    *(b"GET / HTTP/1.1\r\nhost: a\r\n%b\r\n" % (b"x: y\r\n" * (MAX_FIELDS - 1 + n)) for n in range(-1, 3)),
]


@pytest.mark.parametrize("row", SMALL, ids=lambda row: row.name)
def test_the_verdict_is_the_same_for_every_split(row: Row) -> None:
    data = sent(row) + MARKER
    whole = read([data])
    assert read([bytes([byte]) for byte in data]) == whole
    rng = random.Random(row.name)
    for at in rng.sample(range(1, len(data)), min(len(data) - 1, 60)):
        assert read([data[:at], data[at:]]) == whole
    if whole[1]:
        assert not any(path == b"/marker" for _, path, _, _ in whole[0])


@pytest.mark.parametrize("data", EDGES, ids=range(len(EDGES)))
def test_limits_do_not_depend_on_how_bytes_arrive(data: bytes) -> None:
    whole = read([data])
    assert read([data[:-3], data[-3:-1], data[-1:]]) == whole
    assert read([bytes([byte]) for byte in data[:100]] + [data[100:]]) == whole
    tail = len(data) - 40
    assert read([data[:tail], *(bytes([byte]) for byte in data[tail:])]) == whole


def damaged(rng: random.Random, data: bytes, most: int = 3) -> bytes:
    """A few bytes changed, left out or put in, of those that framing turns on."""
    changed = bytearray(data)
    for _ in range(rng.randint(0, most)):
        at = rng.randrange(len(changed))
        choice = rng.random()
        if choice < 0.4:
            changed[at] = rng.choice(b"\r\n\0 :\t;,aZ09\x80")
        elif choice < 0.7:
            del changed[at]
        else:
            changed.insert(at, rng.choice(b"\r\n\0 :\t;,aZ09\x80"))
    return bytes(changed)


@pytest.mark.soak
def test_damaged_requests_get_one_verdict_and_a_second_parser_agrees_with_what_is_taken(soak: int) -> None:
    rng = random.Random(7)
    goods = [sent(row) for row in SMALL if "200" in row.outcome]
    num_taken = 0
    for _ in range(1000 * min(soak, 100)):
        data = damaged(rng, rng.choice(goods) + rng.choice((b"", MARKER)))
        whole = read([data])
        cuts = sorted(rng.sample(range(1, len(data)), min(len(data) - 1, rng.choice((1, 2, 9)))))
        assert read([data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]) == whole, data
        if whole[0]:
            num_taken += 1
            assert by_h11(data, len(whole[0])) == [(method, body) for method, _, _, body in whole[0]], data
    assert num_taken > 100


def by_h11(data: bytes, count: int) -> list[tuple[str, bytes]]:
    """Method and body of the first requests, as h11 reads them."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    found: list[tuple[str, bytes]] = []
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            found.append((event.method.decode(), b""))
        elif isinstance(event, h11.Data):
            method, body = found[-1]
            found[-1] = method, body + bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            if len(found) == count:
                return found
            connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE:
                return found
            connection.start_next_cycle()
        else:
            return found


def test_secrets_are_not_remembered() -> None:
    from tripos.api.http import framing

    read([b"GET / HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %b\r\nx-api-key: %b\r\n\r\n" % (b"k" * 32, b"k" * 32)])
    assert not any(b"k" * 32 in line for line in framing._known_fields)


def test_what_is_remembered_is_bounded() -> None:
    from tripos.api.http import framing

    for i in range(3000):
        read([b"GET /%d HTTP/1.1\r\nhost: a\r\nx: %d\r\n\r\n" % (i, i)])
    assert len(framing._known_fields) <= 1024
    assert len(framing._known_lines) <= 1024
