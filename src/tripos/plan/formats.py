"""How a checkpoint stores numbers: the element and block formats, and their exact meaning in float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from tripos.plan.ir import WeightTensor

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

# format -> (values per block, bytes per block), in the order of TriposFormat in kernels/include/tripos.h: append only.
# Plain element types are blocks of one value.
FORMATS: dict[str, tuple[int, int]] = {
    "f32": (1, 4),
    "f16": (1, 2),
    "bf16": (1, 2),
    "q8_0": (32, 34),
    "q4_0": (32, 18),
    "q4_k": (256, 144),
    "q5_k": (256, 176),
    "q6_k": (256, 210),
    "q4_1": (32, 20),
    "q5_0": (32, 22),
    "q5_1": (32, 24),
    "q2_k": (256, 84),
    "q3_k": (256, 110),
}


def bf16_to_float32(data: npt.NDArray[np.uint16]) -> F32:
    """bfloat16 is the upper half of a float32."""
    return (data.astype(np.uint32) << 16).view(np.float32)


def float32_to_bf16(data: F32) -> npt.NDArray[np.uint16]:
    """Round to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(data, np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(data), np.uint16(0x7FC0), rounded)


def _half(raw: U8, at: int) -> F32:
    """The float16 at byte `at` of each block: [blocks, 1]."""
    return np.ascontiguousarray(raw[:, at : at + 2]).view(np.float16).astype(np.float32)


def _q8_0(raw: U8) -> F32:
    return _half(raw, 0) * raw[:, 2:].view(np.int8).astype(np.float32)


def _q4_0(raw: U8) -> F32:
    quants = np.concatenate([raw[:, 2:] & 15, raw[:, 2:] >> 4], axis=1).astype(np.float32)
    return _half(raw, 0) * (quants - 8)


def _q4_1(raw: U8) -> F32:
    quants = np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1).astype(np.float32)
    return _half(raw, 0) * quants + _half(raw, 2)


def _five_bits(raw: U8) -> F32:
    """Levels 0..31 of blocks of 4 bytes of high bits, bit j for value j, and 16 of nibbles: [blocks, 32]."""
    high = np.unpackbits(raw[:, :4], axis=1, bitorder="little")
    return np.asarray(np.concatenate([raw[:, 4:] & 15, raw[:, 4:] >> 4], axis=1) | high << 4, np.float32)


def _q5_0(raw: U8) -> F32:
    return _half(raw, 0) * (_five_bits(raw[:, 2:]) - 16)


def _q5_1(raw: U8) -> F32:
    return _half(raw, 0) * _five_bits(raw[:, 4:]) + _half(raw, 2)


def _crumbs(packed: U8) -> U8:
    """[blocks, 64] bytes to [blocks, 16 groups, 16]: each 32 bytes hold four times 32 values, lowest bits first."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]
    return np.asarray((packed.reshape(-1, 2, 1, 32) >> shifts) & 3, np.uint8).reshape(-1, 16, 16)


def _q2_k(raw: U8) -> F32:
    scale, minimum = _half(raw, 80) * (raw[:, :16] & 15), _half(raw, 82) * (raw[:, :16] >> 4)
    return scale[:, :, None] * _crumbs(raw[:, 16:80]).astype(np.float32) - minimum[:, :, None]


def _q3_k(raw: U8) -> F32:
    high = (raw[:, None, :32] >> np.arange(8, dtype=np.uint8)[None, :, None]) & 1
    levels = (_crumbs(raw[:, 32:96]) | high.reshape(-1, 16, 16) << 2).astype(np.float32) - 4
    low_scales = np.concatenate([raw[:, 96:104] & 15, raw[:, 96:104] >> 4], axis=1)
    high_scales = np.concatenate([raw[:, 104:108] >> shift & 3 for shift in (0, 2, 4, 6)], axis=1)
    scale = _half(raw, 108) * ((low_scales | high_scales << 4).astype(np.float32) - 32)
    return np.asarray(scale[:, :, None] * levels, np.float32)


def _k_scales(raw: U8) -> tuple[F32, F32]:
    """Six-bit scale and minimum of the 8 groups of a q4_k or q5_k block, packed in its bytes 4..15."""
    s = raw[:, 4:16]
    low, high = s[:, :4], s[:, 4:8]
    scale = np.concatenate([low & 63, (s[:, 8:] & 15) | ((low >> 6) << 4)], axis=1)
    minimum = np.concatenate([high & 63, (s[:, 8:] >> 4) | ((high >> 6) << 4)], axis=1)
    return _half(raw, 0) * scale.astype(np.float32), _half(raw, 2) * minimum.astype(np.float32)


def _nibbles(packed: U8) -> U8:
    """[blocks, 128] bytes to [blocks, 8 groups, 32]: each 32 bytes hold two groups, low nibbles first."""
    pairs = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(-1, 8, 32)


def _q4_k(raw: U8) -> F32:
    scale, minimum = _k_scales(raw)
    return scale[:, :, None] * _nibbles(raw[:, 16:]).astype(np.float32) - minimum[:, :, None]


def _q5_k(raw: U8) -> F32:
    scale, minimum = _k_scales(raw)
    fifth = (raw[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[None, :, None]) & 1
    quants = (_nibbles(raw[:, 48:]) + 16 * fifth).astype(np.float32)
    return scale[:, :, None] * quants - minimum[:, :, None]


def _q6_k(raw: U8) -> F32:
    low = raw[:, :128].reshape(-1, 2, 1, 2, 32)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = (raw[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[None, None, :, None]) & 3
    quants = (low | (high << 4)).astype(np.float32) - 32
    scale = _half(raw, 208) * raw[:, 192:208].view(np.int8).astype(np.float32)
    return quants.reshape(-1, 16, 16) * scale[:, :, None]


_DEQUANTIZE: dict[str, Callable[[U8], F32]] = {
    "q8_0": _q8_0,
    "q4_0": _q4_0,
    "q4_1": _q4_1,
    "q5_0": _q5_0,
    "q5_1": _q5_1,
    "q2_k": _q2_k,
    "q3_k": _q3_k,
    "q4_k": _q4_k,
    "q5_k": _q5_k,
    "q6_k": _q6_k,
}


def to_float32(tensor: WeightTensor) -> F32:
    """The tensor's values, float32, in its logical shape."""
    if tensor.dtype == "f32":
        return np.asarray(tensor.data, np.float32).reshape(tensor.shape)
    if tensor.dtype == "f16":
        return tensor.data.view(np.float16).astype(np.float32).reshape(tensor.shape)
    if tensor.dtype == "bf16":
        return bf16_to_float32(tensor.data.view(np.uint16)).reshape(tensor.shape)
    blocks = tensor.data.view(np.uint8).reshape(-1, FORMATS[tensor.dtype][1])
    return _DEQUANTIZE[tensor.dtype](blocks).reshape(tensor.shape)
