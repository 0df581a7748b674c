"""Embedder: vectors of texts, and documents by how well they fit a query. Tested in tests/e2e/test_embedder.py."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tripos.build.kinds import load_encoder
from tripos.errors import TriposError
from tripos.library.opened import OpenedModel, options_of
from tripos.library.prompts import Text, check_encodable, check_type, listed, text_of
from tripos.types import Call, Embed, Rerank, Result

if TYPE_CHECKING:
    from tripos.predict.encoder import EncoderModel  # noqa: F401  # in quotes below

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Hit:
    """A document's place in the list that was given, and its score."""

    index: int
    score: float


class Embedder(OpenedModel["EncoderModel"]):
    """An embedder or a reranker in this process, for offline work.

    >>> with Embedder("path/to/model") as embedder:                           # doctest: +SKIP
    ...     vectors = embedder.embed(["Where is my card?", "I lost my PIN"])
    """

    def __init__(self, model: str | Path, **options: object) -> None:
        """`options` are the fields of config.ModelOptions (threads, weights, max_model_len, token_budget ...).

        Raises ModelRefused, ConfigError, EnvironmentProblem.
        """
        self._model = load_encoder(options_of("Embedder", source=str(model), **options))

    def embed(
        self,
        inputs: Text | Iterable[Text],
        *,
        prompt_name: str | None = None,
        dimensions: int | None = None,
        truncate: bool = False,
    ) -> npt.NDArray[np.float32]:
        """One vector for each text, or for its token ids: [len(inputs), dimensions], in their order; of one, [1, ...].

        `prompt_name` is one of the model's prompts, put before each text (None: its default, "": none). `dimensions`
        keeps the first ones of each vector. `truncate` cuts longer texts, which are refused otherwise.

        Raises InvalidRequest before any work when an input is wrong.
        """
        check_type("dimensions", dimensions, int | None)
        given = tuple(map(text_of, listed(inputs)))
        if not given:
            return np.zeros((0, dimensions or self.card.dimensions), np.float32)
        request = Embed(
            inputs=given, prompt_name=prompt_name, dimensions=dimensions, truncate_to=0 if truncate else None
        )
        return np.stack([np.frombuffer(vector, "<f4") for vector in self._answer(request).vectors]).astype(np.float32)

    def rerank(
        self, query: str, documents: str | Iterable[str], *, top_n: int | None = None, truncate: bool = False
    ) -> list[Hit]:
        """The documents that fit the query best, the best first: by a cross-encoder's score, or by the cosine of an
        embedder's vectors. At most `top_n` of them; `truncate` as embed's.

        Raises InvalidRequest before any work.
        """
        check_type("top_n", top_n, int | None)
        given = (documents,) if isinstance(documents, str) else tuple(documents)
        for name, text in (("query", query), *((f"documents[{i}]", each) for i, each in enumerate(given))):
            check_type(name, text, str)
            check_encodable(text)
        request = Rerank(query=query, documents=given, top_n=top_n, truncate_to=0 if truncate else None)
        hits = [Hit(i, score) for i, score in enumerate(self._answer(request).scores)]
        return sorted(hits, key=lambda hit: -hit.score)[:top_n]

    def _answer(self, request: Embed | Rerank) -> Result:
        call = Call(id="library", route=self.card.name, request=request)
        for _, event in self._model.answer([call]):
            if isinstance(event, TriposError):
                raise event
            if isinstance(event, Result):
                return event
        raise AssertionError("a call ended without a result: this is a bug in Tripos")
