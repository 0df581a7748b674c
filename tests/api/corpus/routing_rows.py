"""Section 3.2: authentication and routing (R), on a server that knows a key for generating and one for its admin."""

from __future__ import annotations

from tests.api.corpus.row import HOST, MIB, Ask, bare, row

KEY, OTHER, ADMIN = "k" * 32, "o" * 32, "a" * 32
MISSING, INVALID = "401 missing_api_key", "401 invalid_api_key"


def with_key(value: str) -> dict[str, str]:
    return {"authorization": value}


def get(path: str, *fields: bytes) -> bytes:
    return bare(HOST, *fields, line=b"GET " + path.encode() + b" HTTP/1.1")


ROWS = [
    row("R01", "no key", get("/v1/models"), MISSING),
    row("R01", "empty Authorization", get("/v1/models", b"authorization:\r\n"), MISSING),
    row("R01", "empty Bearer", get("/v1/models", b"authorization: Bearer \r\n"), INVALID),
    row("R01", "Basic", get("/v1/models", b"authorization: Basic a2V5OmtleQ==\r\n"), INVALID),
    row("R01", "two keys", get("/v1/models", f"authorization: Bearer {KEY}\r\n".encode() * 2), INVALID),
    row("R01", "two headers", get("/v1/models", f"authorization: Bearer {KEY}\r\nx-api-key: {KEY}\r\n".encode()), INVALID),
    row("R01", "the right key", get("/v1/models", f"authorization: Bearer {KEY}\r\n".encode()), "200"),
    row("R01", "another key", get("/v1/models", b"authorization: Bearer " + b"x" * 32 + b"\r\n"), INVALID),
    row("R01", "a key and a byte", get("/v1/models", f"authorization: Bearer {KEY}x\r\n".encode()), INVALID),
    row("R01", "a key less a byte", get("/v1/models", f"authorization: Bearer {KEY[1:]}\r\n".encode()), INVALID),
    row("R02", "a key of 1 MB", lambda: get("/v1/models", b"authorization: Bearer " + b"k" * MIB + b"\r\n"), "431 headers_too_large"),
    row("R02", "a key of 5 KB", get("/v1/models", b"authorization: Bearer " + b"k" * 5000 + b"\r\n"), INVALID),
    *(
        row("R03", f"key {key!r}", get("/v1/models", b"authorization: Bearer " + key + b"\r\n"), outcome)
        for key, outcome in (
            (b"' OR '1'='1' --", INVALID), (b"x'; DROP TABLE keys; --", INVALID), (b"\xe4\xf6\xfc" * 8, INVALID),
            (("ключ" * 8).encode(), INVALID), (b"k\0k", "400 invalid_http"), (b"%00" * 10, INVALID),
        )
    ),
    row("R04", "another's response", Ask("/v1/responses/resp_of_another", method="GET", headers=with_key(f"Bearer {OTHER}")), "404 not_found"),
    row("R05", "admin with a key for generating", Ask("/admin/models", method="GET", headers=with_key(f"Bearer {KEY}")), "403 permission_denied"),
    row("R05", "admin without a key", Ask("/admin/models", method="GET"), MISSING),
    *(
        row("R06", f"path {path}", get(path), "404 not_found")
        for path in (
            "/V1/models", "//v1/models", "/v1/./models", "/v1//models", "/livez/../v1/models", "/livez/v1/models",
            "/livez;/v1/models", "/%2fv1/models",
        )
    ),
    *(
        row("R06", f"path {path}", get(path), MISSING)
        for path in ("/v1/models/", "/v1/%6dodels", "/v1/models%2f", "/v1/models?/livez", "/v1/models/.")
    ),
    row("R07", "key in the query", get(f"/v1/models?api_key={KEY}&key={KEY}"), MISSING),
    row("R07", "key in a cookie", get("/v1/models", f"cookie: key={KEY}\r\n".encode()), MISSING),
    row("R08", "a key revoked during a stream", Ask("/v1/models", method="GET"), "403 permission_denied", feature="keys revoked while running"),
]  # fmt: skip
