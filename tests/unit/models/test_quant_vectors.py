"""Every format that checkpoints store means what the gguf package says; made once by make_quant_vectors.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tripos.plan.formats import to_float32
from tripos.plan.ir import WeightTensor


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0", "q4_k", "q5_k", "q6_k", "bf16"])
def test_values_equal_the_gguf_package(dtype: str) -> None:
    with np.load(Path(__file__).with_name("quant_vectors.npz")) as vectors:
        raw, expected = vectors[f"{dtype}_raw"], vectors[f"{dtype}_values"]
    data = raw.view(np.uint16) if dtype == "bf16" else raw
    got = to_float32(WeightTensor("w", dtype, expected.shape, data))
    np.testing.assert_array_equal(got, expected)
