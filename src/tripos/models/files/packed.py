"""Packed checkpoints: a directory whose matrices are the native kernels' panels, mapped and used as they lie.

Owns the manifest (tripos.json), which names every tensor and file with its SHA-256, and their reading and writing. Does
not know what is inside a panel: its layout has a version, which the kernels compare with their own.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tripos.errors import ConfigError, ModelRefused
from tripos.models.files.safetensors import Checkpoint, map_file, parse_safetensors
from tripos.plan.ir import Panels, WeightTensor, let_pages_go

MANIFEST = "tripos.json"
WEIGHTS_FILE = "packed.safetensors"
VERSION = 2  # of the manifest and of what lies in the file; the panels have their own
MAX_MANIFEST_BYTES = 64 << 20
AGAIN = "pack the model again with tripos quantize"
_PAGE = 4096  # the data begins on a page, so that panels are aligned as the kernels want them
_DTYPES = {"f32": "F32", "f16": "F16", "bf16": "BF16"}  # the others are stored as bytes
_THREADS = 2
_PART_BYTES = 16 << 20  # hashed in one call: few enough that a thread which holds the interpreter delays little


class PanelsEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A packed matrix of the manifest: what it stacks, and as what."""

    parts: dict[str, int]  # checkpoint tensor -> its rows, in order
    shape: tuple[int, int]
    format: str
    is_interleaved: bool


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor of the manifest. One that is not packed keeps the type that it had."""

    sha256: str
    dtype: str  # f32, q6_k, ...; panels
    shape: tuple[int, ...]
    panels: PanelsEntry | None = None


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """tripos.json. `sha256` covers all the rest, and with it every byte of the directory."""

    version: int
    panel_layout: int
    weights: str  # the format that was asked for
    source_digest: str  # of the model that was packed
    files: dict[str, str]  # file -> SHA-256; of the weights file only the header
    tensors: dict[str, TensorEntry]
    parts: tuple[str, ...]  # SHA-256 of each _PART_BYTES of the weights file
    sha256: str = ""

    def digest(self) -> str:
        """SHA-256 of the manifest without its own."""
        return _sha256(msgspec.json.encode(msgspec.structs.replace(self, sha256="")))


class PackedWeights(Checkpoint):
    """The tensors of a packed checkpoint under the names of the plan, and their proof."""

    def __init__(self, manifest: Manifest, stored: dict[str, WeightTensor], data: memoryview) -> None:
        """`data`: the whole weights file, of which `stored` are views."""
        self.manifest = manifest
        self._stored = stored
        self._data = data
        super().__init__(_by_part(manifest, stored))

    def verify(self) -> str:
        """The model's digest. Reads every byte; raises ModelRefused naming the first damaged tensor."""
        if tuple(_part_digests(self._data)) != self.manifest.parts:
            self._verify_tensors()
            raise ModelRefused(f"{WEIGHTS_FILE}: is damaged outside its tensors (SHA-256 differs): {AGAIN}")
        return self.manifest.sha256

    def _verify_tensors(self) -> None:
        entries = self.manifest.tensors
        largest_first = sorted(self._stored.values(), key=lambda tensor: -tensor.data.nbytes)
        with ThreadPoolExecutor(_THREADS) as pool:
            digests = pool.map(lambda tensor: _digest_once(tensor.data), largest_first)
            for tensor, digest in zip(largest_first, digests, strict=True):
                if digest != entries[tensor.name].sha256:
                    raise ModelRefused(f"{WEIGHTS_FILE}: tensor {tensor.name} is damaged (SHA-256 differs): {AGAIN}")

    def close(self) -> None:
        super().close()
        self._stored, self._data = {}, memoryview(b"")


