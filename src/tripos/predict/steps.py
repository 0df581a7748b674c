"""Texts to one step of an executor, and its rows back.

Tested in tests/unit/predict/test_encoding.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tripos.errors import RequestFailed
from tripos.predict.batcher import F32, Text
from tripos.predict.options import EncoderOptions
from tripos.runtime.executor import Executor, SamplingInput, StepInput


def run_step(executor: Executor, options: EncoderOptions, texts: Sequence[Text]) -> tuple[F32, npt.NDArray[np.bool_]]:
    given = [i for i, text in enumerate(texts) if text.token_ids]
    rows = np.zeros((len(texts), options.empty_row), np.float32)  # for texts without tokens
    are_finite = np.ones(len(texts), np.bool_)
    if not given:
        return rows, are_finite
    out = executor.run(pack([texts[i] for i in given], options.row))
    if out.logits is None:
        raise RequestFailed("the executor kept no output: this is a bug in Tripos")
    if len(given) == len(texts):
        return out.logits, out.ok.astype(np.bool_)
    rows[given], are_finite[given] = out.logits, out.ok
    return rows, are_finite


def pack(texts: Sequence[Text], row: str) -> StepInput:
    """One step of whole sequences, with one output row each."""
    lengths = np.array([len(text.token_ids) for text in texts], np.int32)
    ends = np.cumsum(lengths, dtype=np.int32)
    starts = ends - lengths
    num_tokens, num_texts = int(ends[-1]), len(texts)
    types: list[int] = []
    if any(text.token_types for text in texts):
        types = [kind for text in texts for kind in text.token_types or [0] * len(text.token_ids)]
    return StepInput(
        token_ids=np.fromiter((id for text in texts for id in text.token_ids), np.int32, num_tokens),
        positions=(np.arange(num_tokens, dtype=np.int32) - np.repeat(starts, lengths)).astype(np.int32),
        query_start=np.concatenate([[0], ends]).astype(np.int32),
        seq_lens=lengths,
        block_tables=np.zeros((num_texts, 0), np.int32),
        slots=np.zeros(num_tokens, np.int32),
        last_rows=starts if row == "first" else ends - 1,
        sampling=SamplingInput.greedy(num_texts),
        token_types=np.array(types, np.int32),
    )
