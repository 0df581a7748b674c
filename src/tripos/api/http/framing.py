"""HTTP/1.1 requests out of bytes, strictly: what two parsers could read differently is refused (RFC 9110, 9112).

Pure: no I/O, no clock. Bytes are read from left to right, so the verdict does not depend on how they arrive. Owns the
limits of head and body. Knows neither routes nor names of hosts.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from tripos.errors import HeadersTooLarge, HttpVersion, InvalidRequest, RequestTooLarge, UriTooLong

MAX_LINE_BYTES = 8 * 1024  # the request line
MAX_HEAD_BYTES = 16 * 1024  # request line and fields, without the empty line
MAX_FIELDS = 100
MAX_METHOD_BYTES = 24
MAX_BODY_BYTES = 8 * 2**20

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_METHOD_START = re.compile(rb"%s{1,%d}(?: |\Z)" % (_TOKEN, MAX_METHOD_BYTES))
_LINE = re.compile(rb"(%s+) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])" % _TOKEN)
_END = b"\r\n\r\n"
_NAME = re.compile(rb"%s+" % _TOKEN)
_CONTROLS = bytes(each for each in range(256) if (each < 0x20 and each != 0x09) or each == 0x7F)
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)(/[^#]*|\?[^#]*)?")
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_USUAL_HOSTS = {b"localhost", b"127.0.0.1", b"localhost:8000", b"127.0.0.1:8000"}
# Clients repeat the same lines: parsed lines are remembered, except those with secrets.
_MAX_KNOWN, _MAX_KNOWN_BYTES = 1024, 160
_MAX_REMEMBERED_BYTES = 4096  # of the last head of each connection
_SECRET = {b"authorization", b"x-api-key", b"cookie", b"proxy-authorization"}
_known_lines: dict[bytes, tuple[str, bytes, bytes, bytes | None, str, str]] = {}
_known_fields: dict[bytes, tuple[bytes, bytes]] = {}

Fields = list[tuple[bytes, bytes]]


class Head:
    """A request without its body; not changed once it is read. `authority`: of a target that is a whole URL;
    `length` -1: chunked.
    """

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
    """Reads one head after the other from a buffer that grows. Checks only what new bytes can change."""

    def __init__(self) -> None:
        self._num_judged = 0  # bytes of the unfinished head
        self._last_data = b""  # of the last head, which a client often sends again on the same connection
        self._last: Head | None = None

    def read(self, buffer: bytearray) -> Head | None:
        """Takes the head of a request off the front of `buffer`; None while it is not whole.

        Raises InvalidRequest: invalid_http, invalid_host, uri_too_long, headers_too_large, http_version, and
        request_too_large for a body that is announced too large.
        """
        while buffer.startswith(b"\r\n"):  # empty lines in front are ignored (RFC 9112, 2.2)
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
        data = bytes(buffer[:end])
        del buffer[: end + 4]
        self._num_judged = 0
        if data == self._last_data:
            return self._last
        lines = data.split(b"\r\n")
        head = _read_line(lines[0])
        _read_fields(head, lines)
        _settle(head)
        if end <= _MAX_REMEMBERED_BYTES:
            self._last_data, self._last = data, head
        return head


def invalid_http(message: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_http")


def _is_news(buffer: bytearray, before: int) -> bool:
    """Whether bytes from `before` on can make an unfinished head wrong."""
    now = len(buffer)
    if before <= MAX_METHOD_BYTES or now > MAX_HEAD_BYTES or before <= MAX_LINE_BYTES < now:
        return True
    return b"\n" in buffer[before:] or b"\r" in buffer[before - 1 :]


def _check_unfinished(buffer: bytearray) -> None:
    """Raises for what is wrong already. Lines are checked in their order, as in a complete head."""
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
        raise invalid_http("a line ends without CR LF")
    ends = range(len(buffer) - 3, MAX_HEAD_BYTES + 1)  # where the head may still end
    if len(buffer) > MAX_HEAD_BYTES and not any(_END.startswith(buffer[end:]) for end in ends):
        raise _too_large()


def _check_line_start(line: bytes) -> None:
    """Of a request line that may go on."""
    if _METHOD_START.match(line) is None:
        raise invalid_http("the request does not begin with a method")
    if b"\n" in line[: MAX_LINE_BYTES + 1] or b"\r" in line[:MAX_LINE_BYTES]:
        raise invalid_http("a line ends without CR LF")
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
        raise invalid_http("the request line is not a method, a target and an HTTP version")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in b"01":
        raise HttpVersion("send HTTP/1.1")
    authority = None
    if method == b"CONNECT" or (method == b"OPTIONS" and target == b"*"):
        path, query = b"*", b""
    elif target.startswith(b"/"):
        if b"#" in target:
            raise invalid_http("the target holds a fragment")
        path, _, query = target.partition(b"?")
    else:
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise invalid_http("the target is neither a path nor an http URL")
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
            field = read_field(line)
            if len(line) <= _MAX_KNOWN_BYTES and field[0] not in _SECRET:
                if len(_known_fields) >= _MAX_KNOWN:
                    _known_fields.clear()
                _known_fields[line] = field
        fields.append(field)


def read_field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or _NAME.fullmatch(name) is None:
        raise invalid_http("a header name is not valid, or a header is folded over two lines")
    if len(value.translate(None, _CONTROLS)) != len(value):
        raise invalid_http("a header holds control characters")
    name = name.lower()
    if name == b"content-length" and value[-1:] in (b" ", b"\t"):
        raise invalid_http("Content-Length is not a number")
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
        raise invalid_http("this server supports HTTP/1.1 only: send no Upgrade header")
    if b"expect" in found:
        if found[b"expect"].lower() != b"100-continue":
            raise invalid_http("Expect may only be 100-continue")
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
            raise invalid_http(f"{name.decode()} was sent twice")


def _settle_body(head: Head, length: bytes | None, coding: bytes | None) -> None:
    if coding is not None:
        if length is not None:
            raise invalid_http("Content-Length and Transfer-Encoding were both sent")
        if coding.lower() != b"chunked" or head.version == "1.0":
            raise invalid_http("Transfer-Encoding may only be chunked")
        head.length = -1
    elif length is not None:
        if not length.isdigit():
            raise invalid_http("Content-Length is not a number")
        if len(length) > 18 or int(length) > MAX_BODY_BYTES:
            raise RequestTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
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