def open_packed(folder: Path) -> PackedWeights:
    """Map the directory's weights, after its small files have been compared with the manifest. Milliseconds.

    Raises ModelRefused naming the file and the tensor that is wrong.
    """
    manifest = _read_manifest(folder / MANIFEST)
    for name, digest in manifest.files.items():
        if name != WEIGHTS_FILE and _sha256(map_file(folder / name)) != digest:
            raise ModelRefused(f"{name}: is not the file that was packed (SHA-256 differs): {AGAIN}")
    found = (path.relative_to(folder) for path in (*folder.iterdir(), *folder.glob("*/*.jinja")))
    readable = {path.as_posix() for path in found if path.suffix in (".json", ".jinja", ".safetensors")}
    if foreign := sorted(readable - {*manifest.files, MANIFEST}):
        raise ModelRefused(f"{foreign[0]}: does not belong to this packed checkpoint: remove it")
    path = folder / WEIGHTS_FILE
    data = map_file(path)
    stored = parse_safetensors(data, path.name)
    if _sha256(_header_of(data)) != manifest.files[WEIGHTS_FILE]:
        raise ModelRefused(f"{path.name}: its header is not the one that was written (SHA-256 differs): {AGAIN}")
    if difference := sorted(set(stored) ^ set(manifest.tensors)):
        raise ModelRefused(f"{path.name}: tensor {difference[0]} is not both in the file and in {MANIFEST}: {AGAIN}")
    return PackedWeights(manifest, stored, data)


def _read_manifest(path: Path) -> Manifest:
    data = map_file(path)
    if len(data) > MAX_MANIFEST_BYTES:
        raise ModelRefused(f"{path.name}: larger than {MAX_MANIFEST_BYTES >> 20} MiB")
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("version")
        if version != VERSION:
            raise ModelRefused(f"{path.name}: is of version {version!a}, this Tripos reads {VERSION}: {AGAIN}")
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise ModelRefused(f"{path.name}: is no manifest of a packed checkpoint: {problem}") from problem
    if manifest.digest() != manifest.sha256:
        raise ModelRefused(f"{path.name}: is damaged (SHA-256 differs): {AGAIN}")
    unsafe = [name for name in manifest.files if not re.fullmatch(r"[A-Za-z0-9_]+(\.[a-z]+)+", name)]
    if unsafe or WEIGHTS_FILE not in manifest.files:
        raise ModelRefused(f"{path.name}: files must list {WEIGHTS_FILE} and plain names: {unsafe[:1]}")
    return manifest


def _by_part(manifest: Manifest, stored: dict[str, WeightTensor]) -> dict[str, WeightTensor]:
    """Every checkpoint tensor that the plan knows, with the panels that it is part of."""
    tensors: dict[str, WeightTensor] = {}
    for name, entry in manifest.tensors.items():
        if entry.panels is None:
            tensors[name] = replace(stored[name], dtype=entry.dtype, shape=entry.shape)
    for name, entry in manifest.tensors.items():
        if entry.panels is None:
            continue
        kind = entry.panels
        panels = Panels(
            tuple(kind.parts), kind.shape, kind.format, kind.is_interleaved, manifest.panel_layout, stored[name].data
        )
        for part, rows in kind.parts.items():
            empty = WeightTensor(part, "panels", (rows, kind.shape[1]), np.zeros(0, np.uint8))
            tensors[part] = replace(tensors.get(part, empty), panels=panels)
    return tensors


# -- writing --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Packing:
    """What write_packed writes."""

    weights: str  # the format that was asked for
    source_digest: str
    panels: Sequence[Panels]
    rows: Mapping[str, int]  # of every part of the panels
    tensors: Sequence[WeightTensor]  # what is not packed
    files: Mapping[str, bytes]  # config.json, tokenizer.json and so on


