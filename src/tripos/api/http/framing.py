"""HTTP/1.1 requests out of bytes, strictly: what two parsers could read differently is refused (RFC 9110, 9112).

Pure: no I/O, no clock. Bytes are read from left to right, so the verdict does not depend on how they arrive. Owns the
limits of head and body. Knows neither routes nor names of hosts.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from tripos.errors import HeadersTooLarge, HttpVersion, InvalidRequest, RequestTooLarge, TriposError, UriTooLong

MAX_LINE_BYTES = 8 * 1024  # the request line
MAX_HEAD_BYTES = 16 * 1024  # request line and fields, without the empty line
MAX_FIELDS = 100
MAX_METHOD_BYTES = 24
MAX_BODY_BYTES = 8 * 2**20
MAX_CHUNKS = 65_536
MAX_CHUNK_LINE_BYTES = 256  # size and extension
MAX_TRAILER_BYTES = 8 * 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_METHOD_START = re.compile(rb"%s{1,%d}(?: |\Z)" % (_TOKEN, MAX_METHOD_BYTES))
_LINE = re.compile(rb"(%s+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_END = b"\r\n\r\n"
_NAME = re.compile(rb"%s+" % _TOKEN)
_CONTROLS = bytes(each for each in range(256) if (each < 0x20 and each != 0x09) or each == 0x7F)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)(/[^#]*|\?[^#]*)?")
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_USUAL_HOSTS = {b"localhost", b"127.0.0.1", b"localhost:8000", b"127.0.0.1:8000"}
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\x20-\x7e\x80-\xff\t]*)?")
_FORBIDDEN_TRAILERS = {b"content-length", b"transfer-encoding", b"host", b"authorization", b"connection", b"trailer"}
# A client sends the same lines again and again: what was read once and is no secret is not read anew.
_MAX_KNOWN, _MAX_KNOWN_BYTES = 1024, 160
_SECRET = {b"authorization", b"x-api-key", b"cookie", b"proxy-authorization"}
_known_lines: dict[bytes, tuple[str, bytes, bytes, bytes | None, str, str]] = {}
_known_fields: dict[bytes, tuple[bytes, bytes]] = {}

Fields = list[tuple[bytes, bytes]]


class Head:
    """A request without its body. `authority`: of a target that is a whole URL; `length` -1: chunked."""

    __slots__ = (
        "authority", "decoded_path", "fields", "found", "keeps_alive", "length", "method", "path", "query", "version",
        "waits",
    )  # fmt: skip

    def __init__(
        self, method: str, path: bytes, query: bytes, authority: bytes | None, version: str, decoded_path: str
    ) -> None:
        self.method = method
        self.path = path  # as it came, percent signs and all
        self.query = query
        self.authority = authority
        self.version = version
        self.decoded_path = decoded_path  # percent signs read once; what is no UTF-8 then is replaced
        self.fields: Fields = []  # names in lower case
        self.found: dict[bytes, bytes] = {}  # of fields sent twice, the last
        self.length = 0
        self.keeps_alive = version == "1.1"
        self.waits = False  # for "100 Continue" before it sends its body


class HeadReader:
    """Reads one head after the other from a buffer that grows. Judges only what a new byte can change."""

    def __init__(self) -> None:
        self._num_judged = 0  # bytes of the unfinished head

    def read(self, buffer: bytearray) -> Head | None:
        """Takes the head of a request off the front of `buffer`; None while it is not whole.

        Raises InvalidRequest: invalid_http, invalid_host, uri_too_long, headers_too_large, http_version, and
        request_too_large for a body that is announced too large.
        """
        while buffer.startswith(b"\r\n"):  # empty lines in front are forgiven (RFC 9112, 2.2)
            del buffer[:2]
            self._num_judged = 0
        if not buffer or buffer == b"\r":
            return None
        before, self._num_judged = self._num_judged, len(buffer)
        end = buffer.find(b"\r\n\r\n", max(0, before - 3), MAX_HEAD_BYTES + 4)
        if end < 0:
            if _is_news(buffer, before):
                _check_unfinished(buffer)
            return None
        lines = bytes(buffer[:end]).split(b"\r\n")
        head = _read_line(lines[0])
        _read_fields(head, lines)
        del buffer[: end + 4]
        self._num_judged = 0
        _settle(head)
        return head


def _invalid(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_http")


def _is_news(buffer: bytearray, before: int) -> bool:
    """Whether bytes from `before` on can change the verdict on an unfinished head."""
    now = len(buffer)
    if before <= MAX_METHOD_BYTES or now > MAX_HEAD_BYTES or before <= MAX_LINE_BYTES < now:
        return True
    return b"\n" in buffer[before:] or b"\r" in buffer[before - 1 :]


def _check_unfinished(buffer: bytearray) -> None:
    """What is wrong already. Lines are judged in their order, as they will be when all is there."""
    lines = bytes(buffer[: MAX_HEAD_BYTES + 1]).split(b"\r\n")
    last = lines.pop()
    if not lines:
        _check_line_start(last.removesuffix(b"\r"))
        return
    head = _read_line(lines[0])
    _read_fields(head, lines)
    if len(head.fields) == MAX_FIELDS and last not in (b"", b"\r"):
        raise _too_large()
    if b"\n" in last or b"\r" in last[:-1]:
        raise _invalid("a line ends without CR LF")
    ends = range(len(buffer) - 3, MAX_HEAD_BYTES + 1)  # where the head may still end
    if len(buffer) > MAX_HEAD_BYTES and not any(_END.startswith(buffer[end:]) for end in ends):
        raise _too_large()


def _check_line_start(line: bytes) -> None:
    """Of a request line that may go on."""
    if _METHOD_START.match(line) is None:
        raise _invalid("the request does not begin with a method")
    if b"\n" in line[: MAX_LINE_BYTES + 1] or b"\r" in line[:MAX_LINE_BYTES]:
        raise _invalid("a line ends without CR LF")
    if len(line) > MAX_LINE_BYTES:
        raise UriTooLong(f"the request line is longer than {MAX_LINE_BYTES} bytes")


def _read_line(line: bytes) -> Head:
    """The request line."""
    known = _known_lines.get(line)
    if known is None:
        known = _parse_line(line)
        if len(line) <= _MAX_KNOWN_BYTES:
            if len(_known_lines) >= _MAX_KNOWN:
                _known_lines.clear()
            _known_lines[line] = known
    return Head(*known)


def _parse_line(line: bytes) -> tuple[str, bytes, bytes, bytes | None, str, str]:
    """Method, path, query, authority, version, decoded path."""
    _check_line_start(line)
    match = _LINE.fullmatch(line)
    if match is None:
        raise _invalid("the request line is not a method, a target and an HTTP version")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise HttpVersion("send HTTP/1.1")
    authority = None
    if method == b"CONNECT" or (method == b"OPTIONS" and target == b"*"):
        path, query = b"*", b""
    elif target.startswith(b"/"):
        if b"#" in target:
            raise _invalid("the target holds a fragment")
        path, _, query = target.partition(b"?")
    else:
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise _invalid("the target is neither a path nor an http URL")
        authority = _check_host(absolute[1])
        path, _, query = (absolute[2] or b"/").partition(b"?")
        path = path or b"/"
    text = path.decode("ascii")
    return method.decode(), path, query, authority, f"1.{minor.decode()}", unquote(text) if "%" in text else text


def _read_fields(head: Head, lines: list[bytes]) -> None:
    """All lines after the first; they are within MAX_HEAD_BYTES."""
    fields = head.fields
    for line in lines[1:]:
        if len(fields) == MAX_FIELDS:
            raise _too_large()
        field = _known_fields.get(line)
        if field is None:
            field = _read_field(line)
            if len(line) <= _MAX_KNOWN_BYTES and field[0] not in _SECRET:
                if len(_known_fields) >= _MAX_KNOWN:
                    _known_fields.clear()
                _known_fields[line] = field
        fields.append(field)


def _read_field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or _NAME.fullmatch(name) is None:
        raise _invalid("a header has no proper name, or is folded")
    if len(value.translate(None, _CONTROLS)) != len(value):
        raise _invalid("a header holds control characters")
    name = name.lower()
    if name == b"content-length" and value[-1:] in (b" ", b"\t"):
        raise _invalid("Content-Length is not a number")
    return name, value.strip(b" \t")


def _too_large() -> HeadersTooLarge:
    return HeadersTooLarge(f"the head of a request may have {MAX_HEAD_BYTES} bytes and {MAX_FIELDS} headers")


def _settle(head: Head) -> None:
    """What the fields say about the message itself."""
    found = head.found = dict(head.fields)
    if len(found) != len(head.fields):
        _check_twins(head.fields)
    host = found.get(b"host")
    if host is not None:
        _check_host(host)
    elif head.version == "1.1":
        raise InvalidRequest("Host is missing", code="invalid_host")
    if head.authority is not None:  # counts instead of Host (RFC 9112, 3.2.2)
        found[b"host"] = head.authority
        head.fields = [each for each in head.fields if each[0] != b"host"] + [(b"host", head.authority)]
    if b"upgrade" in found:
        raise _invalid("this server speaks HTTP/1.1 only: send no Upgrade")
    if b"expect" in found:
        if found[b"expect"].lower() != b"100-continue":
            raise _invalid("Expect may only be 100-continue")
        head.waits = head.version == "1.1"
    if b"connection" in found:
        for name, value in head.fields:
            if name == b"connection":
                _read_connection(head, value)
    _settle_body(head, found.get(b"content-length"), found.get(b"transfer-encoding"))


def _check_twins(fields: Fields) -> None:
    """Fields that may be sent once only."""
    names = [name for name, _ in fields]
    if names.count(b"host") > 1:
        raise InvalidRequest("Host was sent twice", code="invalid_host")
    for name in (b"content-length", b"transfer-encoding", b"expect"):
        if names.count(name) > 1:
            raise _invalid(f"{name.decode()} was sent twice")


def _settle_body(head: Head, length: bytes | None, coding: bytes | None) -> None:
    if coding is not None:
        if length is not None:
            raise _invalid("Content-Length and Transfer-Encoding were both sent")
        if coding.lower() != b"chunked" or head.version == "1.0":
            raise _invalid("Transfer-Encoding may only be chunked")
        head.length = -1
    elif length is not None:
        if not length.isdigit():
            raise _invalid("Content-Length is not a number")
        if len(length) > 18 or int(length) > MAX_BODY_BYTES:
            raise body_too_large()
        head.length = int(length)


def _read_connection(head: Head, value: bytes) -> None:
    words = [word.strip(b" \t") for word in value.lower().split(b",")]
    if b"close" in words:
        head.keeps_alive = False
    elif b"keep-alive" in words and head.version == "1.0":
        head.keeps_alive = True


def _check_host(value: bytes) -> bytes:
    if value not in _USUAL_HOSTS and _HOST.fullmatch(value) is None:
        raise InvalidRequest("the host is not a name with an optional port", code="invalid_host")
    return value


def body_too_large() -> TriposError:
    return RequestTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")


class Body:
    """A request's body as it comes: `feed` until it is whole, then `data`."""

    __slots__ = (
        "_chunks_left", "_in_trailer", "_is_chunked", "_joined", "_left", "_parts", "_trailer_bytes", "num_bytes",
    )  # fmt: skip

    def __init__(self, length: int) -> None:
        self._is_chunked = length < 0
        self._left = max(length, 0)  # of the body, or of the chunk and its CR LF
        self._parts: list[bytes] = []
        self._joined = bytearray()  # of chunks, which may be a byte each
        self._chunks_left = MAX_CHUNKS
        self._in_trailer = False
        self._trailer_bytes = 0
        self.num_bytes = 0

    @property
    def data(self) -> bytes:
        if self._is_chunked:
            return bytes(self._joined)
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def feed(self, buffer: bytearray) -> bool:
        """Takes what belongs to the body off the front of `buffer`; returns whether it is whole.

        Raises InvalidRequest (invalid_http), RequestTooLarge.
        """
        if self._is_chunked:
            return self._feed_chunks(buffer)
        if self._left:
            part = bytes(buffer[: self._left])
            if len(part) == len(buffer):
                buffer.clear()
            else:
                del buffer[: self._left]
            self._left -= len(part)
            self.num_bytes += len(part)
            if part:
                self._parts.append(part)
        return not self._left

    def _feed_chunks(self, buffer: bytearray) -> bool:
        at, size = 0, len(buffer)
        try:
            while at < size:
                if self._in_trailer:
                    end = self._line_end(buffer, at, MAX_TRAILER_BYTES)
                    if end < 0:
                        return False
                    self._trailer_bytes += end + 2 - at
                    line, at = bytes(buffer[at:end]), end + 2
                    if not line:
                        return True
                    self._check_trailer(line)
                elif self._left > 2:
                    part = buffer[at : at + self._left - 2]
                    at += len(part)
                    self._left -= len(part)
                    self.num_bytes += len(part)
                    self._joined += part
                elif self._left:
                    if buffer[at] != b"\n\r"[self._left - 1]:
                        raise _invalid("a chunk is longer than it says")
                    at += 1
                    self._left -= 1
                else:
                    end = self._line_end(buffer, at, MAX_CHUNK_LINE_BYTES)
                    if end < 0:
                        return False
                    self._open_chunk(bytes(buffer[at:end]))
                    at = end + 2
            return False
        finally:
            del buffer[:at]

    def _open_chunk(self, line: bytes) -> None:
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise _invalid("a chunk does not begin with its size")
        size = int(match[1], 16)
        if not size:
            self._in_trailer = True
            return
        self._chunks_left -= 1
        if self.num_bytes + size > MAX_BODY_BYTES:
            raise body_too_large()
        if self._chunks_left < 0:
            raise RequestTooLarge(f"the body has more than {MAX_CHUNKS} chunks")
        self._left = size + 2

    def _check_trailer(self, line: bytes) -> None:
        name, _ = _read_field(line)
        if name in _FORBIDDEN_TRAILERS:
            raise _invalid("a trailer says what only a header may")
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise _invalid("the trailers are too long")

    @staticmethod
    def _line_end(buffer: bytearray, at: int, most: int) -> int:
        """Where the line at `at` ends, or -1: not yet. Raises InvalidRequest."""
        end = buffer.find(b"\n", at, at + most + 2)
        if end < 0:
            if len(buffer) - at > most + 1:
                raise _invalid("a line of the chunked body is too long")
            if b"\r" in buffer[at:-1]:
                raise _invalid("a line ends without CR LF")
            return -1
        if end == at or buffer[end - 1] != 13:
            raise _invalid("a line ends without CR LF")
        return end - 1
