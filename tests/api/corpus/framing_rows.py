"""Section 3.1: HTTP framing and transport (H). What needs time, memory or a broken connection is in test_connections."""

from __future__ import annotations

import random

from tests.api.corpus.row import BODY, CHUNKED, HOST, JSON, MIB, Ask, bare, chunks, length, post, row

INVALID = "400 invalid_http"
GET = b"GET /v1/models HTTP/1.1"
WHOLE = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)


def hello() -> bytes:
    """A TLS ClientHello."""
    return b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(256) + b"\r\n\r\n"


ROWS = [
    row("H", "a good request", post(length()), "200"),
    *(row("H01", f"256 random bytes, seed {seed}", noise(seed), INVALID) for seed in range(5)),
    row("H02", "TLS ClientHello", hello(), INVALID),
    row("H03", "HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505 http_version"),
    row("H04", "HTTP/0.9", b"GET /\r\n", INVALID),
    row("H05", "HTTP/9.9", bare(HOST, line=b"GET / HTTP/9.9"), "505 http_version"),
    row("H05", "HTTP/1.2", bare(HOST, line=b"GET / HTTP/1.2"), "505 http_version"),
    row("H05", "http/1.1 in small letters", bare(HOST, line=b"GET / http/1.1"), INVALID),
    row("H05", "HTTP/1.10", bare(HOST, line=b"GET / HTTP/1.10"), INVALID),
    row("H06", "no Host", bare(JSON, length(), body=BODY), "400 invalid_host"),
    row("H06", "HTTP/1.0 needs none", bare(line=b"GET /v1/models HTTP/1.0"), "200"),
    row("H07", "two Hosts", post(length(), b"host: localhost\r\n"), "400 invalid_host"),
    row("H07", "the same Host twice", post(length(), HOST), "400 invalid_host"),
    row("H08", "Host with a path", bare(b"host: a/v1?x\r\n", line=GET), "400 invalid_host"),
    row("H08", "Host with a user", bare(b"host: a@127.0.0.1\r\n", line=GET), "400 invalid_host"),
    row("H08", "empty Host", bare(b"host:\r\n", line=GET), "400 invalid_host"),
    row("H08", "Host with two ports", bare(b"host: 127.0.0.1:80:80\r\n", line=GET), "400 invalid_host"),
    row("H09", "another's Host", bare(b"host: evil.example\r\n", line=GET), "421 misdirected_host"),
    row("H09", "another's Host that begins like ours", bare(b"host: localhost.a\r\n", line=GET), "421 misdirected_host"),
    row("H09", "our Host and a letter", bare(b"host: localhostx\r\n", line=GET), "421 misdirected_host"),
    row("H10", "URL of another", bare(HOST, line=b"GET http://evil.example/v1/models HTTP/1.1"), "421 misdirected_host"),
    row("H10", "URL of ours", bare(HOST, line=b"GET http://localhost/v1/models HTTP/1.1"), "200"),
    row("H10", "URL with a user", bare(HOST, line=b"GET http:" + b"//a@localhost/ HTTP/1.1"), "400 invalid_host"),
    row("H10", "URL of another scheme", bare(HOST, line=b"GET ftp://localhost/ HTTP/1.1"), INVALID),
    row("H11", "length and chunked", post(length(), CHUNKED, body=WHOLE + b"\r\n"), INVALID),
    row("H11", "chunked and length", post(CHUNKED, length(), body=WHOLE + b"\r\n"), INVALID),
    row("H12", "two lengths", post(length(), b"content-length: 1\r\n"), INVALID),
    row("H13", "the same length twice", post(length(), length()), INVALID),
    row("H13", "the same length twice in one", post(b"content-length: 44, 44\r\n"), INVALID),
    *(
        row("H14", f"length {value!r}", post(b"content-length:" + value + b"\r\n"), INVALID)
        for value in (b" -5", b" +2", b" 0x10", b" 1_0", b" 1 ", b"", b" 5.0", b" \xb2")
    ),
    row("H15", "length of 20 nines", post(b"content-length: " + b"9" * 20 + b"\r\n"), "413 request_too_large"),
    row("H15", "a byte too many", post(b"content-length: %d\r\n" % (8 * MIB + 1)), "413 request_too_large"),
    row("H18", "chunk size ZZ", chunks(b"ZZ\r\nx\r\n0\r\n\r\n"), INVALID),
    row("H18", "chunk size -1", chunks(b"-1\r\nx\r\n0\r\n\r\n"), INVALID),
    row("H18", "chunk size of 17 F", chunks(b"F" * 17 + b"\r\n"), INVALID),
    row("H18", "chunk size of 16 F", chunks(b"F" * 16 + b"\r\n"), "413 request_too_large"),
    row("H18", "empty chunk size", chunks(b"\r\nx\r\n"), INVALID),
    row("H18", "chunk size with a space in front", chunks(b" 1\r\nx\r\n0\r\n\r\n"), INVALID),
    row("H18", "chunk size 0x1", chunks(b"0x1\r\nx\r\n0\r\n\r\n"), INVALID),
    row("H18 S", "good chunks", chunks(WHOLE, b"\r\n"), "200"),
    row("H18 S", "a chunk extension", chunks(b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)), "200"),
    row("H19", "no line end after a chunk", chunks(b"1\r\nxy\r\n0\r\n\r\n"), INVALID),
    row("H19", "LF after a chunk", chunks(b"1\r\nx\n0\r\n\r\n"), INVALID),
    row("H20", "chunk extension of 70 KB", chunks(b"1;" + b"e" * 70_000 + b"\r\nx\r\n0\r\n\r\n"), INVALID),
    row("H21", "a million chunks of a byte", lambda: chunks(b"1\r\nx\r\n" * 1_000_000), "413 request_too_large"),
    row("H22", "trailers of 1 MB", lambda: chunks(WHOLE, b"a: b\r\n" * 170_000, b"\r\n"), INVALID),
    row("H22", "a length among trailers", chunks(WHOLE, length(), b"\r\n"), INVALID),
    row("H22", "a Host among trailers", chunks(WHOLE, HOST, b"\r\n"), INVALID),
    row("H22 S", "a trailer", chunks(WHOLE, b"x-sum: 1\r\n\r\n"), "200"),
    *(
        row("H23", f"coding {value!r}", post(b"transfer-encoding: " + value + b"\r\n", body=WHOLE), INVALID)
        for value in (b"xchunked", b"chunked, gzip", b"gzip, chunked", b"chunked, chunked", b"identity", b"", b"chunked;q=1")
    ),
    row("H23", "chunked twice", post(CHUNKED, CHUNKED, body=WHOLE), INVALID),
    row("H23", "chunked in HTTP/1.0", post(CHUNKED, body=WHOLE, line=b"POST /v1/completions HTTP/1.0"), INVALID),
    row("H24", "LF ends lines", post(length()).replace(b"\r\n", b"\n"), INVALID),
    row("H24", "LF ends one line", post(b"x: y\n", length()), INVALID),
    row("H24", "LF ends the head", b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n\n", INVALID),
    row("H24", "CR alone", post(b"x: y\rz: w\r\n", length()), INVALID),
    row("H25", "folded header", post(b"x: y\r\n z\r\n", length()), INVALID),
    row("H25", "folded first header", bare(b" x: y\r\n", HOST, line=GET), INVALID),
    *(
        row("H26", f"header line {line!r}", post(line + b"\r\n", length()), INVALID)
        for line in (b"a : x", b"a\t: x", b"a b: x", b": x", b"x", b"a: \0", b"a: \x01", b"a: \x7f", b"a\x80: x", b"a(b: x")
    ),
    row("H26 S", "a header of other bytes", post(b"x: \xe4\xff\r\n", length()), "200"),
    row("H27", "100 KB header", post(b"x: " + b"y" * 100_000 + b"\r\n", length()), "431 headers_too_large"),
    row("H27", "10 MB header", lambda: post(b"x: " + b"y" * 10 * MIB + b"\r\n"), "431 headers_too_large"),
    row("H28", "2,000 headers", post(b"x: y\r\n" * 2000, length()), "431 headers_too_large"),
    row("H28", "101 headers", post(b"x: y\r\n" * 97, length()), "431 headers_too_large"),
    row("H28 S", "100 headers", post(b"x: y\r\n" * 96, length()), "200"),
    row("H29", "100 KB URI", bare(HOST, line=b"GET /" + b"a" * 100_000 + b" HTTP/1.1"), "414 uri_too_long"),
    row("H29", "8 KiB and a byte", bare(HOST, line=b"GET /" + b"a" * (8193 - 14) + b" HTTP/1.1"), "414 uri_too_long"),
    row("H29", "8 KiB are read", bare(HOST, line=b"GET /" + b"a" * (8192 - 14) + b" HTTP/1.1"), "404 not_found"),
    *(
        row("H30", f"path {path!r}", bare(HOST, line=b"GET " + path + b" HTTP/1.1"), "404 not_found")
        for path in (b"/%00", b"/%zz", b"/%c0%af", b"/%2e%2e%2f", b"/%25%32%65")
    ),
    *(
        row("H30", f"path {path!r}", bare(HOST, line=b"GET " + path + b" HTTP/1.1"), "404 model_not_found", deviates="the path is a model's, and the model is what is not found")
        for path in (b"/v1/models/%2e%2e%2fx", b"/v1/models/%252e")
    ),
    row("H31", "NUL in the method", bare(HOST, line=b"G\0T / HTTP/1.1"), INVALID),
    row("H31", "10 KB method", bare(HOST, line=b"G" * 10_000 + b" / HTTP/1.1"), INVALID),
    row("H31", "TRACE", bare(HOST, line=b"TRACE /livez HTTP/1.1"), "405 method_not_allowed"),
    row("H31", "CONNECT", bare(HOST, line=b"CONNECT evil.example:443 HTTP/1.1"), "405 method_not_allowed"),
    row("H31", "small letters", bare(HOST, line=b"get / HTTP/1.1"), "405 method_not_allowed"),
    row("H31", "OPTIONS *", bare(HOST, line=b"OPTIONS * HTTP/1.1"), "404 not_found"),
    row("H31", "two spaces", bare(HOST, line=b"GET  / HTTP/1.1"), INVALID),
    row("H31", "a space behind", bare(HOST, line=b"GET / HTTP/1.1 "), INVALID),
    row("H31", "a fragment", bare(HOST, line=b"GET /#a HTTP/1.1"), INVALID),
    row("H31", "no path", bare(HOST, line=b"GET v1/models HTTP/1.1"), INVALID),
    row("H31", "other bytes in the path", bare(HOST, line=b"GET /\xe4 HTTP/1.1"), INVALID),
    row("H32", "Expect of another kind", post(b"expect: 200-maybe\r\n", length()), INVALID),
    row("H32", "Expect twice", post(b"expect: 100-continue\r\n" * 2, length()), INVALID),
    row("H33", "1 GB expected", post(b"expect: 100-continue\r\ncontent-length: 1073741824\r\n", body=b""), "413 request_too_large"),
    row("H35", "Upgrade: websocket", bare(HOST, b"upgrade: websocket\r\n", line=GET), INVALID),
    row("H35", "Upgrade: h2c", bare(HOST, b"upgrade: h2c\r\n", line=GET), INVALID),
    *(
        row("H36", f"Content-Encoding: {coding.decode()}", post(b"content-encoding: " + coding + b"\r\n", length()), "415 unsupported_media_type")
        for coding in (b"gzip", b"zstd", b"br", b"deflate", b"gzip, gzip")
    ),
    row("H36 S", "identity", post(b"content-encoding: identity\r\n", length()), "200"),
    row("H39", "POST without length", post(body=b""), "411 length_required"),
    row("H40", "100,000 ranges of a file", Ask("/v1/files/file-x/content", method="GET", headers={"range": "bytes=" + "0-1," * 3000}), "400 invalid_http", feature="files"),
    row("H41", "multipart without boundary", Ask("/v1/files", b"x", headers={"content-type": "multipart/form-data"}), "400 invalid_http", feature="files"),
]  # fmt: skip
