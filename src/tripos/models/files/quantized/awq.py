"""AWQ checkpoints in the GEMM layout (https://github.com/casper-hansen/AutoAWQ): 4 bits, groups, zero points.

qweight int32 [in, out / 8], qzeros int32 [in / group, out / 8], scales [in / group, out]; the outputs of a word lie
in the order 0 2 4 6 1 3 5 7.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tripos.errors import ModelRefused, shown
from tripos.models.files.quantized.layers import (
    Levels,
    QuantizedWeights,
    floats,
    four_bit,
    group_size_of,
    layers_with,
    nibbles,
    notes_on,
    stored,
)
from tripos.plan.ir import Weights, WeightTensor

SUFFIXES = (".qweight", ".qzeros", ".scales")
_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def read_awq(settings: Mapping[str, Any], weights: Weights) -> QuantizedWeights:
    """Raises ModelRefused naming the setting or tensor that is not supported."""
    if settings.get("bits", 4) != 4:
        raise ModelRefused(f"config.json: AWQ with {shown(settings['bits'])} bits is not supported: only 4")
    version = str(settings.get("version", "gemm")).lower()
    if version != "gemm":
        raise ModelRefused(f"config.json: AWQ version {version[:20]!a} is not supported: only gemm")
    tensors = {f"{name}.weight": _linear(settings, weights, name) for name in layers_with(weights, ".qweight")}
    return QuantizedWeights(weights, SUFFIXES, tensors, notes_on("AWQ", tensors))


def _linear(settings: Mapping[str, Any], weights: Weights, name: str) -> WeightTensor:
    words = stored(weights, f"{name}.qweight", ("i32",))
    if len(words.shape) != 2:
        raise ModelRefused(f"tensor {words.name} has shape {list(words.shape)}; expected a matrix")
    cols, rows = words.shape[0], 8 * words.shape[1]
    group = group_size_of(settings, cols, f"tensor {words.name}")
    scales = floats(weights, f"{name}.scales", (cols // group, rows))
    zeros = stored(weights, f"{name}.qzeros", ("i32",), (cols // group, rows // 8))

    def unpack() -> Levels:
        levels = np.ascontiguousarray(nibbles(words.data, 1, _ORDER).T)
        return levels, np.ascontiguousarray(scales.T), nibbles(zeros.data, 1, _ORDER).T.astype(np.float32)

    return four_bit(f"{name}.weight", (rows, cols), group, scales, unpack)
