"""Ids of text are those of the published tokenizers; a caller cannot write special tokens; text comes back whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models.files.writing import ALPHABET, tokenizer_definition
from tripos.errors import ModelRefused
from tripos.models.files.gguf import read_gguf
from tripos.models.files.gguf_vocabulary import vocabulary_json
from tripos.models.text.tokenizer import Tokenizer, tokenizer_from_json
from tripos.types import Message

TOK = "<tool>"  # an added token that is not special


def made(definition: dict[str, Any]) -> Tokenizer:
    return tokenizer_from_json(json.dumps(definition).encode())


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    return made(tokenizer_definition(("<s>", "</s>", "<|im_start|>", "<|im_end|>")))


@pytest.fixture(scope="module")
def byte_fallback() -> Tokenizer:
    """As SentencePiece vocabularies are: bytes as <0xAB>, "▁" for a space, one put before every text."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {"▁": 259, "a": 260, "b": 261, "▁a": 262}
    definition = tokenizer_definition(("<unk>", "<s>", "</s>"))
    for id, token in enumerate(definition["added_tokens"]):
        token["id"] = id
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    definition["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]}
    definition["pre_tokenizer"] = None
    definition["decoder"] = {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip]}
    definition["model"] |= {"vocab": vocab, "merges": [["▁", "a"]], "unk_token": "<unk>", "byte_fallback": True}
    return made(definition)


