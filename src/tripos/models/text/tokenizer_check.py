"""Checks a tokenizer.json before the `tokenizers` package reads it: ids, references, and how much longer a text can
become before it is cut into tokens.

Owns the bound on that growth, computed from the file's steps without running them. Knows nothing of encoding.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from tripos.errors import ModelRefused, shown
from tripos.models.files.gguf_vocabulary import PATTERNS

MAX_TOKENIZER_BYTES = 64 << 20
MAX_TOKENS = 1 << 24
MAX_TOKEN_BYTES = 1 << 16  # public vocabularies have at most some hundreds
MAX_WORD_CHARS = 1 << 10  # of WordPiece, whose work grows with their cube; BERT has 100
MAX_GROWTH = 256.0  # bytes per byte of text: XLM-RoBERTa's may reach 66
MAX_PREFIX_BYTES = 1 << 16
MAX_STEPS = 128  # of a section
MAX_DEPTH = 16  # of sequences within sequences
_MAX_KEYS = 1 << 14  # prefixes of a character map's keys, of equal length
_SEQUENCES = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
_CHARSMAP_DEPTH = 3  # bytes of a key of a character map up to which its growth is computed exactly


class Added(msgspec.Struct):
    """An added token with its flags, all of which the file must have."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool


class Model(msgspec.Struct):
    """The section that holds the vocabulary. Its last fields are those of a BPE."""

    vocab: dict[str, int] | list[tuple[str, float]]
    type: str | None = None
    max_input_chars_per_word: int = 100
    merges: msgspec.Raw = msgspec.Raw(b"[]")
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool | None = None
    byte_fallback: bool | None = None
    ignore_merges: bool | None = None

    def bpe_settings(self) -> dict[str, Any]:
        """The settings that the file has, by name."""
        given = {name: getattr(self, name) for name in self.__struct_fields__[4:]}
        return {name: value for name, value in given.items() if value is not None}

    def bpe_merges(self) -> list[tuple[str, str]] | None:
        """Pairs of pieces in the order of merging; None: no BPE, or merges in another form."""
        if self.type != "BPE":
            return None
        try:
            return msgspec.json.decode(self.merges, type=list[tuple[str, str]])
        except msgspec.DecodeError:
            pass
        try:
            lines = msgspec.json.decode(self.merges, type=list[str])
        except msgspec.DecodeError:
            return None
        lines = [line for line in lines if not line.startswith("#version")]  # as in merges.txt
        pairs = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
        return pairs if all(left and right and " " not in right for left, right in pairs) else None


class Definition(msgspec.Struct):
    """The parts of a tokenizer.json that are checked."""

    model: Model
    added_tokens: list[Added] = []
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None

    def pieces(self) -> dict[int, str]:
        """Token id -> text of the model's vocabulary, without the added tokens."""
        vocab = self.model.vocab
        if isinstance(vocab, list):
            return dict(enumerate(text for text, _ in vocab))
        return dict(zip(vocab.values(), vocab, strict=True))


@dataclass(frozen=True)
class Growth:
    """A text of n bytes becomes at most factor · n + prefix bytes before it is cut into tokens."""

    factor: float = 1.0
    prefix: float = 0.0
    is_linear: bool = True  # so is time: no step searches with an unknown regex, which may backtrack

    def then(self, next: Growth) -> Growth:
        is_linear = self.is_linear and next.is_linear
        return Growth(self.factor * next.factor, self.prefix * next.factor + next.prefix, is_linear)

    def bound(self, num_bytes: int) -> float:
        return self.factor * num_bytes + self.prefix


def read_definition(data: bytes, file: str) -> Definition:
    """The checked parts of a tokenizer.json. Raises ModelRefused naming the field."""
    if len(data) > MAX_TOKENIZER_BYTES:
        raise ModelRefused(f"{file}: larger than {MAX_TOKENIZER_BYTES >> 20} MiB")
    try:
        data.decode()
        definition = msgspec.json.decode(data, type=Definition)
    except UnicodeDecodeError as problem:
        raise ModelRefused(f"{file}: is not UTF-8 (byte {problem.start}): save it as UTF-8") from problem
    except (msgspec.DecodeError, RecursionError) as problem:
        raise ModelRefused(f"{file}: not acceptable: {problem}") from problem
    _check_ids(definition, file)
    _check_post_processor(definition.post_processor, file)
    return definition


def without_model(data: bytes) -> bytes:
    """A tokenizer.json with a BPE without any token in place of its model, and without its added tokens."""
    sections = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    empty = {"model": {"type": "BPE", "vocab": {}, "merges": []}, "added_tokens": []}
    return msgspec.json.encode({**sections, **empty})


