"""Strict JSON (RFC 8259, I-JSON): what two parsers could read differently is refused.

UTF-8 without BOM, at most MAX_DEPTH levels and MAX_NODES values, no duplicate keys, no NaN or infinities, no lone
surrogates. msgspec reads; this file adds what it lets pass. Ranges of integers are the fields' (fields.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tripos.errors import InvalidRequest

MAX_DEPTH = 64
MAX_NODES = 100_000
INT64 = range(-(2**63), 2**63)

_LARGE_BYTES = 256 * 1024  # from here on values are counted before they are made
_SPACE = b" \t\r\n"
_STRINGS = re.compile(rb'"[^"]*+"?')  # unterminated ones match to the end, so that the scan stays linear
# Half of a pair; at the end of a truncated body it is only truncated.
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*\\u(?:[dD][89abAB]..(?!\\u[dD][c-fC-F]|\\?u?[dD]?\Z)|(?<!\\u[dD][89abAB]..\\u)[dD][c-fC-F]..)",
    re.DOTALL,
)

encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def parse(body: bytes) -> Any:
    """The value that `body` holds. Raises InvalidRequest: invalid_encoding, invalid_json."""
    body = body.strip(_SPACE)
    if len(body) > _LARGE_BYTES:
        _check_count(body)
    try:
        value = _decode(body)
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8: bad byte at {error.start}"
        raise InvalidRequest(message, code="invalid_encoding") from None
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _explain(body, error) from None
    num_brackets = body.count(b"{") + body.count(b"[")
    if num_brackets > MAX_DEPTH:
        _check_depth(value)
    if len(body) > MAX_NODES and num_brackets + body.count(b",") >= MAX_NODES:
        _check_count(body)
    written = encode(value)  # each key once
    if b"\\u" in body:  # which may hide a colon of a string
        body, written = _skeleton(body), _skeleton(written)
    if body.count(b":") != written.count(b":"):
        raise InvalidRequest("a key appears twice in one object", code="invalid_json")
    return value


def decoder(form: Any) -> Callable[[bytes], Any]:
    """For values of a type that leaves out keys which it does not know: gives what `parse` would have found, or None
    where it cannot tell, such as for a body with further keys, or too large to be judged at a glance.
    """
    decode = msgspec.json.Decoder(form).decode

    def decode_plain(body: bytes) -> Any:
        if len(body) > MAX_NODES or body.count(b"{") + body.count(b"[") > MAX_DEPTH or b"\\u" in body:
            return None
        try:
            value = decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        return value if body.count(b":") == encode(value).count(b":") else None  # no key twice, none left out

    return decode_plain


def _skeleton(body: bytes) -> bytes:
    """The body without its strings. Taking escapes out first makes ten million of them cheap."""
    return _STRINGS.sub(b"", body.replace(b"\\\\", b"").replace(b'\\"', b""))


def _check_count(body: bytes) -> None:
    # Cheap, and never more than there are; then the scan below has few strings to find.
    num_strings = (body.count(b'"') - body.count(b'\\"')) // 2
    if num_strings <= 2 * MAX_NODES:
        skeleton = _skeleton(body)
        if skeleton.count(b",") + skeleton.count(b"{") + skeleton.count(b"[") < MAX_NODES:
            return
    raise InvalidRequest(f"the body holds more than {MAX_NODES} values", code="invalid_json")


def _check_depth(value: Any) -> None:
    level = [value]  # arrays and objects at one depth
    for _ in range(MAX_DEPTH):
        level = [inner for each in level for inner in _inside(each) if type(inner) is dict or type(inner) is list]
        if not level:
            return
    raise InvalidRequest(f"the body nests deeper than {MAX_DEPTH} levels", code="invalid_json")


def _inside(value: Any) -> Iterable[Any]:
    """The values of an array or object, one level down."""
    if type(value) is dict:
        return value.values()
    return value if type(value) is list else ()


def _explain(body: bytes, error: Exception) -> InvalidRequest:
    """Why a body was refused, in the codes of the contract."""
    if isinstance(error, RecursionError):
        return InvalidRequest(f"the body nests deeper than {MAX_DEPTH} levels", code="invalid_json")
    if body.startswith(b"\xef\xbb\xbf"):
        return InvalidRequest("the body starts with a byte order mark: send plain UTF-8", code="invalid_encoding")
    try:
        body.decode()
    except UnicodeDecodeError as problem:
        return InvalidRequest(f"the body is not UTF-8: bad byte at {problem.start}", code="invalid_encoding")
    if b"\0" in body:  # UTF-16 and UTF-32 hold many
        return InvalidRequest("the body holds NUL bytes: send UTF-8", code="invalid_encoding")
    if b"\\u" in body and _LONE_SURROGATE.search(body):
        return InvalidRequest("a string holds half of a surrogate pair", code="invalid_encoding")
    reason = str(error).removeprefix("JSON is malformed: ") if body else "it is empty"
    return InvalidRequest(f"the body is not valid JSON: {reason[:100].lower()}", code="invalid_json")