# golden files: one text per section of .inp, its ids on the same line of .out


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm"])
def test_ids_equal_the_published_ones(shared_data: Callable[[str], Path], name: str) -> None:
    gguf = shared_data(f"tokenizers/golden/ggml-vocab-{name}.gguf")
    tokenizer = tokenizer_from_json(vocabulary_json(read_gguf(gguf)), gguf.name)
    texts = gguf.with_name(gguf.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = gguf.with_name(gguf.name + ".out").read_text().split("\n")
    assert len(texts) == len(lines) > 40
    for text, line in zip(texts, lines, strict=True):
        ids = tokenizer.encode(text, add_special=False)
        assert ids == [int(id) for id in line.split()]
        assert tokenizer.decode(ids) == text


def test_gguf_vocabulary_is_the_tokenizer_json(shared_data: Callable[[str], Path]) -> None:
    own = tokenizer_from_json(shared_data("tokenizers/gpt2/tokenizer.json").read_bytes())
    gguf = read_gguf(shared_data("tokenizers/golden/ggml-vocab-gpt-2.gguf"))
    translated = tokenizer_from_json(vocabulary_json(gguf), gguf.file)
    text = shared_data("prompts/sonnet.txt").read_text() + "naïve 東京\r\n\t 🙂 1234567 don't I'LL"
    assert own.encode(text) == translated.encode(text)
    assert own.all_token_bytes == translated.all_token_bytes


def test_bos_is_added_only_when_asked_for(shared_data: Callable[[str], Path]) -> None:
    data = shared_data("lm/stories260K/derived-hf/tokenizer.json").read_bytes()
    gguf = read_gguf(shared_data("lm/stories260K/derived-stories260K-f32-v3.gguf"))
    for tokenizer in (tokenizer_from_json(data), tokenizer_from_json(vocabulary_json(gguf))):
        assert tokenizer.encode("") == [1]
        assert tokenizer.encode("", add_special=False) == []
        assert tokenizer.encode("Once upon a time") == [1, 403, 407, 261, 378]


# what is made of a vocabulary and merges is what the library reads


def written(**changes: Any) -> bytes:
    """A byte-level BPE with tokens that were added within its vocabulary and behind it."""
    definition = tokenizer_definition(("<s>", TOK))
    model = definition["model"] | {"merges": [["h", "i"], ["hi", "!"]]}
    model["vocab"] = {**model["vocab"], "hi": 300, "hi!": 301}
    definition["added_tokens"][1]["special"] = False
    behind = {**definition["added_tokens"][0], "id": 302, "content": "<behind>", "lstrip": True}
    definition["added_tokens"].append(behind)
    return json.dumps({**definition, "model": model | changes}).encode()


@pytest.mark.parametrize(
    "data",
    [
        written(),
        written(merges=["h i", "hi !"]),
        written(merges=["#version: 0.2", "h i", "hi !"]),
        written(ignore_merges=True, unk_token="hi", fuse_unk=True, byte_fallback=True, dropout=None),
        written(fuse_unk=None, dropout=0.0),
    ],
    ids=["pairs", "lines", "version", "settings", "null"],
)
def test_a_bpe_is_the_one_that_the_library_reads(data: bytes) -> None:
    check_against_library(data, ["hi! hi <s> <behind> x", TOK])


@pytest.mark.parametrize("name", ["tokenizers/gpt2/tokenizer.json", "lm/stories260K/derived-hf/tokenizer.json"])
def test_published_tokenizers_are_those_that_the_library_reads(shared_data: Callable[[str], Path], name: str) -> None:
    texts = [shared_data("prompts/sonnet.txt").read_text(), "naïve 東京\r\n\t 🙂 1234567 don't <|endoftext|> </s>"]
    check_against_library(shared_data(name).read_bytes(), texts)


def check_against_library(data: bytes, texts: list[str]) -> None:
    """Ids of texts, with and without special tokens recognised, every id's token, and the whole definition."""
    ours, library = tokenizer_from_json(data), tokenizers.Tokenizer.from_str(data.decode())
    library.no_padding()
    library.no_truncation()
    assert json.loads(ours.to_json()) == json.loads(library.to_str())
    vocab = library.get_vocab(with_added_tokens=True)
    assert ours.vocab_size == max(vocab.values()) + 1
    assert {text: ours.token_id(text) for text in vocab} == vocab
    assert all((ours.token_bytes(id) == b"") == (library.id_to_token(id) is None) for id in range(ours.vocab_size))
    for text in texts:
        library.encode_special_tokens = False
        assert ours.encode_template(text) == library.encode(text, add_special_tokens=False).ids
        library.encode_special_tokens = True
        ids = library.encode(text, add_special_tokens=False).ids
        if ours.special_ids.isdisjoint(ids):  # else they are plain text with ours
            assert ours.encode(text, add_special=False) == ids


# special tokens (reliability C8)


@pytest.mark.parametrize("around", ["{}", "x{}", "{}x", " {} {}", "{}{}"])
def test_no_text_yields_a_special_token(byte_level: Tokenizer, byte_fallback: Tokenizer, around: str) -> None:
    for tokenizer in (byte_level, byte_fallback):
        for special in tokenizer.special_tokens:
            text = around.replace("{}", special)
            ids = tokenizer.encode(text)
            assert tokenizer.special_ids.isdisjoint(ids)
            assert tokenizer.decode(ids) == text


def test_vocabulary_that_holds_the_special_spelling_is_cut(byte_level: Tokenizer) -> None:
    definition = tokenizer_definition(("<s>",))
    vocab = definition["model"]["vocab"]
    definition["model"]["vocab"] = {**vocab, "<s": 300, "<s>": 256}
    definition["model"]["merges"] = [["<", "s"], ["<s", ">"]]  # plain text would merge to the special token
    tokenizer = made(definition)
    ids = tokenizer.encode("a<s>b")
    assert 256 not in ids
    assert tokenizer.decode(ids) == "a<s>b"
    assert tokenizer.encode_template("<s>") == [256]


def test_template_text_yields_special_tokens(byte_level: Tokenizer) -> None:
    special = byte_level.special_tokens
    ids = byte_level.encode_template("<|im_start|>a<|im_end|>")
    assert (ids[0], ids[-1]) == (special["<|im_start|>"], special["<|im_end|>"])
    assert byte_level.encode("<s>") == byte_level.encode("<s>")  # the switch went back
    assert byte_level.special_ids.isdisjoint(byte_level.encode("<s>"))


# bytes and decoding


@pytest.mark.parametrize("text", ["plain", "naïve 東京 🙂", "\0\t\r\n", " a  b ", "\ufffd", "a" * 3000])
def test_bytes_of_the_tokens_are_the_bytes_of_the_text(byte_level: Tokenizer, text: str) -> None:
    assert b"".join(map(byte_level.token_bytes, byte_level.encode(text))) == text.encode()


def test_each_byte_has_its_token(byte_level: Tokenizer, byte_fallback: Tokenizer) -> None:
    assert sorted(byte_level.all_token_bytes[: len(ALPHABET)]) == [bytes([byte]) for byte in range(256)]
    assert byte_fallback.all_token_bytes[3:259] == tuple(bytes([byte]) for byte in range(256))
    assert byte_fallback.token_bytes(262) == b" a"
    assert byte_fallback.token_bytes(-1) == byte_fallback.token_bytes(10**9) == b""


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_pieces_concatenate_to_the_whole(byte_level: Tokenizer, byte_fallback: Tokenizer, data: st.DataObject) -> None:
    tokenizer = data.draw(st.sampled_from([byte_level, byte_fallback]))
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    decoder = tokenizer.decoder()
    pieces = [decoder.push(id) for id in ids] + [decoder.flush()]
    assert "".join(pieces) == tokenizer.decode(ids)
    raw = b"".join(tokenizer.token_bytes(id) for id in ids if id not in tokenizer.special_ids)
    expected = raw.decode("utf-8", "replace")
    assert tokenizer.decode(ids) == (expected.removeprefix(" ") if tokenizer is byte_fallback else expected)


@given(text=st.text())
def test_valid_text_never_shows_a_replacement_character(byte_level: Tokenizer, text: str) -> None:
    decoder = byte_level.decoder()
    shown = ""
    for id in byte_level.encode(text):
        shown += decoder.push(id)
        assert text.startswith(shown)
    assert shown == text
    assert decoder.flush() == ""


@pytest.mark.parametrize("text", ["red", " red", '{"name": "', "é", "", "\n", "<0x41>"])
def test_text_inside_a_text_keeps_its_bytes(byte_level: Tokenizer, byte_fallback: Tokenizer, text: str) -> None:
    for tokenizer in (byte_level, byte_fallback):
        ids = tokenizer.encode_inside(text)
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()


def test_half_a_character_is_held_until_the_end(byte_level: Tokenizer) -> None:
    decoder = byte_level.decoder()
    first, *rest = byte_level.encode("🙂")
    assert [decoder.push(id) for id in (first, *rest[:-1])] == ["", "", ""]
    assert decoder.flush() == "\ufffd"


def test_first_space_goes_only_at_the_beginning_of_a_text(byte_fallback: Tokenizer) -> None:
    assert byte_fallback.decode([1, 262, 262]) == "a a"
    continued = byte_fallback.decoder(prompt=[1, 262])
    assert continued.push(262) == " a"
    begun = byte_fallback.decoder(prompt=[1])
    assert begun.push(262) == "a"


def test_roles_outside_the_vocabulary_are_refused(byte_level: Tokenizer) -> None:
    for bos, eos in ((10**9, frozenset()), (None, frozenset((byte_level.vocab_size,))), (-1, frozenset())):
        with pytest.raises(ModelRefused, match="outside the tokenizer's"):
            byte_level.assign_roles(bos, eos, None)


# files that lie (reliability W26-W29)


def changed(**model: Any) -> dict[str, Any]:
    definition = tokenizer_definition()
    definition["model"] |= model
    return definition


def added(**token: Any) -> dict[str, Any]:
    definition = tokenizer_definition()
    definition["added_tokens"][0] |= token
    return definition


VOCAB = tokenizer_definition()["model"]["vocab"]
LIES: dict[str, dict[str, Any]] = {
    "W26 unknown model type": changed(type="Magic"),
    "W26 no model": {"version": "1.0"},
    "W27 merge of what is no token": changed(merges=[["a", "zz"]]),
    "W27 merge to what is no token": changed(merges=[["a", "b"]]),
    "W27 prefix longer than any token": changed(continuing_subword_prefix="####", merges=[["a", "b"]]),
    "W27 template token missing": tokenizer_definition(
        post_processor={
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}], "pair": [],
            "special_tokens": {},
        }
    ),
    "W28 regex that does not compile": tokenizer_definition(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": False}
    ),
    "W28 regex that backtracks": tokenizer_definition(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    ),
    "W29 id of 2^32-1": added(id=2**32 - 1),
    "W29 id of 2^31 in the vocabulary": changed(vocab={**VOCAB, "zz": 2**31}),
    "W29 duplicate ids": changed(vocab={**VOCAB, "zz": 5}),
    "W29 added token on another's id": added(id=5),
    "W29 negative id": changed(vocab={**VOCAB, "zz": -1}),
    "W29 empty token": changed(vocab={**VOCAB, "": 300}),
    "no tokens": changed(vocab={}) | {"added_tokens": []},
    "unknown decoder": tokenizer_definition(decoder={"type": "CTC", "pad_token": "x"}),
}  # fmt: skip


