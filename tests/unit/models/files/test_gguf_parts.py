"""A GGUF that was split is one model again, or the part that is missing is named."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from tests.unit.models.files.writing import I32, U32, gguf_bytes, pair, tensor_info, u32, write
from tripos.errors import ModelRefused
from tripos.models.files.gguf import read_gguf

U16 = 2
A, B = np.float32([1, 2, 3, 4]), np.float32([5, 6, 7, 8])


def part(place: int, count: int, *tensors: tuple[str, np.ndarray], total: int | None = None) -> bytes:
    pairs = [pair("split.no", U16, struct.pack("<H", place)), pair("split.count", U16, struct.pack("<H", count))]
    if place == 0:
        pairs.append(pair("llama.block_count", U32, u32(1)))
    if total is not None:
        pairs.append(pair("split.tensors.count", I32, struct.pack("<i", total)))
    infos = [tensor_info(name, [4], 0, 32 * at) for at, (name, _) in enumerate(tensors)]
    return gguf_bytes(pairs, infos, b"".join(array.tobytes() + bytes(16) for _, array in tensors))


def split(folder: Path, first: bytes, second: bytes | None) -> Path:
    if second is not None:
        write(folder / "m-00002-of-00002.gguf", second)
    return write(folder / "m-00001-of-00002.gguf", first)


def test_all_parts_are_read_where_the_first_is_given(tmp_path: Path) -> None:
    gguf = read_gguf(split(tmp_path, part(0, 2, ("a", A), total=2), part(1, 2, ("b", B), total=2)))
    assert {name: tensor.data.tolist() for name, tensor in gguf.tensors.items()} == {"a": A.tolist(), "b": B.tolist()}
    assert (gguf.metadata["llama.block_count"], gguf.num_parts) == (1, 2)


def test_second_part_names_the_first(tmp_path: Path) -> None:
    split(tmp_path, part(0, 2, ("a", A)), part(1, 2, ("b", B)))
    with pytest.raises(ModelRefused, match=r"is part 2 of 2: give the first, m-00001-of-00002\.gguf"):
        read_gguf(tmp_path / "m-00002-of-00002.gguf")


def test_a_model_that_was_not_split_says_so_in_either_way(tmp_path: Path) -> None:
    assert read_gguf(write(tmp_path / "m.gguf", part(0, 0, ("a", A)))).num_parts == 1
    assert read_gguf(write(tmp_path / "m.gguf", part(0, 1, ("a", A)))).num_parts == 1


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (part(0, 2, ("a", A)), None, r"is part 1 of 2, and m-00002-of-00002\.gguf does not lie beside it"),
        (part(0, 2, ("a", A)), part(1, 3, ("b", B)), r"m-00002-of-00002\.gguf: split\.no and split\.count are not"),
        (part(0, 2, ("a", A)), part(1, 2, ("a", A)), "tensor a is in an earlier part"),
        (part(0, 2, ("a", A), total=3), part(1, 2, ("b", B)), r"split\.tensors\.count is 3, its 2 parts hold 2"),
        (part(0, 3, ("a", A)), part(1, 2, ("b", B)), "part 1 of 3, and its name does not end in -00001-of-00003"),
        (part(2, 2, ("a", A)), None, r"split\.no is 2 of split\.count 2"),
        (part(0, 60_000, ("a", A)), None, "at most 4096"),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, first: bytes, second: bytes | None, named: str
) -> None:
    with pytest.raises(ModelRefused, match=named):
        read_gguf(split(tmp_path, first, second))


def test_every_part_of_a_split_model_is_watched_while_it_is_read(tmp_path: Path) -> None:
    from tripos.models.files.gguf import files_of

    second = tmp_path / "model-00002-of-00003.gguf"
    assert [each.name for each in files_of(second)] == [f"model-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert files_of(tmp_path / "model.gguf") == [tmp_path / "model.gguf"]
    assert len(files_of(tmp_path / "model-00001-of-99999.gguf")) == 1  # more than are read
