"""The library's Embedder, on the tiny encoders that sentence-transformers also read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import tripos
from tests.models.make_encoder_texts import PAIRS, TEXTS
from tests.models.test_encoder_golden import GOLDEN, TINY_COSINE, cosine_distance
from tripos import Embedder
from tripos.errors import ConfigError, InvalidRequest


@pytest.fixture
def embedder() -> Iterator[Embedder]:
    with Embedder(GOLDEN / "bert-mean", weights="fp32", threads=1) as opened:
        yield opened


def test_it_is_a_public_name() -> None:
    assert tripos.Embedder is Embedder
    assert "Embedder" in tripos.__all__


def test_texts_become_vectors_in_their_order(embedder: Embedder) -> None:
    vectors = embedder.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), embedder.card.dimensions)
    assert vectors.dtype == np.float32
    with np.load(GOLDEN / "bert-mean" / "golden.npz") as golden:
        assert cosine_distance(vectors, golden["vectors"]) <= TINY_COSINE["fp32"]
        asked = embedder.embed(iter(TEXTS), prompt_name="query")
        assert cosine_distance(asked, golden["query_vectors"]) <= TINY_COSINE["fp32"]


def test_token_ids_and_fewer_dimensions(embedder: Embedder) -> None:
    ids = embedder.tokenizer.encode_all(["my card"])[0]
    framed = embedder.tokenizer.frame.around(ids)[0]
    np.testing.assert_array_equal(embedder.embed([framed]), embedder.embed(["my card"]))
    short = embedder.embed(["my card"], dimensions=8)
    assert short.shape == (1, 8)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1.0, atol=1e-6)


def test_nothing_in_nothing_out(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, embedder.card.dimensions)


def test_documents_come_best_first(embedder: Embedder) -> None:
    documents = ["where is my pin", "lost card", "my bank account"]
    hits = embedder.rerank("lost card", documents)
    assert sorted(hit.index for hit in hits) == [0, 1, 2]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert embedder.rerank("lost card", documents, top_n=1) == hits[:1]
    query, texts = embedder.embed(["lost card"], prompt_name="query"), embedder.embed(documents, prompt_name="document")
    scores = {hit.index: hit.score for hit in hits}
    np.testing.assert_allclose([scores[i] for i in range(3)], texts @ query[0], atol=1e-6)


def test_a_cross_encoder_reranks() -> None:
    query, document = PAIRS[0]
    with Embedder(GOLDEN / "bert-cross", weights="fp32", threads=1) as reranker:
        (hit,) = reranker.rerank(query, [document])
        with np.load(GOLDEN / "bert-cross" / "golden.npz") as golden:
            assert hit.score == pytest.approx(float(golden["scores"][0]), abs=2e-5)
        with pytest.raises(InvalidRequest, match="cannot embed"):
            reranker.embed(["text"])


def test_what_is_wrong_is_said_before_any_work(embedder: Embedder) -> None:
    with pytest.raises(InvalidRequest, match=r"input\[1\] is empty"):
        embedder.embed(["a", ""])
    long = "card " * 60
    with pytest.raises(InvalidRequest, match=r"input\[0\] has \d+ tokens"):
        embedder.embed([long])
    assert embedder.embed([long], truncate=True).shape == (1, embedder.card.dimensions)
    with pytest.raises(ConfigError, match=r"Embedder\(\.\.\.\).*thread"):
        Embedder(GOLDEN / "bert-mean", thread=1)