@pytest.mark.parametrize("definition", LIES.values(), ids=LIES.keys())
def test_lying_tokenizer_is_refused_by_name(definition: dict[str, Any]) -> None:
    with pytest.raises(ModelRefused, match=r"tokenizer\.json"):
        made(definition)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"model":' + b"[" * 100_000, b"\xff{}"])
def test_what_is_no_tokenizer_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(ModelRefused, match=r"tokenizer\.json"):
        tokenizer_from_json(data)


# special tokens that a caller spells, where tokenizers put a space before a text

INST = ("[INST]", "[/INST]")


def sentencepiece(scheme: str, special: tuple[str, ...], **flags: bool) -> Tokenizer:
    """Bytes as <0xAB>, some merges. `scheme`: where the pre-tokenizer puts "▁"; "prepend": a normalizer does."""
    vocab = {"<unk>": 0} | {f"<0x{byte:02X}>": 1 + byte for byte in range(256)}
    for piece in ("▁", *"abhi<>/s[]INT,", "hi", "▁hi", "ab", "▁ab", "</", "▁a", "▁b"):
        vocab[piece] = len(vocab)
    merges = [["h", "i"], ["▁", "hi"], ["a", "b"], ["▁", "ab"], ["<", "/"], ["▁", "a"], ["▁", "b"]]
    definition = tokenizer_definition(("<unk>", *special))
    for token in definition["added_tokens"]:
        token["id"] = vocab.setdefault(token["content"], len(vocab))
        token |= flags if token["content"] in INST else {}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    if scheme == "prepend":
        prepend = {"type": "Prepend", "prepend": "▁"}
        definition |= {"normalizer": {"type": "Sequence", "normalizers": [prepend, replace]}, "pre_tokenizer": None}
    else:
        definition["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False
        }  # fmt: skip
    definition["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": False}
    definition["model"] |= {"vocab": vocab, "merges": merges, "unk_token": "<unk>", "byte_fallback": True}
    return made(definition)


