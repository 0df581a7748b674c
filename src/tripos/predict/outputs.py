"""Texts to one step of an executor, and its rows to vectors and scores: normalised, cut, compared.

Owns how one encoder does it, which the checkpoint fixes and build passes in.
Tested in tests/unit/predict/test_encoding.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from tripos.errors import RequestFailed
from tripos.predict.batcher import F32, Text
from tripos.runtime.executor import Executor, SamplingInput, StepInput
from tripos.types import Embed, Rerank, Result, Task


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


class EncoderOutputs:
    """Makes results of rows [num_texts, width], as the model's own modules do."""

    def __init__(self, task: Task, options: EncoderOptions) -> None:
        self._task = task
        self._options = options

    def result(self, request: Embed | Rerank, rows: F32) -> Result:
        if isinstance(request, Embed):
            return Result(vectors=tuple(row.astype("<f4").tobytes() for row in self._vectors(rows, request.dimensions)))
        return Result(scores=tuple(self._scores(rows)))

    def _vectors(self, rows: F32, dimensions: int | None) -> F32:
        """Vectors of `dimensions` numbers: the first ones, normalised again (Matryoshka, Kusupati et al. 2022)."""
        rows = self._reduced(rows)
        if dimensions is not None:
            rows = rows[:, :dimensions]
        return unit(rows) if dimensions is not None else rows

    def _reduced(self, rows: F32) -> F32:
        """Rows after the model's own modules: normalised, then cut."""
        return (unit(rows) if self._options.normalize else rows)[:, : self._options.truncate_dim]

    def _scores(self, rows: F32) -> list[float]:
        """The score of each document: a cross-encoder's, or the cosine of its vector with the query's."""
        if self._task == "embed":
            query, *documents = unit(self._reduced(rows))
            return [float((query * document).sum()) for document in documents]
        logits = rows[:, 0].astype(np.float64)
        return [float(score) for score in (1.0 / (1.0 + np.exp(-logits)) if self._options.has_sigmoid else logits)]


def unit(rows: F32) -> F32:
    """Each row at length 1; a row of zeros stays zero."""
    length = np.sqrt((rows * rows).sum(-1, keepdims=True, dtype=np.float32))
    return np.asarray(rows / np.maximum(length, np.float32(1e-12)), np.float32)
