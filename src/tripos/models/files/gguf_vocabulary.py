"""The vocabulary inside a GGUF, written as a tokenizer.json: byte-level BPE ("gpt2") and SentencePiece ("llama").

Owns the names of pre-tokenizers and what each splits; knows nothing of the `tokenizers` package.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tripos.errors import ModelRefused, shown

if TYPE_CHECKING:
    from tripos.models.files.gguf import GgufFile

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)  # tokenizer.ggml.token_type
_MAX_PIECE_CHARS = 256  # merges of longer pieces would cost more to find than they are worth

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CASED = (  # words split where the case changes: GPT-4o and Tekken
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s|"
    r"%s| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"


@dataclass(frozen=True)
class _Splits:
    """Regexes applied one after the other, each splitting what the one before left; and two habits of the family."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False  # a whole word that is a token stays one
    add_bos: bool = False  # where the file does not say


_LLAMA_BPE = _Splits((_LLAMA3,), ignore_merges=True, add_bos=True)
_ONE_GPT2 = _Splits((_GPT2,))
_ONE_QWEN2 = _Splits((_LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),))
_DIGITS_GPT2 = _Splits((r"\p{N}", _GPT2))
_PRE_TOKENIZERS = {
    "default": _Splits((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3"), _LLAMA_BPE),
    **dict.fromkeys(("dbrx", "smaug-bpe"), _Splits((_LLAMA3,))),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais"), _ONE_GPT2),
    **dict.fromkeys(("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"), _ONE_QWEN2),
    **dict.fromkeys(("starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"), _DIGITS_GPT2),
    "falcon": _Splits((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")),
    "gpt-4o": _Splits((_CASED % (_CONTRACTIONS, _CONTRACTIONS, r"\p{N}{1,3}"),)),
    "tekken": _Splits((_CASED % ("", "", r"\p{N}"),), ignore_merges=True),
}
PATTERNS = frozenset(pattern for splits in _PRE_TOKENIZERS.values() for pattern in splits.patterns)
"""Of public models: each walks over a text once."""


# Texts of the tokens that end a turn, or all generation, whatever the file's keys say; llama.cpp knows the same ones.
_TURN_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>",
    # what stands between the files of a code model's prompt
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>",
    "<reponame>", "<|file_sep|>",
)  # fmt: skip
_END_KEYS = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")


def end_ids(gguf: GgufFile) -> tuple[frozenset[int], tuple[str, ...]]:
    """Tokens that end an answer, and the texts of those that only their text tells. Raises ModelRefused."""
    tokens = gguf.metadata.get("tokenizer.ggml.tokens", ())
    ids = []
    for key in (f"tokenizer.ggml.{name}_token_id" for name in _END_KEYS):
        if (id := gguf.metadata.get(key)) is None:
            continue
        if type(id) is not int or not 0 <= id < len(tokens):
            given, most = shown(id), len(tokens) - 1
            raise ModelRefused(f"{gguf.file}: {key} is {given}; expected token ids from 0 to the tokenizer's {most}")
        ids.append(id)
    places = {token: id for id, token in enumerate(tokens)}
    by_text = tuple(text for text in _TURN_ENDS if text in places and places[text] not in ids)
    return frozenset(ids).union(places[text] for text in by_text), by_text


def vocabulary_json(gguf: GgufFile) -> bytes:
    """A tokenizer.json of the same meaning. Raises ModelRefused naming the key that is wrong or not supported."""
    keys = _Keys(gguf)
    kind = gguf.metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        definition = _byte_level_bpe(keys)
    elif kind == "llama":
        definition = _sentencepiece(keys)
    else:
        raise ModelRefused(f"{gguf.file}: tokenizer.ggml.model is {kind!a}; supported: gpt2, llama")
    return msgspec.json.encode(definition)


class _Keys:
    """The tokenizer.ggml keys, checked as they are read."""

    def __init__(self, gguf: GgufFile) -> None:
        self._gguf = gguf
        self.tokens = self.strings("tokens")
        self.types = self._numbers("token_type", np.full(len(self.tokens), _NORMAL)).tolist()
        if len(set(self.tokens)) != len(self.tokens):
            raise self.refuse("tokens", "holds a token twice")

    def refuse(self, key: str, reason: str) -> ModelRefused:
        return ModelRefused(f"{self._gguf.file}: tokenizer.ggml.{key} {reason}")

    def get(self, key: str, kind: type, default: Any) -> Any:
        value = self._gguf.metadata.get(f"tokenizer.ggml.{key}", default)
        if value is not default and type(value) is not kind:
            raise self.refuse(key, f"is {str(value)[:40]!a}; expected a {kind.__name__}")
        return value

    def strings(self, key: str) -> list[str]:
        value: list[str] = self.get(key, list, None)
        if not value:
            raise self.refuse(key, "is missing or empty")
        return value

    def scores(self) -> list[float]:
        return [float(score) for score in self._numbers("scores", None)]

    def _numbers(self, key: str, default: Any) -> Any:
        value = self._gguf.metadata.get(f"tokenizer.ggml.{key}", default)
        if not isinstance(value, np.ndarray) or len(value) != len(self.tokens):
            raise self.refuse(key, f"does not hold one number for each of {len(self.tokens)} tokens")
        return value

    def token(self, key: str) -> str | None:
        """The text of the token whose id is under `key`."""
        id = self.get(key, int, None)
        if id is not None and not 0 <= id < len(self.tokens):
            raise self.refuse(key, f"is {id}; expected a token id below {len(self.tokens)}")
        return None if id is None else self.tokens[id]

    def added_tokens(self) -> list[dict[str, Any]]:
        """Control tokens are special, as is the unknown token; user-defined ones are found in any text."""
        special = (_CONTROL, _UNKNOWN)
        return [
            {
                "id": id, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": type_ in special,
            }
            for id, (token, type_) in enumerate(zip(self.tokens, self.types, strict=True))
            if type_ in special or type_ == _USER_DEFINED
        ]  # fmt: skip

    def frame(self, add_bos: bool) -> dict[str, Any] | None:
        """The post-processor that puts BOS before and EOS behind a text, where the file or the family says so."""
        bos = self.token("bos_token_id") if self.get("add_bos_token", bool, add_bos) else None
        eos = self.token("eos_token_id") if self.get("add_eos_token", bool, False) else None
        if bos is None and eos is None:
            return None
        text: list[dict[str, Any]] = [{"Sequence": {"id": "A", "type_id": 0}}]
        before = [{"SpecialToken": {"id": bos, "type_id": 0}}] if bos is not None else []
        behind = [{"SpecialToken": {"id": eos, "type_id": 0}}] if eos is not None else []
        second = [{"Sequence": {"id": "B", "type_id": 1}}]
        ids = {token: self.tokens.index(token) for token in (bos, eos) if token is not None}
        return {
            "type": "TemplateProcessing",
            "single": before + text + behind,
            "pair": before + text + second + behind,
            "special_tokens": {t: {"id": t, "ids": [id], "tokens": [t]} for t, id in ids.items()},
        }


def _definition(keys: _Keys, model: dict[str, Any], **sections: Any) -> dict[str, Any]:
    bpe: dict[str, Any] = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "vocab": {token: id for id, token in enumerate(keys.tokens)},
    }  # fmt: skip
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": keys.added_tokens(),
        "normalizer": None, "pre_tokenizer": None, **sections, "model": bpe | model,
    }  # fmt: skip


def _byte_level_bpe(keys: _Keys) -> dict[str, Any]:
    name = keys.get("pre", str, "default")
    if name not in _PRE_TOKENIZERS:
        raise keys.refuse("pre", f"is {name[:40]!a}, which is not supported; supported: {', '.join(_PRE_TOKENIZERS)}")
    splits = _PRE_TOKENIZERS[name]
    merges = [merge.split(" ") for merge in keys.strings("merges")]
    if wrong := next((place for place, merge in enumerate(merges) if len(merge) != 2), None):
        raise keys.refuse("merges", f"entry {wrong} is not two tokens with a space between")
    bytes_step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    steps = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in splits.patterns
    ]
    return _definition(
        keys,
        {"merges": merges, "ignore_merges": splits.ignore_merges},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [*steps, bytes_step]},
        post_processor=keys.frame(splits.add_bos),
        decoder=bytes_step,
    )