def growth_of(definition: Definition, file: str) -> Growth:
    """How much longer a text can become. Raises ModelRefused where that is unbounded or too much."""
    growth = Growth()
    for field, steps in (("normalizer", definition.normalizer), ("pre_tokenizer", definition.pre_tokenizer)):
        known = _NORMALIZERS if field == "normalizer" else _PRE_TOKENIZERS
        for step in steps_of(steps, file, field):
            kind = step.get("type")
            if not isinstance(kind, str) or kind not in known:
                raise ModelRefused(f"{file}: {field} of type {shown(kind)} is not supported")
            try:
                growth = growth.then(known[kind](step))
            except (ValueError, TypeError, KeyError) as problem:
                raise ModelRefused(f"{file}: {field} {kind}: {str(problem)[:100]}") from problem
            if growth.factor > MAX_GROWTH or growth.prefix > MAX_PREFIX_BYTES:
                raise ModelRefused(
                    f"{file}: {field} {kind}: a text may become {growth.factor:,.0f} times as long, and "
                    f"{growth.prefix:,.0f} bytes; at most {MAX_GROWTH:.0f} times and {MAX_PREFIX_BYTES:,} bytes are "
                    "accepted"
                )
    return growth


def _check_ids(definition: Definition, file: str) -> None:
    by_id = definition.pieces()
    if len(by_id) != len(definition.model.vocab):
        raise ModelRefused(f"{file}: model.vocab gives one id to several tokens")
    for token in definition.added_tokens:
        if by_id.setdefault(token.id, token.content) != token.content:
            raise ModelRefused(f"{file}: added token {token.content[:40]!a} takes id {token.id} of another token")
    if not by_id or min(by_id) < 0 or max(by_id) >= MAX_TOKENS:
        raise ModelRefused(f"{file}: token ids must lie in 0..{MAX_TOKENS - 1}, and there must be at least one")
    if "" in by_id.values():
        raise ModelRefused(f"{file}: a token with empty text is not allowed")
    if max(map(len, by_id.values())) > MAX_TOKEN_BYTES:
        raise ModelRefused(f"{file}: a token of more than {MAX_TOKEN_BYTES:,} characters is not allowed")
    if not 0 <= definition.model.max_input_chars_per_word <= MAX_WORD_CHARS:
        raise ModelRefused(f"{file}: model.max_input_chars_per_word must lie in 0..{MAX_WORD_CHARS}")


def _check_post_processor(processor: dict[str, Any] | None, file: str) -> None:
    """Refuse a template that uses a special token which it does not list."""
    for step in steps_of(processor, file, "post_processor"):
        if step.get("type") != "TemplateProcessing":
            continue
        listed = step.get("special_tokens")
        for key in ("single", "pair"):
            pieces = step.get(key)
            for piece in pieces if isinstance(pieces, list) else ():
                token = piece.get("SpecialToken") if isinstance(piece, dict) else None
                name = token.get("id") if isinstance(token, dict) else None
                if isinstance(name, str) and (not isinstance(listed, Mapping) or name not in listed):
                    raise ModelRefused(f"{file}: post_processor.{key} uses {name[:40]!a}, which special_tokens lacks")


def steps_of(section: dict[str, Any] | None, file: str, field: str) -> list[dict[str, Any]]:
    """The steps of a section, those of sequences one by one."""
    found = [] if section is None else _flat(section, file, field, 0)
    if len(found) > MAX_STEPS:
        raise ModelRefused(f"{file}: {field} has {len(found)} steps; at most {MAX_STEPS} are accepted")
    return found


def _flat(step: Any, file: str, field: str, depth: int) -> list[dict[str, Any]]:
    if not isinstance(step, dict) or depth > MAX_DEPTH:
        raise ModelRefused(f"{file}: {field} holds {shown(step)}; expected an object, not too deep inside others")
    if step.get("type") != "Sequence":
        return [step]
    steps = step.get(_SEQUENCES[field])
    if not isinstance(steps, list):
        raise ModelRefused(f"{file}: {field} of type Sequence has no list {_SEQUENCES[field]}")
    return [found for each in steps for found in _flat(each, file, field, depth + 1)]


# -- growth of each step, in bytes of UTF-8 ---------------------------------------------------------------------------
def _replace(step: Mapping[str, Any]) -> Growth:
    """Each match, of at least so many bytes, becomes the content; what may match nothing does so at every byte."""
    (kind, pattern), added = _pattern(step), len(str(step["content"]).encode())
    shortest = len(pattern.encode()) if kind == "String" else _shortest_match(pattern)
    is_linear = kind == "String" or shortest > 0
    return Growth(1.0 + added, added, is_linear) if shortest == 0 else Growth(max(1.0, added / shortest))


def _shortest_match(regex: str) -> int:
    """Bytes that a match of one character or class, repeated, has at least; 0 for any other regex."""
    match = re.fullmatch(
        r"(\\?[^\\()\[\]{}|*?+.^$]|\\[.*+?()\[\]{}|^$\\]|\.|\[[^\[\]\\]+\])(\+|\{(\d+)(?:,(\d*))?\})?", regex
    )
    if match is None or re.fullmatch(r"\\[bByYAzZGKQERX0-9]", match[1]):
        return 0
    counts = [int(count) for count in match.group(3, 4) if count]  # Oniguruma takes {2,1} for {1,2}
    return min(counts, default=1)


