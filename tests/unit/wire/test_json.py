"""Strict JSON: everything that two parsers could read differently is refused, everything else is read."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tripos.errors import InvalidRequest
from tripos.wire.json import MAX_DEPTH, MAX_NODES, parse

VALID = json.dumps({
    "model": "m", "n": 1, "t": -0.5e-3, "x": [True, None, {"é\"\\ud83d": "a:b,{[\n"}], "emoji": "🙂", "e": "",
}).encode()  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),  # J01
        (b" \r\n\t", "invalid_json"),
        (b'{"a":1} x', "invalid_json"),  # J03
        (b"{}{}", "invalid_json"),
        (b"[" * 65 + b"]" * 65, "invalid_json"),  # J04
        (b'{"a":' * 65 + b"1" + b"}" * 65, "invalid_json"),
        (b"[" * 1500 + b"]" * 1500, "invalid_json"),
        (b"[" * 100_000 + b"]" * 100_000, "invalid_json"),
        (b"[" + b"{}," * 1_000_000 + b"{}]", "invalid_json"),  # J05
        (b"[" + b"1," * MAX_NODES + b"1]", "invalid_json"),
        (b'["' + b'","' * 1_000_000 + b'"]', "invalid_json"),
        (b'{"model":"a","model":"a"}', "invalid_json"),  # J06
        (b'{"a":{"b":"x:y","b":1}}', "invalid_json"),
        (b'{"mod\\u0065l":1,"model":2}', "invalid_json"),  # J17
        (b'{"a":1,"a":"\\u003a"}', "invalid_json"),
        (b'{"a":NaN}', "invalid_json"),  # J07
        (b"[Infinity]", "invalid_json"),
        (b"[-Infinity]", "invalid_json"),
        (b"[1e400]", "invalid_json"),
        (b"[" + b"7" * 5000 + b"]", "invalid_json"),  # J08
        (b'{"a":"\\ud800"}', "invalid_encoding"),  # J10
        (b'{"a":"\\udc00"}', "invalid_encoding"),
        (b'{"a":"\\ud800\\ud800"}', "invalid_encoding"),
        (b'{"\\ud800":1}', "invalid_encoding"),
        (b'{"a":"\xff"}', "invalid_encoding"),  # J11
        (b'{"a":"\xed\xa0\x80"}', "invalid_encoding"),
        (b'{"a":"\xc0\xaf"}', "invalid_encoding"),
        ('{"a":1}'.encode("utf-16"), "invalid_encoding"),
        ('{"a":1}'.encode("utf-16-le"), "invalid_encoding"),
        ('{"a":1}'.encode("utf-32"), "invalid_encoding"),
        (b"\xef\xbb\xbf{}", "invalid_encoding"),
        (b"{} // x", "invalid_json"),  # J12
        (b"{'a':1}", "invalid_json"),
        (b"[01]", "invalid_json"),
        (b"[+1]", "invalid_json"),
        (b"[0x10]", "invalid_json"),
        (b"[1,]", "invalid_json"),
        (b'["\n"]', "invalid_json"),
        (b'["\\x41"]', "invalid_json"),
        (b" " * (8 << 20), "invalid_json"),  # J18
        (b'"' * (8 << 20), "invalid_json"),
        (b'"' + b'\\"' * (4 << 20), "invalid_json"),
        (b"\\" * (8 << 20), "invalid_json"),
    ],
    ids=lambda value: repr(value[:24]) if isinstance(value, bytes) else value,
)
def test_refused_with_its_code(body: bytes, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.code == code
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("length", range(len(VALID)))
def test_truncated_anywhere_is_invalid_json(length: int) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(VALID[:length])
    assert caught.value.code == "invalid_json"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
        b'{"a":' * (MAX_DEPTH - 1) + b"[1]" + b"}" * (MAX_DEPTH - 1),
        b"[" + b"1," * (MAX_NODES - 2) + b"1]",
        b'["' + b"[{,:" * 100_000 + b'"]',
        b'{"a":"\\ud83d\\ude00","b":"\\\\ud800"}',
        b'{"\\u003a":"\\u003a:\\"","b\\\\":"\\\\"}',
        b'{"a":{"x":1},"b":{"x":1}}',
        b"[-0.0,1e10,9223372036854775807]",
        b'"\\u0000"',
    ],
    ids=lambda body: repr(body[:24]),
)
def test_suspicious_but_valid_is_read(body: bytes) -> None:
    assert parse(body) == json.loads(body)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(alphabet='a:"\\{,é🙂'), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


@given(JSON_VALUES, st.booleans())
def test_reads_what_any_encoder_writes(value: object, ascii_only: bool) -> None:
    assert parse(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=64))
def test_any_bytes_are_read_as_the_standard_library_does_or_refused(body: bytes) -> None:
    with contextlib.suppress(InvalidRequest):
        assert parse(body) == json.loads(body)


@given(st.dictionaries(st.text(), st.integers(), min_size=1, max_size=4), st.booleans(), st.data())
def test_a_repeated_key_is_always_seen(value: dict[str, int], ascii_only: bool, data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(value)))
    inner = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
    body = f"{{{inner},{json.dumps(key)}:{json.dumps(data.draw(st.text()))}}}".encode("utf-8", "replace")
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.code == "invalid_json"
