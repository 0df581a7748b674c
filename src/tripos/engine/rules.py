"""The defaults of a checkpoint that change logits (bad words, biases, n-gram bans), and its default output lengths.

Read from generation_config.json, with transformers' meaning. The bias at a position depends on the tokens before it
alone: an answer is the same in any batch and with any drafts.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from tripos.models.files.generation import GenerationDefaults, Ids
from tripos.runtime.executor import F32, I32

Bias = tuple[I32, F32]


class TokenRules:
    """Biases of tokens: `always`, and those that `at` finds for one position; and the lengths."""

    def __init__(self, defaults: GenerationDefaults | None = None, eos_ids: Collection[int] = ()) -> None:
        self._defaults = defaults = defaults or GenerationDefaults()
        bad = [ids for ids in defaults.bad_words_ids if not (len(ids) == 1 and ids[0] in eos_ids)]
        sequences = [*((ids, -math.inf) for ids in bad), *defaults.sequence_bias]
        suppressed = [((id,), -math.inf) for id in defaults.suppress_tokens]
        single = [each for each in (*sequences, *suppressed) if len(each[0]) == 1]
        self.always: Bias = _bias([ids[0] for ids, _ in single], [value for _, value in single])
        self._longer = [(np.array(ids, np.int32), value) for ids, value in sequences if len(ids) > 1]

    @property
    def depends_on_place(self) -> bool:
        defaults = self._defaults
        return bool(self._longer or defaults.no_repeat_ngram_size or defaults.begin_suppress_tokens)

    @property
    def is_silent(self) -> bool:
        """Whether there is no bias at any position."""
        return not (self.depends_on_place or len(self.always[0]))

    def at(self, tokens: I32, num_prompt_tokens: int) -> Bias:
        """The bias of the token behind `tokens` (prompt and output), without `always`."""
        banned: Ids | list[int] = self._defaults.begin_suppress_tokens if len(tokens) == num_prompt_tokens else ()
        completed = [(int(ids[-1]), value) for ids, value in self._longer if _ends_in(tokens, ids[:-1])]
        banned = [*banned, *_repeating(tokens, self._defaults.no_repeat_ngram_size)]
        ids = [*banned, *(id for id, _ in completed)]
        return _bias(ids, [-math.inf] * len(banned) + [value for _, value in completed])

    def max_tokens(self, num_prompt_tokens: int) -> int | None:
        """Most output tokens of a request that sets no max_tokens. None: as many as the context length leaves.

        A prompt of max_length tokens or more, which transformers refuses, lifts that limit.
        """
        if self._defaults.max_new_tokens is not None:
            return self._defaults.max_new_tokens
        whole = self._defaults.max_length
        return None if whole is None or whole <= num_prompt_tokens else whole - num_prompt_tokens

    def min_tokens(self, num_prompt_tokens: int) -> int:
        """Fewest output tokens of a request that sets no min_tokens."""
        if self._defaults.min_new_tokens is not None:
            return self._defaults.min_new_tokens
        return max(0, (self._defaults.min_length or 0) - num_prompt_tokens)


def _bias(ids: list[int], values: list[float]) -> Bias:
    return np.array(ids, np.int32), np.array(values, np.float32)


def _ends_in(tokens: I32, ending: I32) -> bool:
    return len(ending) <= len(tokens) and bool((tokens[len(tokens) - len(ending) :] == ending).all())


def _repeating(tokens: I32, size: int) -> list[int]:
    """Tokens that would complete an n-gram of `size` tokens which `tokens` contain already."""
    if not size or len(tokens) < size:
        return []
    runs = np.lib.stride_tricks.sliding_window_view(tokens, size)
    is_met = (runs[:, :-1] == tokens[len(tokens) - size + 1 :]).all(axis=1)
    found: list[int] = np.unique(runs[is_met, -1]).tolist()
    return found
