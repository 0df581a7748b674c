"""safetensors files, single or sharded, mapped into memory and handed out as WeightTensors.

Owns the format's rules (https://huggingface.co/docs/safetensors) and believes no length before it has been compared
with the file. Knows nothing of what a tensor means.
"""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tripos.errors import ModelRefused, shown
from tripos.models.files.opening import is_there, name_of, open_regular, refuse_pointer, unreadable
from tripos.models.files.strict_json import parse_json, read_json
from tripos.plan.ir import WeightTensor

MAX_HEADER_BYTES = 100_000_000  # the format's own ceiling
MAX_RANK = 8
MAX_NAME_CHARS = 512
INDEX_NAME = "model.safetensors.index.json"
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SHARD = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.safetensors")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")

# the file's name of an element type -> ours, and how numpy holds it (bf16 and fp8 as their bits)
DTYPES: dict[str, tuple[str, type[np.generic]]] = {
    "F64": ("f64", np.float64), "F32": ("f32", np.float32), "F16": ("f16", np.float16), "BF16": ("bf16", np.uint16),
    "F8_E4M3": ("f8_e4m3", np.uint8), "F8_E5M2": ("f8_e5m2", np.uint8), "BOOL": ("bool", np.uint8),
    "I8": ("i8", np.int8), "I16": ("i16", np.int16), "I32": ("i32", np.int32), "I64": ("i64", np.int64),
    "U8": ("u8", np.uint8), "U16": ("u16", np.uint16), "U32": ("u32", np.uint32), "U64": ("u64", np.uint64),
}  # fmt: skip


