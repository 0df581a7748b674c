"""From what a request asks for to a compiled grammar of this model, through a gate, with what was compiled kept.

Owns the vocabulary that grammars are compiled over and the cache.
"""

from __future__ import annotations

import threading

from tripos.engine.grammar import Grammar, Vocabulary, json_grammar, lark_grammar, regex_grammar
from tripos.models.tokenizer import Tokenizer
from tripos.types import Constraint


class Grammars:
    """The grammars of one model. `compile` may be called from any thread and takes up to seconds."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._lock = threading.Lock()
        self._vocabulary: Vocabulary | None = None

    def compile(self, constraint: Constraint) -> Grammar:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = _vocabulary(self._tokenizer, self._vocab_size)
            source = constraint.source
            if constraint.kind == "json_object":
                text = json_grammar('{"type": "object"}')
            elif constraint.kind == "json_schema":
                text = json_grammar(source)
            elif constraint.kind == "regex":
                text = regex_grammar(source)
            else:
                text = lark_grammar(source)
            return self._vocabulary.compile(text)


def _vocabulary(tokenizer: Tokenizer, vocab_size: int) -> Vocabulary:
    tokens = tokenizer.all_token_bytes[:vocab_size]
    tokens += (b"",) * (vocab_size - len(tokens))
    special_ids = [id for id in tokenizer.special_ids if id < vocab_size]
    eos_ids = [id for id in tokenizer.eos_ids if id < vocab_size]

    def encode(data: bytes) -> list[int]:
        try:
            return tokenizer.encode_inside(data.decode())
        except UnicodeDecodeError:  # half a character: no text that a tokenizer takes
            return []

    return Vocabulary(tokens, special_ids, eos_ids, encode)
