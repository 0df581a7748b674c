"""What a tokenizer.json may claim: nothing that makes the server wait or its memory grow without bound."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

from tests.unit.models.files.writing import tokenizer_definition
from tripos.errors import ContextLengthExceeded, ModelRefused
from tripos.models.files.gguf_vocabulary import PATTERNS
from tripos.models.text.tokenizer import tokenizer_from_json
from tripos.models.text.tokenizer_check import Growth, growth_of, read_definition

XLM_ROBERTA = {
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "NFKC"}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
    ]},
    "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
    ]},
}  # fmt: skip


def growth(**sections: Any) -> Growth:
    data = json.dumps(tokenizer_definition(**{"pre_tokenizer": None} | sections)).encode()
    return growth_of(read_definition(data, "tokenizer.json"), "tokenizer.json")


def replace(content: str, **pattern: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


@pytest.mark.parametrize(
    ("normalizer", "expected"),
    [
        (None, Growth(1.0)),
        ({"type": "NFKD"}, Growth(11.0)),
        ({"type": "Prepend", "prepend": "\u2581"}, Growth(1.0, 3.0)),
        (replace("\u2581", String=" "), Growth(3.0)),
        (replace("x", String="long"), Growth(1.0)),
        (replace("ab", String=""), Growth(3.0, 2.0)),  # before each byte and at the end
        (replace(" ", Regex=" {2,}"), Growth(1.0)),
        (replace("\u2581", Regex="[ \t]+"), Growth(3.0)),
        (replace("abcd", Regex="a{2}"), Growth(2.0)),
        (replace("ab", Regex="(?=x)"), Growth(3.0, 2.0, False)),  # may match nothing
        (replace("abcd", Regex="a{4,2}"), Growth(2.0)),  # which is a{2,4}
        (replace("ab", Regex="\\b"), Growth(3.0, 2.0, False)),
        (replace("ab", Regex="\\y"), Growth(3.0, 2.0, False)),
        (replace("ab", Regex="a*"), Growth(3.0, 2.0, False)),
        (sequence({"type": "Prepend", "prepend": "ab"}, replace("xyz", String="a")), Growth(3.0, 6.0)),
        (sequence(sequence({"type": "NFC"}), {"type": "ByteLevel"}), Growth(6.0)),
    ],
)
def test_growth_is_bounded_step_by_step(normalizer: Any, expected: Growth) -> None:
    assert growth(normalizer=normalizer) == expected


def test_usual_tokenizers_stay_far_below_the_limit() -> None:
    assert growth(**XLM_ROBERTA).factor == 66.0
    bert = {"type": "BertNormalizer", "lowercase": True}
    assert growth(normalizer=bert, pre_tokenizer={"type": "BertPreTokenizer"}).factor == 7.5


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"normalizer": replace("x" * 300, String="a")}, "normalizer Replace: a text may become 300 times as long"),
        ({"normalizer": sequence(*[replace("aa", String="a")] * 40)}, "normalizer Replace: a text may become 512"),
        ({"normalizer": replace("x" * 300, String="")}, "301 times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": "x" * 70_000}}, "70,000 bytes"),
        ({"normalizer": sequence(*[{"type": "Strip"}] * 129)}, "normalizer has 129 steps"),
        ({"normalizer": {"type": "New"}}, "normalizer of type 'New' is not supported"),
        ({"normalizer": {"type": "Sequence"}}, "normalizer of type Sequence has no list normalizers"),
        ({"normalizer": {"type": "Replace", "content": "x"}}, "normalizer Replace: pattern is None"),
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "x" * 200}}, "pre_tokenizer Metaspace"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}}, "precompiled_charsmap is too short"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "?"}}, "precompiled_charsmap is not base64"),
    ],
)
def test_growth_without_bound_is_refused_by_field(sections: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelRefused, match=named) as refused:
        growth(**sections)
    assert refused.value.message.startswith("tokenizer.json: ")


def charsmap(becomes: bytes, key: bytes = b"ab") -> str:
    """A double array of one key, whose replacement is the only text behind it."""
    units = np.zeros(1024, "<u4")
    place = 0
    units[0] = 256 << 10
    offset = 256
    for depth, byte in enumerate(key):
        place = offset ^ byte
        is_last = depth + 1 == len(key)
        next_offset = 512 + 128 * depth
        units[place] = byte | (int(is_last) << 8) | ((place ^ next_offset) << 10)
        offset = next_offset
    units[offset] = 0x80000000  # the replacement begins at byte 0
    return base64.b64encode(len(units.tobytes()).to_bytes(4, "little") + units.tobytes() + becomes + b"\0").decode()


def test_growth_of_a_character_map_is_that_of_its_worst_key() -> None:
    def of(becomes: bytes) -> float:
        return growth(normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(becomes)}).factor

    assert of(b"abcdefgh") == 4.0  # two bytes become eight
    assert of(b"a") == 1.0
    with pytest.raises(ModelRefused, match="normalizer Precompiled: a text may become 400 times as long"):
        of(b"x" * 800)


def test_a_text_that_may_grow_too_large_is_refused_before_it_is_encoded() -> None:
    definition = tokenizer_definition(normalizer=replace("b" * 200, String="a"), pre_tokenizer=None)
    tokenizer = tokenizer_from_json(json.dumps(definition).encode())
    assert len(tokenizer.encode("a")) == 200
    most = 64 * 2**20 // 200
    for encode in (tokenizer.encode, tokenizer.encode_template, lambda text: tokenizer.encode_all([text])):
        with pytest.raises(ContextLengthExceeded, match=f"tokenizer is {most:,}"):
            encode("b" * (most + 1))
    assert tokenizer.is_quick(300)
    assert not tokenizer.is_quick(400)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_another_encoding_is_refused_by_name(encoding: str) -> None:
    data = json.dumps(tokenizer_definition(special=("\u00e9",)), ensure_ascii=False)
    with pytest.raises(ModelRefused, match=r"tokenizer\.json: is not UTF-8 \(byte \d+\)"):
        tokenizer_from_json("".join(char for char in data if ord(char) < 256).encode(encoding))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": {"vocab": {"a": 0}, "max_input_chars_per_word": 10**9}}, "max_input_chars_per_word"),
        ({"model": {"vocab": {"a": 0, "b" * 70_000: 1}}}, "a token of more than 65,536 characters"),
        (
            {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}],
                                "pair": [], "special_tokens": {}}},
            r"post_processor\.single uses '\[X\]', which special_tokens lacks",
        ),
    ],
)  # fmt: skip
def test_claims_that_cost_without_bound_or_lead_nowhere_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelRefused, match=named):
        read_definition(json.dumps(tokenizer_definition() | changes).encode(), "tokenizer.json")


def test_a_regex_that_nobody_knows_is_never_run_where_others_wait() -> None:
    def of(regex: str) -> bool:
        steps = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
        definition = json.dumps(tokenizer_definition(pre_tokenizer=steps)).encode()
        return tokenizer_from_json(definition).is_quick(10)

    assert all(map(of, ("[ab]", "\\s+", *PATTERNS)))
    assert not of("(a|b)+")