class Checkpoint(Mapping[str, WeightTensor]):
    """Tensors by name, in the order of the files. The memory maps live as long as a view into them does."""

    def __init__(self, tensors: dict[str, WeightTensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> WeightTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def close(self) -> None:
        """Let go of the files. Arrays still held elsewhere stay valid and keep their map open."""
        self._tensors = {}


def map_file(path: Path) -> memoryview:
    """The file's bytes, read-only, without reading them. Raises ModelRefused naming the file."""
    try:
        with open_regular(path) as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as problem:
        raise unreadable(path.name, problem) from problem
    except ValueError as problem:  # mmap refuses an empty file
        raise ModelRefused(f"{path.name}: the file is empty") from problem
    refuse_pointer(data, path.name)
    return data


def array_at(data: memoryview, start: int, end: int, dtype: type[np.generic]) -> np.ndarray:
    """Bytes start..end as a flat array: a view, or a copy where the file left them unaligned."""
    raw = np.frombuffer(data[start:end], np.uint8)
    if raw.ctypes.data % np.dtype(dtype).itemsize:
        raw = raw.copy()
    return raw.view(dtype)


def check_name(name: str, file: str) -> None:
    """Tensor names are dotted ASCII words: no path, no control character. Raises ModelRefused."""
    if len(name) > MAX_NAME_CHARS or not _NAME.fullmatch(name):
        raise ModelRefused(f"{file}: tensor name {name[:60]!a} is not made of dotted words of A-Z a-z 0-9 _ -")


def check_finite(weights: Mapping[str, WeightTensor]) -> None:
    """Refuse NaN and infinity in float tensors (not inside block formats). Reads every byte: seconds per GB."""
    exponents = {"f32": (np.uint32, 0x7F800000), "f16": (np.uint16, 0x7C00), "bf16": (np.uint16, 0x7F80)}
    for name, tensor in weights.items():
        if tensor.dtype not in exponents or not tensor.data.size:
            continue
        bits_type, mask = exponents[tensor.dtype]
        bits = tensor.data.reshape(-1).view(bits_type)
        for start in range(0, bits.size, 1 << 20):  # a part at a time, so that the temporaries stay in cache
            part = bits[start : start + (1 << 20)] & bits_type(mask)
            if part.max() == mask:
                place = start + int(part.argmax())
                raise ModelRefused(f"tensor {name}: value {place} is NaN or infinite; the checkpoint is damaged")


def open_checkpoint(path: Path) -> Checkpoint:
    """A .safetensors file, or a directory with model.safetensors or with shards and their index.

    Raises ModelRefused naming the file and the field that is wrong.
    """
    if not path.is_dir():
        return Checkpoint(read_safetensors(path))
    single, index = path / "model.safetensors", path / INDEX_NAME
    if is_there(single) and is_there(index):
        raise ModelRefused(f"{name_of(path)}: has both {single.name} and {index.name}; remove the one that is stale")
    if is_there(index):
        return Checkpoint(_read_shards(path, index))
    if is_there(single):
        return Checkpoint(read_safetensors(single))
    pickles = sorted(p.name for p in path.iterdir() if p.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise ModelRefused(
            f"{pickles[0]}: pickled weights can run code when opened and are never read; convert them to safetensors"
        )
    raise ModelRefused(f"{name_of(path)}: holds neither model.safetensors nor {INDEX_NAME}")


def read_safetensors(path: Path) -> dict[str, WeightTensor]:
    """All tensors of one file, mapped. Raises as parse_safetensors."""
    return parse_safetensors(map_file(path), path.name)


def parse_safetensors(data: memoryview, file: str) -> dict[str, WeightTensor]:
    """All tensors in a file's bytes. Every claim of the header is checked before a view is made."""
    header, start = _header(data, file)
    size = len(data) - start
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, WeightTensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            _check_metadata(entry, file)
            continue
        check_name(name, file)
        dtype, shape, begin, end = _entry(name, entry, size, file)
        spans.append((begin, end, name))
        ours, numpy_type = DTYPES[dtype]
        values = array_at(data, start + begin, start + end, numpy_type).reshape(shape)
        tensors[name] = WeightTensor(name, ours, shape, values)
    _check_tiling(spans, size, file)
    return tensors


def _header(data: memoryview, file: str) -> tuple[dict[str, Any], int]:
    """The header's JSON object and the offset of the first data byte."""
    if bytes(data[:2]) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise ModelRefused(f"{file}: is a zip or pickle, not safetensors; convert the checkpoint to safetensors")
    if len(data) < 8:
        raise ModelRefused(f"{file}: {len(data)} bytes are too few for a safetensors header")
    length = int.from_bytes(data[:8], "little")
    longest = min(MAX_HEADER_BYTES, len(data) - 8)
    if not 2 <= length <= longest:
        raise ModelRefused(f"{file}: header length {length} is outside 2..{longest} (file: {len(data)} bytes)")
    text = bytes(data[8 : 8 + length])
    if text[:1] != b"{":
        raise ModelRefused(f"{file}: the header does not begin with an object")
    return parse_json(text, f"{file} header"), 8 + length


def _check_metadata(entry: Any, file: str) -> None:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise ModelRefused(f"{file}: __metadata__ must be an object of strings")


def _entry(name: str, entry: Any, size: int, file: str) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, first and last byte of one header entry, compared with each other and with the data's size."""

    def refuse(reason: str) -> ModelRefused:
        return ModelRefused(f"{file}: tensor {name}: {reason}")

    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise refuse(f"dtype {shown(dtype)} is not supported; supported: {', '.join(DTYPES)}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK:
        raise refuse(f"shape must be a list of at most {MAX_RANK} dimensions")
    if any(type(dim) is not int or dim < 0 for dim in shape):
        raise refuse("shape holds something other than whole numbers from 0")
    if not isinstance(offsets, list) or len(offsets) != 2 or any(type(at) is not int for at in offsets):
        raise refuse("data_offsets must be two whole numbers")
    begin, end = offsets
    if not 0 <= begin <= end <= size:
        raise refuse(f"data_offsets {begin}..{end} lie outside the file's {size} data bytes")
    needed = math.prod(shape) * np.dtype(DTYPES[dtype][1]).itemsize
    if needed != end - begin:
        raise refuse(f"shape and dtype need {needed} bytes, data_offsets give {end - begin}")
    return dtype, tuple(shape), begin, end


def _check_tiling(spans: list[tuple[int, int, str]], size: int, file: str) -> None:
    """The tensors must cover the data exactly: no overlap, no hole, nothing behind the last."""
    at = 0
    for begin, end, name in sorted(spans):
        if begin != at:
            raise ModelRefused(f"{file}: tensor {name}: begins at data byte {begin}, the one before ends at {at}")
        at = end
    if at != size:
        raise ModelRefused(f"{file}: {size - at} bytes behind the last tensor belong to none")


def _read_shards(folder: Path, index: Path) -> dict[str, WeightTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelRefused(f"{index.name}: weight_map is missing or empty")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _SHARD.fullmatch(shard):
            raise ModelRefused(f"{index.name}: weight_map of {shown(name)} is not a plain .safetensors file name")
    shards = sorted(set(weight_map.values()))
    if extra := sorted({p.name for p in folder.glob("model-*-of-*.safetensors")} - set(shards)):
        raise ModelRefused(f"{index.name}: does not list {extra[0]}, which lies beside it; remove the stale one")
    tensors: dict[str, WeightTensor] = {}
    for shard in shards:
        for name, tensor in read_safetensors(folder / shard).items():
            if weight_map.get(name) != shard:
                raise ModelRefused(f"{shard}: holds tensor {name}, which {index.name} places elsewhere or omits")
            tensors[name] = tensor
    if missing := sorted(set(weight_map) - set(tensors)):
        raise ModelRefused(f"{index.name}: tensor {shown(missing[0])} is not in {weight_map[missing[0]]}")
    return tensors
