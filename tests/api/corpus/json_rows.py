"""Section 3.3: JSON bodies (J), on a chat completion. test_bad_input sends the same to every route."""

from __future__ import annotations

import json
from typing import Any

from tests.api.corpus.row import MIB, Ask, chat, row

CHAT = "/v1/chat/completions"
BAD, ENCODING = "400 invalid_json", "400 invalid_encoding"
NAMED = "accepted, and named in a header (decision 38)"
GOOD = json.dumps(chat().body).encode()
MEDIA = "415 unsupported_media_type"


def text(body: bytes) -> Ask:
    return Ask(CHAT, body)


def added(more: bytes) -> Ask:
    """A good body and more fields, as they are."""
    return text(GOOD[:-1] + b"," + more + b"}")


def typed(kind: str | None) -> Ask:
    return Ask(CHAT, GOOD, headers={"content-type": kind} if kind is not None else {"content-type": ""})


def nested(depth: int) -> bytes:
    return b'"user":' + b"[" * depth + b"]" * depth


ROWS: list[Any] = [
    row("J01", "empty body", text(b""), BAD),
    *(row("J01", f"body {body.decode()}", text(body), "400 invalid_type") for body in (b"null", b"[]", b'"x"', b"1", b"true")),
    *(row("J02", f"cut off after {n} bytes", text(GOOD[:n]), BAD) for n in (1, 10, len(GOOD) // 2, len(GOOD) - 1)),
    row("J03", "trailing bytes", text(GOOD + b"x"), BAD),
    row("J03", "two objects", text(GOOD + GOOD), BAD),
    *(row("J04", f"depth {depth}", added(nested(depth)), BAD, param=None) for depth in (65, 1500, 100_000)),
    row("J05", "a million empty objects", text(b'{"model":[' + b"{}," * 1_000_000 + b"{}]}"), BAD),
    row("J06", "model twice", added(b'"model":"tiny"'), BAD),
    row("J06", "messages twice", added(b'"messages":[]'), BAD),
    row("J06", "a key twice far inside", added(b'"metadata":{"a":"b","a":"c"}'), BAD),
    *(row("J07", f"number {value.decode()}", added(b'"temperature":' + value), BAD) for value in (b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400")),
    row("J08", "an integer of 5,000 digits", added(b'"seed":' + b"7" * 5000), BAD),
    row("J09", "25 digits in seed", added(b'"seed":' + b"7" * 25), "400 out_of_range", param="seed"),
    row("J09", "25 digits in max_completion_tokens", added(b'"max_completion_tokens":' + b"7" * 25), "400 out_of_range", param="max_completion_tokens"),
    row("J10", "half a pair in content", text(GOOD.replace(b"Hello?", b"\\ud800")), ENCODING),
    row("J10", "half a pair in model", text(GOOD.replace(b"tiny", b"\\udc00")), ENCODING),
    row("J10", "half a pair in stop", added(b'"stop":"\\ud800"'), ENCODING),
    row("J10", "halves the wrong way round", added(b'"stop":"\\udc00\\ud800"'), ENCODING),
    row("J11", "bytes that are no UTF-8", text(GOOD.replace(b"tiny", b"\xff\xfe")), ENCODING),
    row("J11", "overlong UTF-8", text(GOOD.replace(b"tiny", b"\xc0\xaf")), ENCODING),
    row("J11", "a surrogate in UTF-8", text(GOOD.replace(b"tiny", b"\xed\xa0\x80")), ENCODING),
    row("J11", "UTF-16", text(GOOD.decode().encode("utf-16")), ENCODING),
    row("J11", "UTF-32", text(GOOD.decode().encode("utf-32")), ENCODING),
    row("J11", "byte order mark", text(b"\xef\xbb\xbf" + GOOD), ENCODING),
    *(row("J12", f"value {value.decode()!r}", added(b'"seed":' + value), BAD) for value in (b"01", b"+1", b"0x1", b"1.", b".5", b"1e", b"'1'", b"1 // one", b"/* one */ 1", b"True", b"undefined")),
    row("J12", "a comma too many", text(GOOD[:-1] + b",}"), BAD),
    row("J12", "single quotes", text(GOOD.replace(b'"', b"'")), BAD),
    row("J12", "a control character in a string", added(b'"user":"a\x01b"'), BAD),
    row("J13", "a key of 1 MB", added(b'"' + b"k" * MIB + b'":1'), "200", deviates=NAMED),
    row("J13", "10,000 unknown keys", added(b",".join(b'"k%d":1' % i for i in range(10_000))), "200", deviates=NAMED),
    *(row("J14", f"key {key}", added(f'"{key}":1'.encode()), "200", deviates=NAMED) for key in ("__proto__", "__class__", "constructor", "__init__")),
    *(row("J15", f"type {kind!r}", typed(kind), MEDIA) for kind in ("text/plain", "application/jsonx", "application/json; charset=utf-7", "application/json; charset=utf-16", "", "multipart/form-data", "application/json, text/plain")),
    row("J15 S", "charset UTF-8", typed('application/json; charset="UTF-8"'), "200"),
    row("J16", "a byte over the cap", text(b" " * (8 * MIB + 1)), "413 request_too_large"),
    row("J17", "an escaped key twice", added(b'"mod\\u0065l":"tiny"'), BAD),
    row("J17", "an escaped key twice inside", added(b'"metadata":{"a":"b","\\u0061":"c"}'), BAD),
    row("J18", "8 MiB of spaces", text(b" " * 8 * MIB), BAD),
    row("J S", "a good body", text(GOOD), "200"),
]  # fmt: skip
