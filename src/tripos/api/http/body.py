"""The body of an HTTP/1.1 request, by its length or in chunks, strictly (RFC 9112, 6 and 7).

Pure: no I/O, no clock. Owns the limits of chunks and trailers.
"""

from __future__ import annotations

import re

from tripos.api.http.framing import MAX_BODY_BYTES, invalid_http, read_field
from tripos.errors import RequestTooLarge

MAX_CHUNKS = 65_536
MAX_CHUNK_LINE_BYTES = 256  # size and extension
MAX_TRAILER_BYTES = 8 * 1024
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\x20-\x7e\x80-\xff\t]*)?")
_FORBIDDEN_TRAILERS = {b"content-length", b"transfer-encoding", b"host", b"authorization", b"connection", b"trailer"}


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
                        raise invalid_http("a chunk is longer than it says")
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
            raise invalid_http("a chunk does not begin with its size")
        size = int(match[1], 16)
        if not size:
            self._in_trailer = True
            return
        self._chunks_left -= 1
        if self.num_bytes + size > MAX_BODY_BYTES:
            raise RequestTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
        if self._chunks_left < 0:
            raise RequestTooLarge(f"the body has more than {MAX_CHUNKS} chunks")
        self._left = size + 2

    def _check_trailer(self, line: bytes) -> None:
        name, _ = read_field(line)
        if name in _FORBIDDEN_TRAILERS:
            raise invalid_http("a trailer says what only a header may")
        if self._trailer_bytes > MAX_TRAILER_BYTES:
            raise invalid_http("the trailers are too long")

    @staticmethod
    def _line_end(buffer: bytearray, at: int, most: int) -> int:
        """Where the line at `at` ends, or -1: not yet. Raises InvalidRequest."""
        end = buffer.find(b"\n", at, at + most + 2)
        if end < 0:
            if len(buffer) - at > most + 1:
                raise invalid_http("a line of the chunked body is too long")
            if b"\r" in buffer[at:-1]:
                raise invalid_http("a line ends without CR LF")
            return -1
        if end == at or buffer[end - 1] != 13:
            raise invalid_http("a line ends without CR LF")
        return end - 1
