"""GGUF v2 and v3 files, mapped into memory: typed metadata, and tensors as the file stores them.

Owns the container's rules (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md) and believes no length before it
has been compared with the file. Knows nothing of architectures (gguf_names.py) or vocabularies (vocabulary.py).
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tripos.errors import ModelRefused
from tripos.models.files.safetensors import array_at, check_name, map_file
from tripos.plan.formats import FORMATS
from tripos.plan.ir import WeightTensor

MAX_KEYS = 1 << 16
MAX_KEY_BYTES = 1 << 16
MAX_PARTS = 4096
MAX_TENSORS = 1 << 20
MAX_STRINGS = 1 << 21  # in one array; the largest public vocabularies hold a quarter of it
MAX_STRING_BYTES = 16 << 20
MAX_RANK = 4
ALIGNMENTS = tuple(1 << power for power in range(3, 17))

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
TENSOR_TYPES = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 10: "q2_k", 11: "q3_k", 12: "q4_k",
    13: "q5_k", 14: "q6_k", 30: "bf16",
}  # fmt: skip
_UNSUPPORTED = {
    9: "q8_1", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s",
    22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 29: "iq1_m", 34: "tq1_0",
    35: "tq2_0", 39: "mxfp4", 40: "nvfp4",
}  # fmt: skip
_NUMPY_TYPES: dict[str, type[np.generic]] = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}
_U64 = struct.Struct("<Q")


@dataclass(frozen=True)
class GgufFile:
    """A file's metadata by key (numbers, strings, bools, numpy arrays, lists of strings) and tensors by GGUF name."""

    file: str  # its name, for messages; of the first part where there are several
    metadata: dict[str, Any]
    tensors: dict[str, WeightTensor]
    num_parts: int = 1


def part_suffix(number: int, count: int) -> str:
    """What ends the name, without .gguf, of a model that was split into `count` files; `number` counts from 1."""
    return f"-{number:05}-of-{count:05}"


def files_of(path: Path) -> list[Path]:
    """A file, and all parts of the model where its name says that it is one of them."""
    match = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})", path.stem, re.ASCII | re.DOTALL)
    if match is None or int(match[2]) > MAX_PARTS:
        return [path]
    count = int(match[2])
    return [path.with_name(f"{match[1]}{part_suffix(n, count)}{path.suffix}") for n in range(1, count + 1)]


def read_gguf(path: Path) -> GgufFile:
    """Read the headers and make views of the tensors: of one file, or of all parts of a model where it is the first.

    Raises ModelRefused naming the file and the field.
    """
    first = _read_file(path)
    place, count = _split_of(first)
    if count == 1:
        return first
    whole, ending = path.stem.removesuffix(part_suffix(place + 1, count)), path.suffix
    if whole == path.stem:
        raise ModelRefused(
            f"{path.name}: is part {place + 1} of {count}, and its name does not end in "
            f"{part_suffix(place + 1, count)}{ending}: give all parts the names that they were split under"
        )
    names = [f"{whole}{part_suffix(number, count)}{ending}" for number in range(1, count + 1)]
    if place:
        raise ModelRefused(f"{path.name}: is part {place + 1} of {count}: give the first, {names[0]}")
    tensors = dict(first.tensors)
    for number, name in enumerate(names[1:], 2):
        if not path.with_name(name).exists():
            raise ModelRefused(f"{path.name}: is part 1 of {count}, and {name} does not lie beside it")
        part = _read_file(path.with_name(name))
        if _split_of(part) != (number - 1, count):
            raise ModelRefused(f"{name}: split.no and split.count are not those of part {number} of {count}")
        if twice := sorted(tensors.keys() & part.tensors.keys()):
            raise ModelRefused(f"{name}: tensor {twice[0]} is in an earlier part, too")
        tensors |= part.tensors
    if (total := first.metadata.get("split.tensors.count", len(tensors))) != len(tensors):
        raise ModelRefused(f"{path.name}: split.tensors.count is {total!a}, its {count} parts hold {len(tensors)}")
    return GgufFile(first.file, first.metadata, tensors, count)


def _split_of(part: GgufFile) -> tuple[int, int]:
    """Which part a file is, from 0, and of how many."""
    place, count = part.metadata.get("split.no", 0), part.metadata.get("split.count", 1)
    if type(place) is not int or type(count) is not int or not 0 <= place < max(count, 1) <= MAX_PARTS:
        raise ModelRefused(f"{part.file}: split.no is {place!a} of split.count {count!a}; at most {MAX_PARTS} are read")
    return place, max(count, 1)  # a count of 0 is written for a model that was not split