def _prepend(step: Mapping[str, Any]) -> Growth:
    return Growth(1.0, len(str(step["prepend"]).encode()))


def _precompiled(step: Mapping[str, Any]) -> Growth:
    """SentencePiece's map of characters: a double array of keys (darts-clone), then what they become, each ended by a
    zero byte."""
    if not step.get("precompiled_charsmap"):
        return Growth()
    try:
        data = base64.b64decode(step["precompiled_charsmap"], validate=True)
    except binascii.Error as problem:
        raise ValueError("precompiled_charsmap is not base64") from problem
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or not 0 < size <= len(data) - 4:
        raise ValueError("precompiled_charsmap is too short for its own header")
    units = np.frombuffer(data, "<u4", size // 4, 4)
    ends = np.flatnonzero(np.frombuffer(data, np.uint8, offset=4 + size) == 0)
    longest = int(np.diff(ends, prepend=-1, append=len(data) - 4 - size).max()) - 1
    return Growth(max(1.0, longest / (_CHARSMAP_DEPTH + 1), _exact_growth(units, ends)))


def _exact_growth(units: np.ndarray, ends: np.ndarray) -> float:
    """The most that a key of at most _CHARSMAP_DEPTH bytes becomes, over its own length."""
    most, places = 0.0, np.array([_offsets(units[:1])[0]], np.int64)
    for depth in range(1, _CHARSMAP_DEPTH + 1):
        if len(places) > _MAX_KEYS:
            raise ValueError("precompiled_charsmap has too many keys")
        labels = np.arange(1, 256, dtype=np.int64)
        found = (places[:, None] ^ labels).reshape(-1)
        requested = np.broadcast_to(labels, (len(places), 255)).reshape(-1)
        inside = found < len(units)
        found, requested = found[inside], requested[inside]
        is_child = (units[found] & 0x800000FF) == requested
        found = found[is_child]
        places = np.unique(found ^ _offsets(units[found]))
        leaves = (found ^ _offsets(units[found]))[(units[found] >> 8 & 1).astype(bool)]
        values = (units[leaves[leaves < len(units)]] & 0x7FFFFFFF).astype(np.int64)
        next_end = np.append(ends, ends[-1] if len(ends) else 0)[np.searchsorted(ends, values)]
        most = max(most, float((next_end - values).max(initial=0)) / depth)
    return most


def _offsets(units: np.ndarray) -> np.ndarray:
    return ((units >> 10).astype(np.int64)) << ((units & (1 << 9)) >> 6).astype(np.int64)


def _metaspace(step: Mapping[str, Any]) -> Growth:
    """A space becomes the replacement, and one is put before each piece; there are as many as bytes at most."""
    mark = len(str(step.get("replacement", "▁")).encode())
    return Growth(2.0 * mark, mark)


def _split(step: Mapping[str, Any]) -> Growth:
    kind, pattern = _pattern(step)
    return Growth(is_linear=kind == "String" or pattern in PATTERNS or _shortest_match(pattern) > 0)


def _pattern(step: Mapping[str, Any]) -> tuple[str, str]:
    """String or Regex, and its text."""
    pattern = step.get("pattern")
    for kind in ("String", "Regex"):
        if isinstance(pattern, dict) and isinstance(pattern.get(kind), str):
            return kind, pattern[kind]
    raise ValueError(f"pattern is {shown(pattern)}; expected a String or a Regex")


def _constant(factor: float) -> Callable[[Mapping[str, Any]], Growth]:
    return lambda step: Growth(factor)


_NORMALIZERS: dict[str, Callable[[Mapping[str, Any]], Growth]] = {
    # Unicode's own figures, Standard Annex 15: the most that a character's UTF-8 becomes
    "NFC": _constant(3.0), "NFD": _constant(3.0), "NFKC": _constant(11.0), "NFKD": _constant(11.0),
    "Lowercase": _constant(1.5), "Strip": _constant(1.0), "StripAccents": _constant(1.0), "Nmt": _constant(1.0),
    "BertNormalizer": _constant(3.0 * 1.5 * 5 / 3), "ByteLevel": _constant(2.0),
    "Replace": _replace, "Prepend": _prepend, "Precompiled": _precompiled,
}  # fmt: skip
_PRE_TOKENIZERS: dict[str, Callable[[Mapping[str, Any]], Growth]] = {
    **dict.fromkeys(
        ("BertPreTokenizer", "CharDelimiterSplit", "Whitespace", "WhitespaceSplit", "Punctuation", "Digits",
         "UnicodeScripts", "FixedLength"), _constant(1.0),
    ),
    "ByteLevel": _constant(4.0), "Metaspace": _metaspace, "Split": _split,
}  # fmt: skip
