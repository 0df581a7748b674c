"""Checkpoints with levels of 4 bits in groups with zero points, packed in int32 words: AWQ, GPTQ and AutoRound.

Scales are [in / group, out], qzeros int32 [in / group, out / 8] in all of them.
AWQ in the GEMM layout (https://github.com/casper-hansen/AutoAWQ): qweight int32 [in, out / 8], the outputs of a word in
the order 0 2 4 6 1 3 5 7. GPTQ (https://github.com/AutoGPTQ/AutoGPTQ): qweight int32 [in / 8, out], g_idx [in]; zero
points are stored less one, modulo 16, in gptq_v2 as they are. AutoRound (https://github.com/intel/auto-round): the
tensors of one of them under settings of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Packing:
    """How eight levels lie in a word: `axis` 0 takes inputs together, 1 outputs; `order[i]` is the place of the i-th
    lowest nibble; `offset` is what the format takes off a zero point."""

    axis: int
    order: tuple[int, ...] = tuple(range(8))
    offset: int = 0


_AWQ = _Packing(axis=1, order=(0, 2, 4, 6, 1, 3, 5, 7))
_GPTQ = {"gptq": _Packing(axis=0, offset=1), "gptq_v2": _Packing(axis=0)}  # by checkpoint_format


def read_awq(settings: Mapping[str, Any], weights: Weights) -> QuantizedWeights:
    """Raises ModelRefused naming the setting or tensor that is not supported."""
    if settings.get("bits", 4) != 4:
        raise ModelRefused(f"config.json: AWQ with {shown(settings['bits'])} bits is not supported: only 4")
    version = str(settings.get("version", "gemm")).lower()
    if version != "gemm":
        raise ModelRefused(f"config.json: AWQ version {version[:20]!a} is not supported: only gemm")
    return _read("AWQ", settings, weights, _AWQ)


def read_gptq(settings: Mapping[str, Any], weights: Weights) -> QuantizedWeights:
    """Raises ModelRefused naming the setting or tensor that is not supported."""
    if settings.get("bits") != 4:
        raise ModelRefused(f"config.json: GPTQ with {shown(settings.get('bits'))} bits is not supported: only 4")
    if settings.get("dynamic"):
        raise ModelRefused("config.json: GPTQ with dynamic, other bits for single layers, is not supported")
    kind = settings.get("checkpoint_format") or "gptq"
    if kind not in _GPTQ:
        raise ModelRefused(f"config.json: GPTQ checkpoint_format {shown(kind)}: supported are gptq and gptq_v2")
    return _read("GPTQ", settings, weights, _GPTQ[kind])


def _read(scheme: str, settings: Mapping[str, Any], weights: Weights, packing: _Packing) -> QuantizedWeights:
    names = layers_with(weights, ".qweight")
    tensors = {f"{name}.weight": _linear(settings, weights, name, packing) for name in names}
    return QuantizedWeights(weights, SUFFIXES, tensors, notes_on(scheme, tensors))


def _linear(settings: Mapping[str, Any], weights: Weights, name: str, packing: _Packing) -> WeightTensor:
    words = stored(weights, f"{name}.qweight", ("i32",))
    if len(words.shape) != 2 or (packing.axis == 0 and words.shape[1] % 8):
        expected = "[in, out / 8]" if packing.axis else "[in / 8, out]"
        raise ModelRefused(f"tensor {words.name} has shape {list(words.shape)}; expected {expected}")
    cols, rows = (8 * size if axis == packing.axis else size for axis, size in enumerate(words.shape))
    group = group_size_of(settings, cols, f"tensor {words.name}")
    scales = floats(weights, f"{name}.scales", (cols // group, rows))
    zeros = stored(weights, f"{name}.qzeros", ("i32",), (cols // group, rows // 8))
    _check_order(weights, f"{name}.g_idx", cols, group)

    def unpack() -> Levels:
        levels = np.ascontiguousarray(nibbles(words.data, packing.axis, packing.order).T)
        zero = (nibbles(zeros.data, 1, packing.order) + packing.offset) & 15
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


PACKINGS = {"auto_round:auto_gptq": read_gptq, "auto_round:auto_awq": read_awq}
_FLOAT_BITS = 16  # of a layer that was left as it is
_PER_LAYER = ("bits", "group_size", "sym", "data_type")


def read_autoround(settings: Mapping[str, Any], weights: Weights) -> QuantizedWeights:
    """Raises ModelRefused naming the setting or tensor that is not supported."""
    packing = settings.get("packing_format", "auto_round:auto_gptq")
    if packing not in PACKINGS:
        raise ModelRefused(
            f"config.json: AutoRound packing_format {shown(packing)} is not supported: only {', '.join(PACKINGS)}"
        )
    if (data_type := settings.get("data_type", "int")) != "int":
        raise ModelRefused(f"config.json: AutoRound data_type {shown(data_type)} is not supported: only int")
    if (bits := settings.get("act_bits", _FLOAT_BITS)) not in (None, _FLOAT_BITS, 32):
        raise ModelRefused(f"config.json: AutoRound act_bits {shown(bits)} is not supported: only 16")
    _check_layers(settings)
    return PACKINGS[packing](settings, weights)


def _check_layers(settings: Mapping[str, Any]) -> None:
    """extra_config may quantize single layers in another way; only float ones are as any other tensor."""
    extra = settings.get("extra_config") or {}
    if not isinstance(extra, Mapping):
        raise ModelRefused("config.json: AutoRound extra_config is no object")
    for name, layer in extra.items():
        if not isinstance(layer, Mapping):
            raise ModelRefused(f"config.json: AutoRound extra_config of {shown(name)} is no object")
        if layer.get("bits", settings.get("bits")) == _FLOAT_BITS:
            continue
        for key in _PER_LAYER:
            if key in layer and layer[key] != settings.get(key, "int" if key == "data_type" else None):
                raise ModelRefused(
                    f"config.json: AutoRound extra_config gives {shown(name)} {key} {shown(layer[key])}; "
                    "layers that are quantized in another way than the rest are not supported"
                )