def _read_file(path: Path) -> GgufFile:
    cursor = _Cursor(map_file(path), path.name)
    num_tensors, num_keys = _read_counts(cursor)
    metadata: dict[str, Any] = {}
    for _ in range(num_keys):
        key = cursor.string("a metadata key", MAX_KEY_BYTES)
        if key in metadata:
            raise cursor.refuse(f"metadata key {key[:60]!a} appears twice")
        metadata[key] = cursor.value(f"metadata key {key[:60]!a}")
    alignment = metadata.get("general.alignment", 32)
    if alignment not in ALIGNMENTS:
        raise cursor.refuse(f"general.alignment is {alignment}; expected a power of two from 8 to 65536")
    return GgufFile(path.name, metadata, _read_tensors(cursor, num_tensors, alignment))


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """Magic and version, then the numbers of tensors and of metadata keys."""
    magic = bytes(cursor.take(4, "the magic"))
    if magic != b"GGUF":
        raise cursor.refuse(f"begins with {magic!a}, not GGUF")
    version = cursor.u32("the version")
    if version & 0xFFFF == 0 and version:
        raise cursor.refuse("is a big-endian GGUF, which is not supported; convert it on a little-endian machine")
    if version not in (2, 3):
        advice = "convert the model again with a current converter, which writes version 3"
        raise cursor.refuse(f"is GGUF version {version}; versions 2 and 3 are supported: {advice}")
    num_tensors, num_keys = cursor.u64("tensor_count"), cursor.u64("metadata_kv_count")
    if num_tensors > MAX_TENSORS:
        raise cursor.refuse(f"tensor_count is {num_tensors}; at most {MAX_TENSORS} are accepted")
    if num_keys > MAX_KEYS:
        raise cursor.refuse(f"metadata_kv_count is {num_keys}; at most {MAX_KEYS} are accepted")
    return num_tensors, num_keys


