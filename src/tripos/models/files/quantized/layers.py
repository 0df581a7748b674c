"""What the schemes share: linears stored as several tensors, their nibbles, and the block formats that hold them.

A matrix of levels q with a scale and a zero point per group of columns, w = scale · (q - zero), becomes q4_1 blocks
(w = scale · q + minimum), levels untouched; int8 levels with a scale per row become q8_0 blocks. Scales and minimums
are rounded to float16. What no block holds becomes float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tripos.errors import ModelRefused, shown
from tripos.models.files.safetensors import Checkpoint
from tripos.plan.formats import to_float32
from tripos.plan.ir import Weights, WeightTensor

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
BLOCK = 32
_MAX_HALF = 65504.0


class DeferredTensor(WeightTensor):
    """A tensor whose data is computed when first asked for; name, type and shape are known at once."""

    def __init__(self, name: str, dtype: str, shape: tuple[int, ...], compute: Callable[[], np.ndarray]) -> None:
        for field, value in (("name", name), ("dtype", dtype), ("shape", shape), ("panels", None), ("_do", compute)):
            object.__setattr__(self, field, value)

    def __getattr__(self, field: str) -> Any:
        if field != "data":
            raise AttributeError(field)
        object.__setattr__(self, "data", self._do())
        return self.data


class QuantizedWeights(Checkpoint):
    """The checkpoint with each quantized linear as one tensor, and what there is to say about it."""

    def __init__(
        self, weights: Weights, suffixes: tuple[str, ...], tensors: Mapping[str, WeightTensor], notes: tuple[str, ...]
    ) -> None:
        """`suffixes` end the names of the tensors that `tensors` stand for."""
        others = {name: tensor for name, tensor in weights.items() if not name.endswith(suffixes)}
        super().__init__(others | dict(tensors))
        self._weights = weights
        self.notes = notes

    def close(self) -> None:
        """Let go of the files."""
        super().close()
        getattr(self._weights, "close", lambda: None)()


def layers_with(weights: Weights, suffix: str) -> list[str]:
    """The names before `suffix`, and a refusal when there is none."""
    found = [name.removesuffix(suffix) for name in weights if name.endswith(suffix)]
    if not found:
        raise ModelRefused(f"config.json names a quantization, but no tensor of the checkpoint ends in {suffix}")
    return found


def stored(weights: Weights, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...] | None = None) -> WeightTensor:
    """A tensor that must be there, of one of these types, and of this shape if one is given. Raises ModelRefused."""
    tensor = weights.get(name)
    if tensor is None:
        raise ModelRefused(f"tensor {name} is missing from the checkpoint")
    if tensor.dtype not in dtypes:
        raise ModelRefused(f"tensor {name} is stored as {tensor.dtype}; expected {' or '.join(dtypes)}")
    if shape is not None and tensor.shape != shape:
        raise ModelRefused(f"tensor {name} has shape {list(tensor.shape)}; expected {list(shape)}")
    return tensor


def floats(weights: Weights, name: str, shape: tuple[int, ...] | None = None) -> F32:
    """A tensor of scales. Raises ModelRefused for others and for values that are not finite."""
    values = to_float32(stored(weights, name, ("f32", "f16", "bf16"), shape))
    if not np.isfinite(values).all():
        raise ModelRefused(f"tensor {name}: a value is NaN or infinite; the checkpoint is damaged")
    return values


def nibbles(words: np.ndarray, axis: int, order: tuple[int, ...] = tuple(range(8))) -> U8:
    """Eight levels per 32-bit word, spread along `axis`; `order[i]` is the place of the i-th lowest nibble."""
    bits = np.ascontiguousarray(words).view(np.uint32)
    shifts = np.empty(8, np.uint32)
    shifts[list(order)] = np.arange(0, 32, 4)
    spread = np.stack([(bits >> shift & 15).astype(np.uint8) for shift in shifts], axis=axis + 1)
    shape = list(words.shape)
    shape[axis] *= 8
    return spread.reshape(shape)


def group_size_of(settings: Mapping[str, Any], cols: int, where: str) -> int:
    """Columns that share a scale; -1 and None stand for all. Raises ModelRefused."""
    size = settings.get("group_size")
    size = cols if size in (-1, None) else size
    if type(size) is not int or size < 1 or cols % size:
        raise ModelRefused(f"{where}: group_size {shown(size)} does not divide the {cols} inputs")
    return size


Levels = tuple[U8, F32, F32]  # levels [rows, cols]; scales and zero points [rows, groups]


def four_bit(name: str, shape: tuple[int, int], group: int, scales: F32, unpack: Callable[[], Levels]) -> WeightTensor:
    """q4_1 blocks where they hold the groups, else float32; `scales` only decide."""
    if group % BLOCK == 0 and shape[1] % BLOCK == 0 and float(np.abs(scales).max(initial=0)) * 16 < _MAX_HALF:
        return DeferredTensor(name, "q4_1", shape, lambda: _q4_1(*unpack()))

    def dequantized() -> F32:
        levels, scale, zero = unpack()
        per_column = shape[1] // scale.shape[1]
        values = levels.astype(np.float32) - np.repeat(zero, per_column, axis=1)
        return np.asarray(values * np.repeat(scale, per_column, axis=1), np.float32)

    return DeferredTensor(name, "f32", shape, dequantized)


def _q4_1(levels: U8, scales: F32, zeros: F32) -> U8:
    rows, cols = levels.shape
    repeats = cols // BLOCK // scales.shape[1]
    blocks = np.empty((rows, cols // BLOCK, 20), np.uint8)
    for at, values in ((0, scales), (2, -scales * zeros)):
        halves = np.repeat(values.astype(np.float16), repeats, axis=1)
        blocks[..., at : at + 2] = halves[..., None].view(np.uint8)
    quants = levels.reshape(rows, cols // BLOCK, 2, BLOCK // 2)
    blocks[..., 4:] = quants[:, :, 0] | quants[:, :, 1] << 4
    return blocks.reshape(-1, 20)


def eight_bit(name: str, levels: npt.NDArray[np.int8], scales: F32) -> WeightTensor:
    """q8_0 blocks where they hold the rows, else float32. levels [rows, cols], scales [rows, 1]."""
    rows, cols = levels.shape
    largest = float(np.abs(scales).max(initial=0))
    if cols % BLOCK or largest >= _MAX_HALF:
        return DeferredTensor(name, "f32", (rows, cols), lambda: levels * scales)

    def blocks() -> U8:
        out = np.empty((rows, cols // BLOCK, 34), np.uint8)
        out[..., :2] = scales.astype(np.float16).view(np.uint8)[:, None]
        out[..., 2:] = levels.view(np.uint8).reshape(rows, cols // BLOCK, BLOCK)
        return out.reshape(-1, 34)

    return DeferredTensor(name, "q8_0", (rows, cols), blocks)


def notes_on(scheme: str, tensors: Mapping[str, WeightTensor]) -> tuple[str, ...]:
    """What a person should know: what was kept as it is, and what was not."""
    plain = [name for name, tensor in tensors.items() if tensor.dtype == "f32"]
    retained = len(tensors) - len(plain)
    notes = [f"{retained} tensors of {scheme}: levels kept, scales as float16"] if retained else []
    if plain:
        notes.append(
            f"{len(plain)} tensors of {scheme} have no native form and become float32, among them {plain[0]}: "
            "choose --weights to make them small again"
        )
    return tuple(notes)
