"""How one encoder reads texts and makes answers of rows: fixed by the checkpoint, passed in by build.

Tested in tests/unit/predict/test_encoding.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How texts become tokens, and rows answers."""

    max_length: int  # tokens of the longest input, special ones included
    row: str = "first"  # the token row that the plan selects of each sequence: first or last
    normalize: bool = True  # to unit length
    has_sigmoid: bool = True  # rerank: the score is the logit's sigmoid
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    truncate_dim: int | None = None  # numbers of a vector that are kept, without normalising again
    has_special_tokens: bool = True  # around each text
    num_token_types: int = 2  # of the table of token types; fewer than 2: none is fed
    empty_row: int = 0  # length of the zero vector of a text without tokens; 0: such a text is refused
