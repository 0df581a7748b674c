"""compressed-tensors checkpoints (https://github.com/neuralmagic/compressed-tensors): packed int4, int8 and fp8.

Of a linear X, [out, in]: pack-quantized has X.weight_packed int32 [out, in / 8] (level + 8 per nibble),
X.weight_scale [out, groups] and, unless symmetric, X.weight_zero_point int32 [out / 8, groups]; int-quantized and
float-quantized have X.weight as int8 or fp8 and X.weight_scale per channel or tensor. Scales of activations are not
used: they are quantized anew per token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tripos.errors import ModelRefused, shown
from tripos.models.files.quantized.layers import (
    F32,
    DeferredTensor,
    Levels,
    QuantizedWeights,
    eight_bit,
    floats,
    four_bit,
    group_size_of,
    layers_with,
    nibbles,
    notes_on,
    stored,
)
from tripos.plan.ir import Weights, WeightTensor

_RUNTIME_SCALES = (".input_scale", ".input_zero_point", ".output_scale", ".k_scale", ".v_scale")
SUFFIXES = (
    ".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx", *_RUNTIME_SCALES
)  # fmt: skip
FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")


def read_compressed(settings: Mapping[str, Any], weights: Weights) -> QuantizedWeights:
    """Raises ModelRefused naming the setting or tensor that is not supported."""
    form = settings.get("format")
    if form not in FORMATS:
        raise ModelRefused(f"config.json: compressed-tensors format {shown(form)}: read are {', '.join(FORMATS)}")
    if settings.get("sparsity_config") and (settings["sparsity_config"] or {}).get("format", "dense") != "dense":
        raise ModelRefused("config.json: sparse compressed-tensors checkpoints are not supported")
    if settings.get("transform_config"):
        raise ModelRefused(
            "config.json: transform_config of compressed-tensors rotates weights and activations, which is not "
            "supported: choose a checkpoint without"
        )
    scheme = _scheme(settings)
    if form == "pack-quantized":
        if scheme.get("num_bits") != 4 or scheme.get("type", "int") != "int":
            raise ModelRefused(f"config.json: pack-quantized with {scheme.get('num_bits')!a} bits: only 4 of int")
        names = layers_with(weights, ".weight_packed")
        tensors = {f"{name}.weight": _packed(scheme, weights, name) for name in names}
    else:
        names = layers_with(weights, ".weight_scale")
        tensors = {f"{name}.weight": _plain(scheme, weights, name) for name in names}
    notes = notes_on(f"compressed-tensors ({form})", tensors) + _notes(settings, weights)
    return QuantizedWeights(weights, SUFFIXES, tensors, notes)


def _notes(settings: Mapping[str, Any], weights: Weights) -> tuple[str, ...]:
    """What the checkpoint holds for activations and caches, which are quantized by the values that come."""
    unread = sorted(name for name in weights if name.endswith(_RUNTIME_SCALES))
    notes = [f"{len(unread)} scales of activations and caches are not used, among them {unread[0]}"] if unread else []
    if settings.get("kv_cache_scheme"):
        notes.append("config.json: kv_cache_scheme is not used: --kv-cache says how keys and values are kept")
    return tuple(notes)


def _scheme(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """How weights are quantized: the same in all groups of config_groups, or refused."""
    groups = settings.get("config_groups")
    values = groups.values() if isinstance(groups, Mapping) else ()
    schemes = [group["weights"] for group in values if isinstance(group, Mapping) and group.get("weights")]
    if not schemes or not isinstance(schemes[0], Mapping) or any(each != schemes[0] for each in schemes):
        raise ModelRefused("config.json: compressed-tensors needs config_groups that quantize all weights alike")
    scheme: Mapping[str, Any] = schemes[0]
    return scheme


def _packed(scheme: Mapping[str, Any], weights: Weights, name: str) -> WeightTensor:
    if f"{name}.weight_g_idx" in weights:
        raise ModelRefused(
            f"tensor {name}.weight_g_idx: inputs in another order (actorder) are not supported: choose a checkpoint "
            "without"
        )
    shape = stored(weights, f"{name}.weight_shape", ("i64", "i32"), (2,)).data
    rows, cols = int(shape[0]), int(shape[1])
    if rows < 1 or cols < 1:
        raise ModelRefused(f"tensor {name}.weight_shape holds {rows} x {cols}")
    words = stored(weights, f"{name}.weight_packed", ("i32",), (rows, -(-cols // 8)))
    group = group_size_of(scheme, cols, f"tensor {name}.weight_packed")
    scales = floats(weights, f"{name}.weight_scale", (rows, cols // group))
    zeros = None
    if not scheme.get("symmetric", True):
        zeros = stored(weights, f"{name}.weight_zero_point", ("i32",), (-(-rows // 8), cols // group))

    def unpack() -> Levels:
        levels = np.ascontiguousarray(nibbles(words.data, 1)[:, :cols])
        zero = np.full(scales.shape, 8.0, np.float32)
        if zeros is not None:
            zero = nibbles(zeros.data, 0)[:rows].astype(np.float32)
        return levels, scales, zero

    return four_bit(f"{name}.weight", (rows, cols), group, scales, unpack)


def _plain(scheme: Mapping[str, Any], weights: Weights, name: str) -> WeightTensor:
    if not scheme.get("symmetric", True):
        raise ModelRefused(f"tensor {name}.weight: 8-bit weights with zero points are not supported")
    weight = stored(weights, f"{name}.weight", ("i8", "f8_e4m3"))
    if len(weight.shape) != 2:
        raise ModelRefused(f"tensor {weight.name} has shape {list(weight.shape)}; expected a matrix")
    scales = floats(weights, f"{name}.weight_scale")
    if scales.size not in (1, weight.shape[0]):
        raise ModelRefused(
            f"tensor {name}.weight_scale has shape {list(scales.shape)}: read are one scale per channel or per tensor"
        )
    scales = np.ascontiguousarray(np.broadcast_to(scales.reshape(-1, 1), (weight.shape[0], 1)))
    if weight.dtype == "i8":
        return eight_bit(weight.name, weight.data, scales)
    return DeferredTensor(weight.name, "f32", weight.shape, lambda: fp8_to_float32(weight.data) * scales)


def fp8_to_float32(codes: np.ndarray) -> F32:
    """e4m3 as OCP OFP8 defines it: 4 exponent bits with bias 7, 3 of fraction, no infinities; NaN is 0x7F."""
    every = np.arange(256, dtype=np.int32)
    exponent, fraction = (every >> 3) & 15, (every & 7).astype(np.float32)
    magnitude = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * np.exp2(exponent - 7.0))
    table = np.where(every & 127 == 127, np.nan, np.where(every & 128, -magnitude, magnitude)).astype(np.float32)
    return np.asarray(table[codes], np.float32)
