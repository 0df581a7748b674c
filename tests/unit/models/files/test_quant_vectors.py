"""Every format that checkpoints store means what the gguf package says; made once by make_quant_vectors.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tripos.plan.formats import FORMATS, to_float32
from tripos.plan.ir import WeightTensor
from tripos.runtime.native import dequantize


@pytest.mark.parametrize("dtype", sorted(set(FORMATS) - {"f32", "f16"}))
def test_values_equal_the_gguf_package(dtype: str) -> None:
    with np.load(Path(__file__).with_name("quant_vectors.npz")) as vectors:
        raw, expected = vectors[f"{dtype}_raw"], vectors[f"{dtype}_values"]
    data = raw.view(np.uint16) if dtype == "bf16" else raw
    got = to_float32(WeightTensor("w", dtype, expected.shape, data))
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(dequantize(WeightTensor("w", dtype, expected.shape, data)), expected)
