"""Packed embedders and rerankers: the same bits as what they were made of, mapped, and proven when loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.models.make_encoder_texts import PAIRS, TEXTS
from tests.models.test_encoder_golden import CROSS_ENCODERS, EMBEDDERS, GOLDEN
from tripos import Embedder
from tripos.build.kinds import quantize_model
from tripos.config import ModelOptions
from tripos.errors import ConfigError, ModelRefused
from tripos.models.files.packed import MANIFEST, WEIGHTS_FILE
from tripos.models.files.source import open_source
from tripos.runtime.native import find_library

pytestmark = pytest.mark.skipif(find_library() is None, reason="packing needs the native kernels")


def pack(name: str, folder: Path, weights: str = "int8") -> Path:
    quantize_model(ModelOptions(source=str(GOLDEN / name), weights=weights, threads=1), folder)
    return folder


@pytest.mark.parametrize("name", [name for name in EMBEDDERS if not name.startswith("static")])
def test_a_packed_embedder_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    packed = pack(name, tmp_path / "packed")
    with Embedder(GOLDEN / name, weights="int8", threads=1) as one, Embedder(packed, threads=1) as other:
        np.testing.assert_array_equal(one.embed(TEXTS), other.embed(TEXTS))
        assert other.card.weights == one.card.weights == "int8"
        assert (other.card.task, other.card.max_model_len) == (one.card.task, one.card.max_model_len)
        for prompt in one._model.options.prompts:
            np.testing.assert_array_equal(one.embed(TEXTS, prompt_name=prompt), other.embed(TEXTS, prompt_name=prompt))


@pytest.mark.parametrize("name", CROSS_ENCODERS)
def test_a_packed_reranker_gives_the_same_scores(name: str, tmp_path: Path) -> None:
    packed = pack(name, tmp_path / "packed")
    query, documents = PAIRS[0][0], [document for _, document in PAIRS]
    with Embedder(GOLDEN / name, weights="int8", threads=1) as one, Embedder(packed, threads=1) as other:
        assert one.rerank(query, documents, truncate=True) == other.rerank(query, documents, truncate=True)


def test_a_table_alone_is_not_packed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="static-mean has no matrices to pack"):
        pack("static-mean", tmp_path / "packed")


def test_weights_as_they_are_stored_pack_too(tmp_path: Path) -> None:
    packed = pack("bert-mean", tmp_path / "packed", "auto")
    with Embedder(GOLDEN / "bert-mean", threads=1) as one, Embedder(packed, threads=1) as other:
        np.testing.assert_array_equal(one.embed(TEXTS), other.embed(TEXTS))


def test_matrices_are_views_of_the_file(tmp_path: Path) -> None:
    packed = pack("bert-mean", tmp_path / "packed")
    assert {path.name for path in packed.iterdir()} >= {MANIFEST, WEIGHTS_FILE, "config.json", "tokenizer.json"}
    panels = open_source(str(packed)).weights["encoder.layer.0.attention.self.query.weight"].panels
    assert panels is not None
    assert len(panels.parts) == 3  # query, key and value in one
    assert not panels.data.flags.owndata
    assert not panels.data.flags.writeable


def test_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    packed = pack("bert-mean", tmp_path / "packed")
    data = bytearray((packed / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (packed / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(ModelRefused, match=r"tensor .* is damaged"):
        Embedder(packed)


def test_another_format_or_a_second_packing_is_refused(tmp_path: Path) -> None:
    packed = pack("bert-mean", tmp_path / "packed")
    with pytest.raises(ConfigError, match="packed as int8 and cannot run as fp32"):
        Embedder(packed, weights="fp32")
    with pytest.raises(ConfigError, match="packed already"):
        quantize_model(ModelOptions(source=str(packed)), tmp_path / "again")
