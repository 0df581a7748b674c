"""Tensors of a safetensors file as numpy arrays, and back, without a package that every peer would have to have."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I8": np.int8}  # bf16 as its bits
Tensors = dict[str, tuple[str, npt.NDArray[np.generic]]]  # name -> (type as the file names it, values)


def read(path: Path) -> Tensors:
    data = np.memmap(path, np.uint8, "r")
    (length,) = struct.unpack("<Q", data[:8].tobytes())
    header = json.loads(data[8 : 8 + length].tobytes())
    found: Tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            values = data[8 + length + begin : 8 + length + end].view(TYPES[entry["dtype"]])
            found[name] = entry["dtype"], values.reshape(entry["shape"])
    return found


def write(path: Path, tensors: Tensors) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (kind, values) in tensors.items():
        end = offset + values.nbytes
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, values in tensors.values():
            file.write(values.tobytes())


def float32(kind: str, values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def bf16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The bits, rounded to nearest."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
