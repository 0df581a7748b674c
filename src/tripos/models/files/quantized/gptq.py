"""GPTQ checkpoints (https://github.com/AutoGPTQ/AutoGPTQ): 4 bits, groups, zero points, inputs in their own order.

qweight int32 [in / 8, out], qzeros int32 [in / group, out / 8], scales [in / group, out], g_idx [in]. In the first
format zero points are stored less one, modulo 16; in gptq_v2 as they are.
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

SUFFIXES = (".qweight", ".qzeros", ".scales", ".g_idx")
_OFFSETS = {"gptq": 1, "gptq_v2": 0}  # what the format takes off a zero point


def read_gptq(settings: Mapping[str, Any], weights: Weights) -> QuantizedWeights:
    """Raises ModelRefused naming the setting or tensor that is not supported."""
    if settings.get("bits") != 4:
        raise ModelRefused(f"config.json: GPTQ with {shown(settings.get('bits'))} bits is not supported: only 4")
    if settings.get("dynamic"):
        raise ModelRefused("config.json: GPTQ with dynamic, other bits for single layers, is not supported")
    kind = settings.get("checkpoint_format") or "gptq"
    if kind not in _OFFSETS:
        raise ModelRefused(f"config.json: GPTQ checkpoint_format {shown(kind)}: supported are gptq and gptq_v2")
    tensors = {
        f"{name}.weight": _linear(settings, weights, name, _OFFSETS[kind]) for name in layers_with(weights, ".qweight")
    }
    return QuantizedWeights(weights, SUFFIXES, tensors, notes_on("GPTQ", tensors))


def _linear(settings: Mapping[str, Any], weights: Weights, name: str, offset: int) -> WeightTensor:
    words = stored(weights, f"{name}.qweight", ("i32",))
    if len(words.shape) != 2 or words.shape[1] % 8:
        raise ModelRefused(f"tensor {words.name} has shape {list(words.shape)}; expected [in / 8, out]")
    cols, rows = 8 * words.shape[0], words.shape[1]
    group = group_size_of(settings, cols, f"tensor {words.name}")
    scales = floats(weights, f"{name}.scales", (cols // group, rows))
    zeros = stored(weights, f"{name}.qzeros", ("i32",), (cols // group, rows // 8))
    _check_order(weights, f"{name}.g_idx", cols, group)

    def unpack() -> Levels:
        levels = np.ascontiguousarray(nibbles(words.data, 0).T)
        zero = (nibbles(zeros.data, 1) + offset) & 15
        return levels, np.ascontiguousarray(scales.T), zero.T.astype(np.float32)

    return four_bit(f"{name}.weight", (rows, cols), group, scales, unpack)


def _check_order(weights: Weights, name: str, cols: int, group: int) -> None:
    """desc_act quantizes inputs in another order; only where that order is the plain one, groups lie side by side."""
    if name not in weights:
        return
    order = stored(weights, name, ("i32", "i64"), (cols,)).data
    if not np.array_equal(order, np.arange(cols) // group):
        raise ModelRefused(
            f"tensor {name}: inputs in another order (desc_act) are not supported: "
            "choose a checkpoint with desc_act false"
        )
