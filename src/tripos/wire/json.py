"""Strict JSON (RFC 8259, I-JSON): what two parsers could read differently is refused.

UTF-8 without BOM, at most MAX_DEPTH levels and MAX_NODES values, no duplicate keys, no NaN or infinities, no lone
surrogates, integers of 64 bits. Encoding is msgspec's.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

import msgspec

from tripos.errors import InvalidRequest

MAX_DEPTH = 64
MAX_NODES = 100_000
MAX_DIGITS = 40  # a longer integer is not a number that anyone meant
INT64 = range(-(2**63), 2**63)

# An unterminated string matches to the end, so that the scan stays linear; the parser then refuses it.
_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LONG_INTEGER = re.compile(rb"\d{19}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

encode = msgspec.json.Encoder().encode


def parse(body: bytes) -> Any:
    """The value that `body` holds. Raises InvalidRequest: invalid_encoding, invalid_json, out_of_range."""
    text = _decode(body)
    skeleton = _STRINGS.sub(b"", body)
    _check_size(skeleton)
    parse_int = _integer if _LONG_INTEGER.search(skeleton) else None
    try:
        value = _decoder(parse_int).decode(text)
    except json.JSONDecodeError as error:
        raise InvalidRequest(
            f"the body is not valid JSON: {error.msg.lower()} at character {error.pos}", code="invalid_json"
        ) from None
    if parse_int is not None or _SURROGATE.search(body):
        _check_values(value)
    return value


def _decode(body: bytes) -> str:
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidRequest("the body starts with a byte order mark: send plain UTF-8", code="invalid_encoding")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        message = f"the body is not UTF-8: bad byte at {error.start}"
        raise InvalidRequest(message, code="invalid_encoding") from None
    if "\0" in text:  # no JSON holds a bare NUL, UTF-16 and UTF-32 do
        raise InvalidRequest("the body holds NUL bytes: send UTF-8", code="invalid_encoding")
    return text


def _check_size(skeleton: bytes) -> None:
    """`skeleton`: the body without its strings."""
    num_nodes = skeleton.count(b",") + skeleton.count(b"{") + skeleton.count(b"[") + 1
    if num_nodes > MAX_NODES:
        raise InvalidRequest(f"the body holds more than {MAX_NODES} values", code="invalid_json")
    depth = 0
    for bracket in skeleton.translate(None, _NOT_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise InvalidRequest(f"the body nests deeper than {MAX_DEPTH} levels", code="invalid_json")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise InvalidRequest(f"the key {shown(twice)} appears twice in one object", code="invalid_json")
    return found


def _float(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise InvalidRequest(f"the number {shown(digits)} is too large", code="invalid_json")
    return value


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise InvalidRequest(f"an integer of {len(digits)} digits is too long", code="invalid_json")
    return int(digits)


def _constant(name: str) -> NoReturn:
    raise InvalidRequest(f"{name} is not a JSON value", code="invalid_json")


def _decoder(parse_int: Any) -> json.JSONDecoder:
    return _SLOW if parse_int else _FAST


_FAST = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
_SLOW = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant, parse_int=_integer)


def _check_values(value: Any, path: str = "") -> None:
    """Strings that UTF-8 cannot write, integers that 64 bits cannot hold."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest("a string holds half a surrogate pair", code="invalid_encoding", param=path) from None
    elif isinstance(value, int) and value not in INT64:
        raise InvalidRequest(f"{path} does not fit in 64 bits", code="out_of_range", param=path)
    elif isinstance(value, dict):
        for key, each in value.items():
            _check_values(key, path)
            _check_values(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for i, each in enumerate(value):
            _check_values(each, f"{path}[{i}]")


def shown(text: str) -> str:
    """`text` quoted for a message: escaped, and short."""
    return json.dumps(text if len(text) <= 64 else text[:61] + "...")
