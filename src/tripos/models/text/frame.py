"""The special tokens that a model puts around one text or two.

Tested in tests/unit/models/text/test_tokenizer.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Frame:
    """Special tokens around one text or two. `runs`: before the first, behind the first, behind the second; `types`:
    their token types, each run behind a text preceded by the type of that text's own tokens."""

    runs: tuple[tuple[int, ...], ...]
    types: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.runs))

    def around(self, *texts: Sequence[int]) -> tuple[list[int], list[int]]:
        """Token ids and token types of as many texts as the frame is for."""
        ids, types = list(self.runs[0]), list(self.types[0])
        for text, run, (own, *rest) in zip(texts, self.runs[1:], self.types[1:], strict=True):
            ids += [*text, *run]
            types += [own] * len(text) + rest
        return ids, types


NO_FRAME = Frame(((), ()), ((), (0,)))  # no special tokens
