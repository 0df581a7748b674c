"""What may be opened as a file, wherever a file is wanted: regular files, and nothing that blocks or does something."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.models.files.adapter_files import adapter_folder, matrices
from tests.unit.models.files.writing import STRING, gguf_model, model_folder, pair, text, write
from tripos.api.auth import read_keys
from tripos.client import _key
from tripos.config.file import read_file
from tripos.errors import ConfigError, EnvironmentProblem, ModelRefused
from tripos.models.files.lora import read_adapter
from tripos.models.files.opening import open_regular, read_bytes
from tripos.models.files.source import open_source
from tripos.plan.lora import Place

GOLDEN = Path(__file__).parents[3] / "models" / "golden_encoders" / "bert-dense"


def put_fifo(path: Path) -> None:
    os.mkfifo(path)


def put_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(path.parent)  # the names of sockets are short
        try:
            server.bind(path.name)
        finally:
            os.chdir(here)


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


PUTS: dict[str, Callable[[Path], None]] = {
    "a named pipe (FIFO)": put_fifo, "a socket": put_socket, "a device": put_device, "a directory": Path.mkdir,
}  # fmt: skip


@pytest.fixture(params=PUTS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def replace(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    PUTS[kind](path)


def test_regular_files_are_read_through_links(tmp_path: Path) -> None:
    write(tmp_path / "blob", b"content")
    (tmp_path / "link").symlink_to("blob")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"
    with pytest.raises(ModelRefused, match="link: larger than 6 bytes"):
        read_bytes(tmp_path / "link", 6)


@pytest.mark.parametrize(
    "name", ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
             "model.safetensors", "modules.json", "tripos.json"],
)  # fmt: skip
def test_no_file_of_a_model_may_be_anything_else(tmp_path: Path, kind: str, name: str) -> None:
    folder = model_folder(tmp_path)
    replace(folder / name, kind)
    with pytest.raises(ModelRefused) as refused:
        open_source(str(folder))
    assert refused.value.message == f"{name}: cannot be read (it is {kind}, expected a regular file)"


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "2_Dense/config.json", "config_sentence_transformers.json",
                                  "sentence_bert_config.json", "2_Dense/model.safetensors"])  # fmt: skip
def test_no_file_of_an_encoder_may_be_anything_else(tmp_path: Path, kind: str, name: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN, folder)
    replace(folder / name, kind)
    with pytest.raises(ModelRefused) as refused:
        open_source(str(folder))
    assert refused.value.message.endswith(f"{name}: cannot be read (it is {kind}, expected a regular file)")


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "model-00001-of-00001.safetensors"])
def test_no_shard_may_be_anything_else(tmp_path: Path, kind: str, name: str) -> None:
    folder, shard = model_folder(tmp_path), "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(folder / shard)
    write(folder / "model.safetensors.index.json", {"weight_map": {"model.embed_tokens.weight": shard}})
    replace(folder / name, kind)
    with pytest.raises(ModelRefused, match=rf"{name}: cannot be read \(it is "):
        open_source(str(folder))


def test_a_gguf_may_not_be_anything_else(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "model.gguf", gguf_model("llama", [pair("x", STRING, text("y"))], {"t": np.ones((2, 2))}))
    replace(path, kind)
    wanted = "model.gguf: holds no config.json" if kind == "a directory" else "model.gguf: cannot be read (it is "
    with pytest.raises(ModelRefused, match=re.escape(wanted)):
        open_source(str(path))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_no_file_of_an_adapter_may_be_anything_else(tmp_path: Path, kind: str, name: str) -> None:
    shapes = {"layers.0.q_proj": (4, 4), "layers.0.v_proj": (4, 4)}
    places = {f"{module}.weight": Place(module, 0, 0, shape, 16) for module, shape in shapes.items()}
    folder = adapter_folder(tmp_path, matrices(shapes))
    replace(folder / name, kind)
    with pytest.raises(ModelRefused, match=rf"{name}: cannot be read \(it is "):
        read_adapter(folder, places, max_rank=8, dtype="f32")


def test_the_service_file_and_key_files_may_not_be_anything_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    replace(path, kind)
    with pytest.raises(ConfigError, match=r"cannot be read: it is "):
        read_file(str(path))
    with pytest.raises(EnvironmentProblem, match="cannot be read"):
        read_keys(str(path))
    with pytest.raises(EnvironmentProblem, match="cannot be read"):
        _key(str(path), "admin")


def test_a_name_that_cannot_exist_is_refused_by_name(tmp_path: Path) -> None:
    for spec in ("x" * 5000, str(tmp_path / ("y" * 300 + ".gguf"))):
        with pytest.raises(ModelRefused, match=r"[xy]{80}"):
            open_source(spec)


@pytest.mark.parametrize("name", ["modules.json", "generation_config.json", "chat_template.jinja"])
def test_a_link_to_nothing_is_not_taken_for_an_absent_file(tmp_path: Path, name: str) -> None:
    (model_folder(tmp_path) / name).symlink_to("gone")
    with pytest.raises(ModelRefused, match=rf"{name}: cannot be read \(No such file"):
        open_source(str(tmp_path))