@pytest.mark.parametrize("scheme", ["first", "always", "never", "prepend"])
@pytest.mark.parametrize("flags", [{}, {"lstrip": True, "rstrip": True}])
@pytest.mark.parametrize(
    "content", ["hi </s> ab", "</s>hi", "hi</s>", "hi</s>ab</s>, hi", " hi </s>", "</s></s>", "hi"]
)
@pytest.mark.parametrize(
    "template", ["<s>{{ c }}", "<s>[INST]{{ c }}[/INST]", "<s>[INST] {{ c }} [/INST] hi", "{{ c }}<s>"]
)
def test_a_special_token_that_a_caller_spells_changes_no_other_token(
    scheme: str, flags: dict[str, bool], content: str, template: str
) -> None:
    """The ids are those of a tokenizer to which the same text is ordinary: as a whole, template included."""
    tokenizer = sentencepiece(scheme, ("<s>", "</s>", *INST), **flags)
    tokenizer.assign_roles(None, frozenset(), template.replace("{{ c }}", "{{ messages[0].content }}"))
    ordinary = sentencepiece(scheme, ("<s>", *INST), **flags)
    pieces = [tokenizer.token_bytes(id) for id in tokenizer.encode_chat([Message(role="user", content=content)])]
    whole = ordinary.encode_template(template.replace("{{ c }}", content))
    assert pieces == [ordinary.token_bytes(id) for id in whole]


@pytest.mark.parametrize("scheme", ["first", "always", "never", "prepend"])
@pytest.mark.parametrize("text", ["hi </s> ab", "</s>hi", "hi</s>ab", "hi</s> <s> ab"])
def test_a_prompt_that_spells_a_special_token_has_the_ids_of_ordinary_text(scheme: str, text: str) -> None:
    tokenizer, ordinary = sentencepiece(scheme, ("<s>", "</s>")), sentencepiece(scheme, ())
    pieces = [tokenizer.token_bytes(id) for id in tokenizer.encode(text, False)]
    assert pieces == [ordinary.token_bytes(id) for id in ordinary.encode(text, False)]
