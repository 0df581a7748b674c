"""The exact bytes of each token, from how a vocabulary writes them: byte-level, byte tokens, SentencePiece, WordPiece.

Also the text of a growing sequence of tokens, in whole characters only.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tripos.errors import ModelRefused
from tripos.models.text.tokenizer_check import steps_of

if TYPE_CHECKING:
    from tripos.models.text.tokenizer import Tokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Spelling:
    """How a vocabulary writes bytes as text."""

    byte_level: bool = False  # GPT-2's 256 printable stand-ins
    byte_tokens: bool = False  # <0xAB> stands for one byte
    space: str = ""  # the character that stands for a space, "▁" in SentencePiece
    strip_first_space: bool = False  # encoding put a space before the text; decoding takes it away
    wordpiece: bool = False  # "##" continues a word, everything else starts one


def spelling_of(decoder: dict[str, Any] | None, file: str) -> Spelling:
    """The spelling that a tokenizer.json's decoder section describes. Raises ModelRefused."""
    steps = steps_of(decoder, file, "decoder")
    kinds = {str(step.get("type")) for step in steps}
    if unknown := kinds - {"ByteLevel", "ByteFallback", "Fuse", "Replace", "Metaspace", "Strip", "WordPiece"}:
        raise ModelRefused(f"{file}: decoder type {sorted(map(str, unknown))[0]} is not supported")
    metaspace = any(step.get("prepend_scheme", "always") != "never" for step in steps if step["type"] == "Metaspace")
    return Spelling(
        byte_level="ByteLevel" in kinds,
        byte_tokens="ByteFallback" in kinds,
        space="▁" if kinds & {"Metaspace", "Replace"} else "",
        strip_first_space=metaspace or any(step["type"] == "Strip" and step.get("start") for step in steps),
        wordpiece="WordPiece" in kinds,
    )


@lru_cache(maxsize=1)
def byte_alphabet() -> dict[str, int]:
    """GPT-2's byte-level alphabet, character -> byte: printable Latin-1 stands for itself, the rest follows U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): byte for i, byte in enumerate(others)}


@lru_cache(maxsize=1)
def _latin_1_of_alphabet() -> dict[int, int]:
    """For str.translate: the alphabet to the bytes' Latin-1 characters, and every other one below 256 out of range."""
    return dict.fromkeys(range(256), 65535) | {ord(char): byte for char, byte in byte_alphabet().items()}


class BytesById(dict[int, bytes]):
    """The exact bytes of each token, computed on first use; none for an id without a token."""

    def __init__(self, pieces: Mapping[int, str], added: Mapping[int, str], spelling: Spelling) -> None:
        self._pieces, self._added, self._spelling = pieces, added, spelling

    def __missing__(self, id: int) -> bytes:
        piece = self._pieces.get(id)
        if piece is None:
            return b""
        data = self[id] = self._added[id].encode() if id in self._added else self._bytes_of(piece)
        return data

    def _bytes_of(self, piece: str) -> bytes:
        spelling = self._spelling
        if spelling.byte_level:
            try:
                return piece.translate(_latin_1_of_alphabet()).encode("latin-1")
            except UnicodeEncodeError:  # not in the alphabet: the piece is plain text
                return piece.encode()
        if spelling.byte_tokens and (match := _BYTE_TOKEN.fullmatch(piece)):
            return bytes([int(match[1], 16)])
        if spelling.wordpiece:
            return piece[2:].encode() if piece.startswith("##") else b" " + piece.encode()
        return (piece.replace(spelling.space, " ") if spelling.space else piece).encode()


class IncrementalDecoder:
    """Turns a growing sequence of ids into text, in time linear in its length.

    A character whose bytes are not complete is held back; what `push` and `flush` return concatenates to exactly
    what `Tokenizer.decode` gives for all ids at once. `after` holds the ids that stand before the text: a leading
    space is taken away only at the true beginning of a text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        after: Sequence[int] = (),
        skip_special: bool = True,
        shown_ids: frozenset[int] = frozenset(),
        keep_space: bool = False,
    ) -> None:
        self._bytes = tokenizer.bytes_by_id
        self._skipped = tokenizer.special_ids - shown_ids if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        is_first = all(id in tokenizer.special_ids for id in after)
        self._strip_space = tokenizer.strips_first_space and is_first and not keep_space

    def push(self, token_id: int) -> str:
        """The characters that this token completes; an id outside the vocabulary has none."""
        if token_id in self._skipped:
            return ""
        data = self._bytes[token_id]
        if data and self._strip_space:
            self._strip_space = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    @property
    def is_inside(self) -> bool:
        """Whether the next token begins inside a character."""
        return bool(self._utf8.getstate()[0])

    def flush(self) -> str:
        """U+FFFD for a character that never became whole, else nothing."""
        return self._utf8.decode(b"", final=True)
