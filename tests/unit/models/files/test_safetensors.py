"""safetensors: what is honest opens as written, what lies is refused naming the file (reliability W01-W10)."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.models.files.writing import entry, safetensors_bytes, with_header, write
from tripos.errors import ModelRefused
from tripos.models.files.safetensors import check_finite, open_checkpoint, read_safetensors

GOOD = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.float16([1, 2]), "c.scalar": np.int64(7)}
LARGE = 1 << 63

LIES = {
    "W01 empty": b"",
    "W01 seven bytes": bytes(7),
    "W01 header of 0": bytes(8),
    "W01 header of 2^63": struct.pack("<Q", LARGE) + b"{}",
    "W01 header over 100 MB": struct.pack("<Q", 100_000_001) + b"{}",
    "W01 header beyond the file": struct.pack("<Q", 3) + b"{}",
    "W02 not UTF-8": with_header(b'{"\xff":1}'),
    "W02 not JSON": with_header(b"{nonsense"),
    "W02 array root": with_header(b"[]"),
    "W02 depth 3000": with_header(b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"}"),
    "W03 overlap": with_header(
        b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}',
        bytes(6),
    ),
    "W03 hole": with_header(b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}', bytes(6)),
    "W03 end before start": entry(data_offsets=[16, 0]),
    "W03 past the end": entry(data_offsets=[0, 32], shape=[2, 4]),
    "W03 negative start": entry(data_offsets=[-16, 0]),
    "W03 trailing bytes": entry() + b"x",
    "W03 truncated": entry()[:-1],
    "W04 shape and span differ": entry(shape=[2, 3]),
    "W04 product overflows": entry(shape=[1 << 40, 1 << 40, 1 << 40]),
    "W04 negative": entry(shape=[-2, -2]),
    "W04 bool for a number": entry(shape=[True, 4]),
    "W04 float for a number": entry(shape=[2.0, 2.0]),
    "W04 rank 100": entry(shape=[1] * 100),
    "W05 unknown dtype": entry(dtype="F4"),
    "W05 dtype of another type": entry(dtype=["F32"]),
    "W05 metadata of numbers": safetensors_bytes(GOOD, {"format": 1}),
    "W05 leading space": with_header(b' {"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
    "W05 extra field": entry(more=1),
    "W06 duplicate": with_header(
        b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
    ),
    "W09 pickle": pickle.dumps({"a": 1}) + bytes(16),
}
BAD_NAMES = ["../../x", "/etc/passwd", "a\0b", "x" * (1 << 20), "a\u202eb", "", ".", "a..b", "a b", "é"]


@pytest.mark.parametrize("data", LIES.values(), ids=LIES.keys())
def test_lying_file_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = write(tmp_path / "model.safetensors", data)
    with pytest.raises(ModelRefused, match=r"model\.safetensors"):
        read_safetensors(path)


@pytest.mark.parametrize("name", BAD_NAMES, ids=lambda name: ascii(name[:12]))
def test_tensor_name_that_is_no_dotted_word_is_refused(tmp_path: Path, name: str) -> None:
    header = json.dumps({name: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    path = write(tmp_path / "model.safetensors", with_header(header, b"x"))
    with pytest.raises(ModelRefused, match="tensor name"):
        read_safetensors(path)


def test_zip_under_a_false_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.safetensors", "w") as archive:
        archive.writestr("data.pkl", "x")
    with pytest.raises(ModelRefused, match="zip or pickle"):
        open_checkpoint(tmp_path)


def test_tensors_come_back_as_written(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", safetensors_bytes(GOOD, {"format": "pt"}))
    checkpoint = open_checkpoint(path)
    assert list(checkpoint) == list(GOOD)
    for name, array in GOOD.items():
        np.testing.assert_array_equal(checkpoint[name].data, array)
        assert checkpoint[name].shape == array.shape
    assert checkpoint["b"].dtype == "f16"
    checkpoint.close()
    assert len(checkpoint) == 0


def test_unaligned_tensor_is_read_right(tmp_path: Path) -> None:
    tensors = {"odd": np.uint8([1]), "after": np.float32([1.5, -2.5])}
    checkpoint = open_checkpoint(write(tmp_path / "model.safetensors", safetensors_bytes(tensors)))
    assert checkpoint["after"].data.tolist() == [1.5, -2.5]
    assert checkpoint["after"].data.flags.aligned


@pytest.mark.parametrize(("dtype", "ours", "width"), [("BF16", "bf16", 2), ("F8_E4M3", "f8_e4m3", 1)])
def test_types_that_numpy_lacks_come_as_their_bits(tmp_path: Path, dtype: str, ours: str, width: int) -> None:
    header = json.dumps({"t": {"dtype": dtype, "shape": [3], "data_offsets": [0, 3 * width]}}).encode()
    path = write(tmp_path / "model.safetensors", with_header(header, bytes(range(3 * width))))
    tensor = open_checkpoint(path)["t"]
    assert (tensor.dtype, tensor.data.itemsize, tensor.data.tobytes()) == (ours, width, bytes(range(3 * width)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_value_that_is_not_finite_is_found(tmp_path: Path, value: float, dtype: type) -> None:
    array = np.zeros(1000, dtype)
    array[777] = value
    checkpoint = open_checkpoint(write(tmp_path / "m.safetensors", safetensors_bytes({"w": array})))
    with pytest.raises(ModelRefused, match="tensor w: value 777"):
        check_finite(checkpoint)


def test_finite_weights_pass(tmp_path: Path) -> None:
    array = np.float32([0, 3.4e38, -3.4e38, 1e-45])
    check_finite(open_checkpoint(write(tmp_path / "m.safetensors", safetensors_bytes({"w": array}))))


def shards(folder: Path, weight_map: dict[str, str]) -> Path:
    write(folder / "model-1-of-2.safetensors", safetensors_bytes({"a": np.float32([1])}))
    write(folder / "model-2-of-2.safetensors", safetensors_bytes({"b": np.float32([2])}))
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return folder


HONEST = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(shards(tmp_path, HONEST))
    assert {name: tensor.data.tolist() for name, tensor in checkpoint.items()} == {"a": [1.0], "b": [2.0]}


@pytest.mark.parametrize(
    "weight_map",
    [
        {},
        {"a": "model-1-of-2.safetensors"},  # a shard that is not listed
        {**HONEST, "c": "model-2-of-2.safetensors"},  # a tensor that is in no shard
        {**HONEST, "c": "model-3-of-2.safetensors"},  # a shard that is missing
        {"a": "model-2-of-2.safetensors", "b": "model-1-of-2.safetensors"},  # the wrong way round
        {**HONEST, "b": "../model-2-of-2.safetensors"},
        {**HONEST, "b": "/model-2-of-2.safetensors"},
        {**HONEST, "b": "model-2-of-2.bin"},
        {**HONEST, "b": 2},
    ],
)
def test_index_that_lies_is_refused(tmp_path: Path, weight_map: dict[str, str]) -> None:
    with pytest.raises(ModelRefused):
        open_checkpoint(shards(tmp_path, weight_map))


def test_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    shards(tmp_path, HONEST)
    write(tmp_path / "model-2-of-2.safetensors", safetensors_bytes({"b": np.float32([2]), "a": np.float32([3])}))
    with pytest.raises(ModelRefused, match="model-2-of-2"):
        open_checkpoint(tmp_path)


def test_two_checkpoints_in_one_folder_are_refused(tmp_path: Path) -> None:
    shards(tmp_path, HONEST)
    write(tmp_path / "model.safetensors", safetensors_bytes({"a": np.float32([1])}))
    with pytest.raises(ModelRefused, match="remove the one that is stale"):
        open_checkpoint(tmp_path)


def test_pickled_weights_are_refused_saying_why(tmp_path: Path) -> None:
    write(tmp_path / "pytorch_model.bin", b"anything")
    with pytest.raises(ModelRefused, match=r"pytorch_model\.bin: pickled weights can run code"):
        open_checkpoint(tmp_path)


def test_directory_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(ModelRefused, match=r"model\.safetensors: cannot be read"):
        open_checkpoint(tmp_path)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_mutated_file_opens_or_is_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    raw = bytearray(safetensors_bytes(GOOD))
    for _ in range(data.draw(st.integers(1, 8))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    path = write(tmp_path_factory.getbasetemp() / "fuzz.safetensors", bytes(raw[:size]))
    try:
        tensors = read_safetensors(path)
    except ModelRefused:
        return
    assert sum(tensor.data.nbytes for tensor in tensors.values()) <= size