def _read_tensors(cursor: _Cursor, num_tensors: int, alignment: int) -> dict[str, WeightTensor]:
    infos: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    for _ in range(num_tensors):
        name = cursor.string("a tensor name", MAX_KEY_BYTES)
        check_name(name, cursor.file)
        if name in infos:
            raise cursor.refuse(f"tensor {name} appears twice")
        infos[name] = _tensor_info(cursor, name)
    start = -(-cursor.at // alignment) * alignment  # the data begins at the next aligned byte
    tensors = {}
    for name, (dtype, shape, offset, size) in infos.items():
        if offset % alignment:
            raise cursor.refuse(f"tensor {name}: offset {offset} is not a multiple of the alignment {alignment}")
        if start + offset + size > len(cursor.data):
            raise cursor.refuse(f"tensor {name}: ends at byte {start + offset + size}, the file has {len(cursor.data)}")
        data = array_at(cursor.data, start + offset, start + offset + size, _NUMPY_TYPES.get(dtype, np.uint8))
        tensors[name] = WeightTensor(name, dtype, shape, data.reshape(shape) if dtype in _NUMPY_TYPES else data)
    _check_apart(cursor, infos)
    return tensors


def _tensor_info(cursor: _Cursor, name: str) -> tuple[str, tuple[int, ...], int, int]:
    """Format, shape (slowest axis first, the reverse of the file's), offset and bytes of the next tensor."""
    rank = cursor.u32(f"tensor {name}: n_dimensions")
    if not 1 <= rank <= MAX_RANK:
        raise cursor.refuse(f"tensor {name}: n_dimensions is {rank}; expected 1..{MAX_RANK}")
    shape = tuple(reversed([cursor.u64(f"tensor {name}: dimensions") for _ in range(rank)]))
    type_id = cursor.u32(f"tensor {name}: type")
    offset = cursor.u64(f"tensor {name}: offset")
    if 0 in shape:
        raise cursor.refuse(f"tensor {name}: a dimension is 0")
    if type_id not in TENSOR_TYPES:
        supported = ", ".join(TENSOR_TYPES.values())
        called = f" ({_UNSUPPORTED[type_id]})" if type_id in _UNSUPPORTED else ""
        raise cursor.refuse(f"tensor {name}: type {type_id}{called} is not supported; supported: {supported}")
    dtype = TENSOR_TYPES[type_id]
    block_values, block_bytes = FORMATS[dtype]
    if shape[-1] % block_values:
        raise cursor.refuse(f"tensor {name}: rows of {shape[-1]} are no multiple of {dtype}'s {block_values}")
    return dtype, shape, offset, math.prod(shape) // block_values * block_bytes


def _check_apart(cursor: _Cursor, infos: dict[str, tuple[str, tuple[int, ...], int, int]]) -> None:
    end, previous = 0, ""
    for offset, size, name in sorted((offset, size, name) for name, (_, _, offset, size) in infos.items()):
        if offset < end:
            raise cursor.refuse(f"tensor {name}: overlaps tensor {previous}")
        end, previous = offset + size, name


class _Cursor:
    """A place in the file. Each read says what it wants, so that a short file is refused by field."""

    def __init__(self, data: memoryview, file: str) -> None:
        self.data = data
        self.file = file
        self.at = 0

    def refuse(self, reason: str) -> ModelRefused:
        return ModelRefused(f"{self.file}: {reason}")

    def take(self, size: int, what: str) -> memoryview:
        if size > len(self.data) - self.at:
            raise self.refuse(f"{what} needs {size} bytes at byte {self.at}; the file has {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def u32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        return int.from_bytes(self.take(8, what), "little")

    def string(self, what: str, max_bytes: int = MAX_STRING_BYTES) -> str:
        size = self.u64(what)
        if size > max_bytes:
            raise self.refuse(f"{what} is {size} bytes long; at most {max_bytes} are accepted")
        try:
            return str(self.take(size, what), "utf-8")
        except UnicodeDecodeError as problem:
            raise self.refuse(f"{what} is not UTF-8") from problem

    def value(self, what: str) -> Any:
        type_id = self.u32(what)
        if type_id == _ARRAY:
            return self._array(what)
        if type_id == _STRING:
            return self.string(what)
        if type_id == _BOOL:
            byte = self.take(1, what)[0]
            if byte > 1:
                raise self.refuse(f"{what} is a bool of value {byte}")
            return bool(byte)
        code = self._scalar_code(type_id, what)
        return struct.unpack(code, self.take(struct.calcsize(code), what))[0]

    def _scalar_code(self, type_id: int, what: str) -> str:
        if type_id not in _SCALARS:
            raise self.refuse(f"{what} has value type {type_id}, which does not exist or may not stand here")
        return _SCALARS[type_id]

    def _array(self, what: str) -> Any:
        type_id, count = self.u32(what), self.u64(what)
        if type_id == _STRING:
            return self._strings(count, what)
        if type_id == _ARRAY:
            raise self.refuse(f"{what} is an array of arrays, which no model needs")
        dtype = np.dtype("<u1" if type_id == _BOOL else self._scalar_code(type_id, what))
        values = np.frombuffer(self.take(count * dtype.itemsize, what), dtype)
        if type_id == _BOOL and count and values.max() > 1:
            raise self.refuse(f"{what} holds a bool of value {values.max()}")
        return values.astype(bool) if type_id == _BOOL else values

    def _strings(self, count: int, what: str) -> list[str]:
        """Vocabularies hold 10^5 of these: a tight loop over the lengths, then one decoding of all the text."""
        file_bytes: mmap.mmap = self.data.obj  # type: ignore[assignment]  # slices of it are bytes
        at, size = self.at, len(self.data)
        if count > min(MAX_STRINGS, (size - at) // 8):
            raise self.refuse(f"{what} claims {count} strings; the file or the limit of {MAX_STRINGS} holds fewer")
        length_at, parts = _U64.unpack_from, []
        try:
            for _ in range(count):
                start = at + 8
                at = start + length_at(file_bytes, at)[0]
                parts.append(file_bytes[start:at])  # a slice past the end is short; the check follows
        except (struct.error, OverflowError) as problem:
            raise self.refuse(f"{what}: string {len(parts)} lies beyond the file's {size} bytes") from problem
        if at > size:
            raise self.refuse(f"{what}: the last string ends at byte {at}, the file has {size}")
        self.at = at
        return self._decoded(parts, what)

    def _decoded(self, parts: list[bytes], what: str) -> list[str]:
        try:
            strings = b"\0".join(parts).decode().split("\0") if parts else []
            return strings if len(strings) == len(parts) else [part.decode() for part in parts]  # some hold NUL
        except UnicodeDecodeError as problem:
            raise self.refuse(f"{what} holds a string that is not UTF-8") from problem
