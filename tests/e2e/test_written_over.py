"""Files of a model that are written over, while it is loaded and afterwards: real files, plans and kernels."""

from __future__ import annotations

import gc
import importlib.resources
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models.make_encoder_texts import TEXTS
from tripos import LLM, Embedder
from tripos.build.kinds import load_encoder, quantize_model
from tripos.build.language import load_model
from tripos.config import ModelOptions
from tripos.errors import ModelRefused
from tripos.runtime.native import find_library
from tripos.types import Sampling

GOLDEN = Path(__file__).parents[1] / "models"
PROMPT = [1, 5, 9]


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder / "model")
    (folder / "model").chmod(0o755)
    for path in (folder / "model").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder / "model"


def packed(source: Path, folder: Path) -> Path:
    if find_library() is None:
        pytest.skip("packing needs the native kernels")
    quantize_model(ModelOptions(source=str(source), weights="int8", threads=1), folder / "model")
    return folder / "model"


def demo_folder() -> Path:
    return Path(str(importlib.resources.files("tripos"))) / "demo" / "assistant"


def weights_of(model: Path) -> Path:
    return next(iter(model.glob("*.safetensors"))) if model.is_dir() else model


def mapped(folder: Path) -> list[str]:
    """Files below a folder that this process has mapped."""
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]


@pytest.fixture(params=["directory", "packed", "gguf"])
def model(request: pytest.FixtureRequest, tmp_path: Path, shared_data: Callable[[str], Path]) -> Path:
    if request.param == "gguf":
        copy = tmp_path / "model.gguf"
        copy.write_bytes(shared_data("lm/stories260K/derived-stories260K-f32-v3.gguf").read_bytes())
        return copy
    source = demo_folder()
    return copied(source, tmp_path) if request.param == "directory" else packed(source, tmp_path)


def test_writing_over_the_file_of_a_loaded_model_changes_no_answer(model: Path, tmp_path: Path) -> None:
    with LLM(str(model), threads=1) as llm:
        gc.collect()
        assert not mapped(tmp_path)
        before = llm.generate([PROMPT], max_tokens=8, sampling=Sampling(temperature=0.0))[0]
        path = weights_of(model)
        path.write_bytes(b"\xff" * path.stat().st_size)
        path.write_bytes(b"")
        assert llm.generate([PROMPT], max_tokens=8, sampling=Sampling(temperature=0.0))[0].token_ids == before.token_ids


@pytest.mark.parametrize("make", [copied, packed])
@pytest.mark.parametrize("name", ["bert-mean", "bert-dense"])
def test_writing_over_the_file_of_a_loaded_embedder_changes_no_vector(
    make: Callable[[Path, Path], Path], name: str, tmp_path: Path
) -> None:
    model = make(GOLDEN / "golden_encoders" / name, tmp_path)
    with Embedder(model, threads=1) as embedder:
        gc.collect()
        assert not mapped(tmp_path)
        before = embedder.embed(TEXTS[:4])
        for path in model.rglob("*.safetensors"):
            path.write_bytes(b"")
        assert (embedder.embed(TEXTS[:4]) == before).all()


def test_a_file_that_is_written_over_while_it_is_loaded_is_refused_by_name(model: Path) -> None:
    path = weights_of(model)

    def write(phase: str, done: float) -> None:
        if phase == "pack":
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            with path.open("r+b") as file:
                file.write(data)

    with pytest.raises(ModelRefused, match=rf"{path.name}: (was written over|tensor \S+ is damaged)"):
        load_model(ModelOptions(source=str(model), threads=1), write)


def test_an_embedders_file_that_is_written_over_while_it_is_loaded_is_refused_by_name(tmp_path: Path) -> None:
    model = copied(GOLDEN / "golden_encoders" / "bert-dense", tmp_path)
    path = model / "2_Dense" / "model.safetensors"
    assert path.exists()

    def write(phase: str, done: float) -> None:
        path.write_bytes(path.read_bytes())

    with pytest.raises(ModelRefused, match=r"model.safetensors: was written over"):
        load_encoder(ModelOptions(source=str(model), threads=1), write)


def test_a_file_that_is_replaced_while_it_is_loaded_is_read_to_its_end(model: Path) -> None:
    path = weights_of(model)
    other = path.with_suffix(".new")
    other.write_bytes(b"something else")

    def replace(phase: str, done: float) -> None:
        if phase == "pack" and other.exists():
            other.replace(path)

    load_model(ModelOptions(source=str(model), threads=1), replace).close()
    assert path.read_bytes() == b"something else"


LOAD = textwrap.dedent("""
    import os, sys
    from tripos.build.language import load_model
    from tripos.config import ModelOptions
    from tripos.errors import ModelRefused
    source, path = sys.argv[1:]
    def shorten(phase, done):
        if phase == "pack":
            os.truncate(path, 0)
    try:
        load_model(ModelOptions(source=source, threads=2), shorten)
    except ModelRefused as error:
        print(error.message)
""")


LOAD_SHORTENED_AND_REPLACED = LOAD.replace(
    "os.truncate(path, 0)", "os.truncate(path, 0); open(path + '.new', 'wb').close(); os.replace(path + '.new', path)"
)


@pytest.mark.skipif(find_library() is None, reason="the guard is part of the native kernels")
def test_a_file_that_is_shortened_and_then_replaced_while_it_is_loaded_is_refused(model: Path) -> None:
    script, path = LOAD_SHORTENED_AND_REPLACED, weights_of(model)
    done = subprocess.run([sys.executable, "-c", script, model, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "was shortened" in done.stdout or "is damaged" in done.stdout


def test_a_file_that_is_written_over_while_its_packed_copy_is_written_leaves_no_copy(tmp_path: Path) -> None:
    if find_library() is None:
        pytest.skip("packing needs the native kernels")
    model = copied(demo_folder(), tmp_path)

    def write(phase: str, done: float) -> None:
        if phase == "write":
            weights_of(model).write_bytes(weights_of(model).read_bytes())

    with pytest.raises(ModelRefused, match=r"was written over"):
        quantize_model(ModelOptions(source=str(model), weights="int8", threads=1), tmp_path / "packed", write)
    assert not (tmp_path / "packed").exists()


@pytest.mark.skipif(find_library() is None, reason="the guard is part of the native kernels")
def test_a_file_that_is_shortened_while_it_is_loaded_ends_no_process(model: Path) -> None:
    path = weights_of(model)
    done = subprocess.run([sys.executable, "-c", LOAD, model, path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert path.name in done.stdout
    assert "Traceback" not in done.stderr
