"""How one encoder reads texts and what it makes of rows: fixed by the checkpoint, given by the composition root.

Tested in tests/unit/predict/test_encoding.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How rows become answers."""

    max_length: int  # tokens of the longest input, special ones included
    row: str = "first"  # the token row that the plan selects of each sequence: first or last
    normalize: bool = True  # to unit length
    has_sigmoid: bool = True  # rerank: the score is the logit's sigmoid
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None  # numbers of a vector that are kept; their length stays what it is
    has_special_tokens: bool = True  # around each text
    num_token_types: int = 2  # that the model tells apart; fewer than 2: none is fed
    empty_row: int = 0  # numbers, all 0, of a text without any token; 0: such a text is refused
