"""What is refused before a model is asked: framing, JSON, media types, methods, paths, hosts."""

from __future__ import annotations

from tests.recorded.request import JSON, Request, get, post, raw
from tests.recorded.tables.ignored import GOOD

CHAT = "/v1/chat/completions"
GOOD_BODY = b'{"model":"talker","messages":[{"role":"user","content":"x"}],"max_tokens":1}'
HOST = b"Host: 127.0.0.1\r\n"
BODIES = {
    "no JSON": b"{",
    "nothing": b"",
    "a list": b"[]",
    "a key twice": b'{"model":"talker","model":"talker"}',
    "not UTF-8": b'{"model":"\xff"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "half of a surrogate pair": b'{"model":"\\ud800"}',
    "too deep": b'{"model":' + b"[" * 70 + b"]" * 70 + b"}",
    "a number that is none": b'{"temperature":NaN}',
    "text behind it": b"{} x",
    "no field at all": b"{}",
    "a name that is too long": b'{"model":"' + b"m" * 300 + b'"}',
}
TYPES = {"text": "text/plain", "another charset": "application/json; charset=latin-1", "a form": "multipart/form-data"}
WRONG = (
    ("GET", CHAT), ("PUT", "/v1/models"), ("POST", "/livez"), ("DELETE", "/v1/embeddings"), ("PATCH", "/api/tags"),
    ("GET", "/tokenize"), ("POST", "/metrics"), ("GET", "/api/delete"), ("TRACE", "/"),
)  # fmt: skip
ABSENT = (
    "/v1/batches", "/v1/files/f1", "/v1/assistants", "/v1/threads/t/runs", "/v1/conversations", "/v1/audio/speech",
    "/v1/images/generations", "/v1/moderations", "/v1/fine_tuning/jobs", "/v1/realtime/sessions", "/v1/vector_stores",
    "/v1/chat/completions/c1", "/v1/responses/compact", "/v1/edits", "/v1/engines", "/v1/organization/usage",
    "/v1/uploads", "/v1/containers", "/v1/evals", "/v1/videos", "/v1/skills", "/v1/projects",
)  # fmt: skip
SMUGGLED = b"POST " + CHAT.encode() + b" HTTP/1.1\r\n" + HOST + b"content-type: application/json\r\n"
FRAMES = {
    "no HTTP": b"\x16\x03\x01\x02\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + HOST + b"\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n",
    "another host": b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\nconnection: close\r\n\r\n",
    "two lengths": SMUGGLED + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
    "a length and chunks": SMUGGLED + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
    "a length that is none": SMUGGLED + b"content-length: x\r\n\r\n{}",
    "too large a body": SMUGGLED + b"content-length: 99999999\r\n\r\n{}",
    "too long a line": b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "too many headers": b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n" * 110 + b"\r\n",
    "too large headers": b"GET / HTTP/1.1\r\n" + HOST + b"a: " + b"x" * 17000 + b"\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\n" + HOST + b"a: b\r\n c\r\n\r\n",
    "an upgrade": b"GET / HTTP/1.1\r\n" + HOST + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n",
    "the older protocol": b"GET /livez HTTP/1.0\r\n" + HOST + b"\r\n",
    "the last of a connection": b"GET /livez HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n",
}

REQUESTS: list[Request] = [
    *(post(f"a body with {name}", CHAT, body) for name, body in BODIES.items()),
    *(post(f"no field at {path}", path, {}) for path in GOOD if path != CHAT),
    *(post(f"an unknown model at {path}", path, {**body, "model": "nobody"}) for path, body in GOOD.items()),
    *(post(f"a type: {name}", CHAT, GOOD_BODY, headers={"content-type": type}) for name, type in TYPES.items()),
    post("no type", CHAT, GOOD_BODY, headers={"content-type": ""}),
    post("a compressed body", CHAT, GOOD_BODY, headers={"content-encoding": "gzip"}),
    Request("no length", "POST", CHAT, headers=JSON),
    *(Request(f"{method} {path}", method, path) for method, path in WRONG),
    *(get(f"not there: {path}", path) for path in ABSENT),
    *(
        get(f"unknown: {path}", path)
        for path in ("/nothing", "/v1", "/v1/nothing", "/api/nothing", "/v1/chat", "/admin/x", "//", "/%2e%2e/etc")
    ),
    *(
        get(f"HEAD {path}", path, method="HEAD")
        for path in ("/", "/livez", "/v1/models", CHAT, "/metrics", "/nothing", "/api/tags")
    ),
    *(get(f"OPTIONS {path}", path, method="OPTIONS") for path in ("/", "/v1/models", CHAT, "/nothing")),
    *(raw(f"framing: {name}", data) for name, data in FRAMES.items()),
]
