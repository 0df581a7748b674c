"""GGUF: what is honest opens typed, what lies is refused naming the file and the field (reliability W11-W17)."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models.files.writing import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U8,
    U32,
    U64,
    gguf_bytes,
    numbers,
    pair,
    strings,
    tensor_info,
    text,
    u32,
    write,
)  # fmt: skip
from tripos.errors import ModelRefused
from tripos.models.files.gguf import read_gguf

ONE = tensor_info("t", [4])
DATA = np.float32([1, 2, 3, 4]).tobytes()
HUGE = 1 << 62


def array_of(type_id: int, count: int, raw: bytes = b"") -> bytes:
    return pair("a", ARRAY, struct.pack("<IQ", type_id, count) + raw)


LIES = {
    "W11 empty": b"",
    "W11 magic only": b"GGUF",
    "W11 bad magic": b"GGML" + bytes(40),
    "W11 version 0": gguf_bytes([], version=0),
    "W11 version 2^31": gguf_bytes([], version=1 << 31),
    "W11 byte-swapped": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "W12 metadata count 2^63": gguf_bytes([], num_pairs=1 << 63),
    "W12 tensor count 2^60": gguf_bytes([], num_tensors=1 << 60),
    "W12 more pairs than there are": gguf_bytes([], num_pairs=60_000),
    "W13 key of 2^62": gguf_bytes([struct.pack("<Q", HUGE)], num_pairs=1),
    "W13 string of 2^62": gguf_bytes([pair("a", STRING, struct.pack("<Q", HUGE))]),
    "W14 numbers 2^62": gguf_bytes([array_of(F32, HUGE)]),
    "W14 strings 2^62": gguf_bytes([array_of(STRING, HUGE)]),
    "W14 a string beyond the file": gguf_bytes([array_of(STRING, 2, text("x") + struct.pack("<Q", HUGE))]),
    "W14 a string of 2^64-1": gguf_bytes([array_of(STRING, 2, struct.pack("<Q", (1 << 64) - 1) + text("x"))]),
    "W14 nested 3000": gguf_bytes([pair("a", ARRAY, struct.pack("<IQ", ARRAY, 1) * 3000)]),
    "W15 value type 99": gguf_bytes([pair("a", 99, bytes(8))]),
    "W15 array of type 99": gguf_bytes([array_of(99, 1, bytes(8))]),
    "W15 bool 7": gguf_bytes([pair("a", BOOL, b"\7")]),
    "W15 bool 7 in an array": gguf_bytes([pair("a", ARRAY, numbers(BOOL, [0, 7]))]),
    "W15 key not UTF-8": gguf_bytes([pair(b"\xff\xfe", U32, u32(1))]),
    "W15 string not UTF-8": gguf_bytes([pair("a", STRING, text(b"\xff"))]),
    "W15 array string not UTF-8": gguf_bytes([array_of(STRING, 1, text(b"\xff"))]),
    "W15 duplicate key": gguf_bytes([pair("a", U32, u32(1))] * 2),
    "W16 dimensions 99": gguf_bytes([], [text("t") + struct.pack("<I", 99) + bytes(900)], DATA),
    "W16 dimensions 0": gguf_bytes([], [tensor_info("t", [])], DATA),
    "W16 dimension of 0": gguf_bytes([], [tensor_info("t", [0])], DATA),
    "W16 dimensions overflow": gguf_bytes([], [tensor_info("t", [1 << 40, 1 << 40])], DATA),
    "W16 offset unaligned": gguf_bytes([], [tensor_info("t", [4], offset=4)], DATA + bytes(64)),
    "W16 offset past the end": gguf_bytes([], [tensor_info("t", [4], offset=32)], DATA),
    "W16 offset 2^63": gguf_bytes([], [tensor_info("t", [4], offset=1 << 63)], DATA),
    "W16 overlap": gguf_bytes([], [tensor_info("t", [16]), tensor_info("s", [4], offset=32)], bytes(64)),
    "W16 data truncated": gguf_bytes([], [ONE], DATA)[:-1],
    **{
        f"W16 alignment {value}": gguf_bytes([pair("general.alignment", U32, u32(value))], [ONE], DATA)
        for value in (0, 3, 1 << 31)
    },
    "W16 alignment of another type": gguf_bytes([pair("general.alignment", STRING, text("32"))], [ONE], DATA),
    "W17 tensor type 999": gguf_bytes([], [tensor_info("t", [4], 999)], DATA),
    "W17 no multiple of a block": gguf_bytes([], [tensor_info("t", [33], 8)], bytes(100)),
    "W17 duplicate tensor": gguf_bytes([], [ONE, ONE], DATA),
    "W17 name with a path": gguf_bytes([], [tensor_info("../t", [4])], DATA),
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES.keys())
def test_lying_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "lie.gguf", data)
    with pytest.raises(ModelRefused, match=r"lie\.gguf"):
        read_gguf(path)


def test_version_1_is_refused_saying_what_to_do(tmp_path: Path) -> None:
    path = write(tmp_path / "old.gguf", gguf_bytes([], version=1))
    with pytest.raises(ModelRefused, match=r"GGUF version 1; versions 2 and 3 are supported: convert the model again"):
        read_gguf(path)


def test_published_version_1_file_is_refused(shared_data) -> None:
    with pytest.raises(ModelRefused, match="version 1"):
        read_gguf(shared_data("lm/stories260K/tinyllamas-stories-260k-f32.gguf"))


@pytest.mark.parametrize("version", [2, 3])
def test_metadata_comes_back_typed(tmp_path: Path, version: int) -> None:
    pairs = [
        pair("small", U8, b"\7"), pair("large", U64, struct.pack("<Q", HUGE)),
        pair("real", F32, struct.pack("<f", 0.5)),
        pair("yes", BOOL, b"\1"), pair("word", STRING, text("né")), pair("words", ARRAY, strings(["a", "", "b\0c"])),
        pair("numbers", ARRAY, numbers(I32, [-1, 2])), pair("flags", ARRAY, numbers(BOOL, [1, 0])),
        pair("none", ARRAY, strings([])),
    ]  # fmt: skip
    metadata = read_gguf(write(tmp_path / "m.gguf", gguf_bytes(pairs, version=version))).metadata
    assert metadata.pop("numbers").tolist() == [-1, 2]
    assert metadata.pop("flags").tolist() == [True, False]
    assert metadata == {
        "small": 7, "large": HUGE, "real": 0.5, "yes": True, "word": "né", "words": ["a", "", "b\0c"], "none": [],
    }  # fmt: skip


def test_tensors_come_with_their_slowest_axis_first(tmp_path: Path) -> None:
    infos = [tensor_info("w", [3, 2]), tensor_info("q", [64, 1], 8, 32)]
    data = np.arange(6, dtype=np.float32).tobytes() + bytes(8) + bytes(range(68))
    tensors = read_gguf(write(tmp_path / "m.gguf", gguf_bytes([], infos, data))).tensors
    assert tensors["w"].data.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert (tensors["q"].dtype, tensors["q"].shape) == ("q8_0", (1, 64))
    assert tensors["q"].data.tobytes() == bytes(range(68))


def test_alignment_of_the_file_is_kept(tmp_path: Path) -> None:
    head = gguf_bytes([pair("general.alignment", U32, u32(64))], [ONE])
    path = write(tmp_path / "m.gguf", head + bytes(-len(head) % 64) + DATA)
    assert read_gguf(path).tensors["t"].data.tolist() == [1, 2, 3, 4]


GOOD = gguf_bytes(
    [pair("k", U32, u32(1)), pair("words", ARRAY, strings(["a", "b"])), pair("n", ARRAY, numbers(F32, [1, 2]))],
    [ONE, tensor_info("q", [32], 8, 32)],
    DATA + bytes(16) + bytes(34),
)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_mutated_file_opens_or_is_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.sampled_from([0, 1, 9, 127, 128, 255]))
    size = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    path = write(tmp_path_factory.getbasetemp() / "fuzz.gguf", bytes(raw[:size]))
    try:
        file = read_gguf(path)
    except ModelRefused:
        return
    assert sum(tensor.data.nbytes for tensor in file.tensors.values()) <= size
