"""A model's rows to vectors and scores: normalised, cut, compared.

Tested in tests/unit/predict/test_encoding.py.
"""

from __future__ import annotations

import numpy as np

from tripos.predict.batcher import F32
from tripos.predict.options import EncoderOptions
from tripos.types import Embed, Rerank, Result, Task


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