def write_packed(
    folder: Path, packing: Packing, progress: Callable[[float], None], check: Callable[[], None] = lambda: None
) -> None:
    """Write a packed checkpoint that is there in whole or not at all. Raises ConfigError when the place is taken.

    `check` is called when everything is read; nothing is there when it raises.
    """
    folder = folder.resolve()
    if folder == Path.cwd():
        raise ConfigError(f"{folder}: is where you are, and a directory is written as a whole: name a new one")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists and is not an empty directory: choose another one")
    unfinished = folder.with_name(folder.name + ".unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)
    try:
        manifest = _write_files(unfinished, packing, progress)
        check()
        (unfinished / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        if folder.exists():
            folder.rmdir()
        os.replace(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _write_files(folder: Path, packing: Packing, progress: Callable[[float], None]) -> Manifest:
    entries, arrays = _entries(packing)
    header = _header(entries, arrays)
    files = {name: _sha256(data) for name, data in packing.files.items()} | {WEIGHTS_FILE: _sha256(header)}
    for name, data in packing.files.items():
        (folder / name).write_bytes(data)
    total, written = sum(array.nbytes for array in arrays.values()), 0
    with (folder / WEIGHTS_FILE).open("wb") as file:
        file.write(header)
        for array in arrays.values():
            file.write(_bytes_of(array))
            written += array.nbytes
            progress(written / total)
        file.flush()
        os.fsync(file.fileno())
    layouts = {panels.layout for panels in packing.panels}
    assert len(layouts) == 1, "panels of one executor have one layout"
    parts = tuple(_part_digests(map_file(folder / WEIGHTS_FILE)))
    manifest = Manifest(VERSION, layouts.pop(), packing.weights, packing.source_digest, files, entries, parts)
    return msgspec.structs.replace(manifest, sha256=manifest.digest())


def _entries(packing: Packing) -> tuple[dict[str, TensorEntry], dict[str, np.ndarray]]:
    """Panels first, then the wider types: each tensor's place is aligned without a hole before it."""
    entries: dict[str, TensorEntry] = {}
    arrays: dict[str, np.ndarray] = {}
    for panels in packing.panels:
        name = f"panels.{panels.parts[0]}"
        parts = {part: packing.rows[part] for part in panels.parts}
        kind = PanelsEntry(parts, panels.shape, panels.format, panels.is_interleaved)
        entries[name] = TensorEntry(_sha256(_bytes_of(panels.data)), "panels", panels.data.shape, kind)
        arrays[name] = panels.data
    width = {"f32": 4, "f16": 2, "bf16": 2}
    for tensor in sorted(packing.tensors, key=lambda tensor: -width.get(tensor.dtype, 1)):
        data = np.ascontiguousarray(tensor.data)
        entries[tensor.name] = TensorEntry(_sha256(_bytes_of(data)), tensor.dtype, tensor.shape)
        arrays[tensor.name] = data
    return entries, arrays


def _header(entries: Mapping[str, TensorEntry], arrays: Mapping[str, np.ndarray]) -> bytes:
    fields: dict[str, Any] = {"__metadata__": {"format": "tripos-packed", "version": str(VERSION)}}
    at = 0
    for name, array in arrays.items():
        dtype = _DTYPES.get(entries[name].dtype, "U8")
        shape = list(entries[name].shape) if dtype != "U8" else [array.nbytes]
        fields[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _PAGE)
    return len(text).to_bytes(8, "little") + text


def _header_of(data: memoryview) -> memoryview:
    return data[: 8 + int.from_bytes(data[:8], "little")]


def _bytes_of(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _part_digests(data: memoryview) -> list[str]:
    """SHA-256 of each _PART_BYTES of a mapped file, whose pages are let go at once."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda start: _part_digest(data, start), range(0, len(data), _PART_BYTES)))


def _part_digest(data: memoryview, start: int) -> str:
    part = data[start : start + _PART_BYTES]
    digest = _sha256(part)
    if isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        data.obj.madvise(mmap.MADV_DONTNEED, start, len(part))
    return digest


def _digest_once(data: np.ndarray) -> str:
    """SHA-256 of a mapped tensor whose pages are let go at once: reading it shall not double the model's memory."""
    digest = _sha256(_bytes_of(data))
    let_pages_go(data)
    return digest


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