def _sentencepiece(keys: _Keys) -> dict[str, Any]:
    has_prefix = keys.get("add_space_prefix", bool, True)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = [{"type": "Prepend", "prepend": "▁"}] if has_prefix else []
    decoder = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if has_prefix else []),
    ]
    unknown = keys.token("unknown_token_id") or next(
        (token for token, type_ in zip(keys.tokens, keys.types, strict=True) if type_ == _UNKNOWN), None
    )
    return _definition(
        keys,
        {"merges": _merges_by_score(keys), "unk_token": unknown, "fuse_unk": True, "byte_fallback": True},
        normalizer={"type": "Sequence", "normalizers": [*prepend, replace]},
        post_processor=keys.frame(add_bos=True),
        decoder={"type": "Sequence", "decoders": decoder},
    )


def _merges_by_score(keys: _Keys) -> list[tuple[str, str]]:
    """SentencePiece joins the neighbours whose union scores highest: BPE whose merges are ranked by that score.

    Only ordinary pieces are ever joined to; of equal scores the lower id goes first.
    """
    normal = {t for t, type_ in zip(keys.tokens, keys.types, strict=True) if type_ == _NORMAL}
    scores = keys.scores()
    ranked = sorted(range(len(keys.tokens)), key=lambda id: -scores[id])
    pieces = (keys.tokens[id] for id in ranked)
    return list(itertools.chain.from_iterable(_halves(piece, normal) for piece in pieces if piece in normal))


def _halves(piece: str, normal: set[str]) -> Iterable[tuple[str, str]]:
    if len(piece) > _MAX_PIECE_CHARS:
        return []
    splits = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
    return [(left, right) for left, right in splits if left in normal and right in normal]
