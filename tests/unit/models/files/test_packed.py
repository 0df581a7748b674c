"""Packed checkpoints: the same model bit for bit, and nothing that differs by a bit from what was written is loaded."""

from __future__ import annotations

import gc
import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.unit.models.files.writing import LLAMA_CONFIG, model_folder, safetensors_bytes
from tripos import LLM
from tripos.build.kinds import quantize_model
from tripos.build.language import open_model
from tripos.config import ModelOptions
from tripos.errors import ConfigError, ModelRefused, TriposError
from tripos.models.config import parse_config
from tripos.models.files.packed import MANIFEST, WEIGHTS_FILE, Manifest, open_packed
from tripos.models.files.source import open_source
from tripos.models.registry import trace
from tripos.runtime.executor import ExecutorOptions
from tripos.runtime.reference import ReferenceExecutor
from tripos.types import Sampling

FORMATS = ("auto", "fp32", "bf16", "fp16", "int8", "int4", "fp8")
LLAMA = LLAMA_CONFIG | {"hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2}
UNTIED = LLAMA | {"tie_word_embeddings": False, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2,
    "n_positions": 32, "vocab_size": 258, "bos_token_id": 256, "eos_token_id": 257,
}  # fmt: skip
PROMPT = (72, 101, 108, 108, 111, 32, 116, 104, 101, 114)


def small_model(folder: Path, config: dict[str, Any] = LLAMA) -> Path:
    """Random weights in float32; GPT-2's matrices lie [in, out], as its checkpoints have them."""
    rng = np.random.default_rng(5)
    transposed = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    tensors = {}
    for name, spec in trace(parse_config(config)).weights.items():
        values = rng.standard_normal(spec.shape).astype(np.float32) / np.float32(spec.shape[-1] ** 0.5)
        is_turned = name.endswith(transposed) and config["model_type"] == "gpt2"
        tensors[name] = np.ascontiguousarray(values.T) if is_turned else values
    folder.mkdir()
    return model_folder(folder, config__json=config, model__safetensors=safetensors_bytes(tensors))


def pack(source: Path, folder: Path, weights: str = "int8") -> Path:
    quantize_model(ModelOptions(source=str(source), weights=weights), folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_model(tmp_path_factory.mktemp("source") / "small")


@pytest.fixture(scope="module")
def packed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack(model, tmp_path_factory.mktemp("packed") / "small-int8")


def copied(packed: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in packed.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def spoken(source: Path, **options: Any) -> tuple[tuple[int, ...], list[float]]:
    with LLM(source, threads=1, max_sequences=2, **options) as llm:
        tokens = llm.generate([PROMPT], max_tokens=5, sampling=Sampling(temperature=0))[0].token_ids
        return tokens, llm.score([PROMPT])[0]


@pytest.mark.parametrize("weights", FORMATS)
def test_packed_answers_bit_for_bit_as_the_model_it_was_made_of(model: Path, tmp_path: Path, weights: str) -> None:
    assert spoken(pack(model, tmp_path / "packed", weights)) == spoken(model, weights=weights)


@pytest.mark.parametrize("config", [UNTIED, GPT2], ids=["qwen2", "gpt2"])
def test_other_families_pack_too(tmp_path: Path, config: dict[str, Any]) -> None:
    source = small_model(tmp_path / "source", config)
    assert spoken(pack(source, tmp_path / "packed")) == spoken(source, weights="int8")


@pytest.mark.parametrize("isa", ["avx2", "scalar"])
def test_the_same_bytes_on_every_instruction_set(
    model: Path, packed: Path, tmp_path: Path, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPOS_ISA", isa)
    again = pack(model, tmp_path / "again")
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in packed.iterdir()}
    assert spoken(packed) == spoken(model, weights="int8")


def test_gguf_packs_with_its_tokenizer(shared_data: Any, tmp_path: Path) -> None:
    source = shared_data("lm/stories260K/derived-stories260K-f32-v3.gguf")
    packed = pack(source, tmp_path / "packed")
    with LLM(source, weights="int8") as one, LLM(packed) as other:
        text = "Once upon a time, Lily saw a cat."
        assert one.tokenizer.encode(text) == other.tokenizer.encode(text)
        assert one.score([text]) == other.score([text])
        assert (one.tokenizer.bos_id, one.tokenizer.eos_ids) == (other.tokenizer.bos_id, other.tokenizer.eos_ids)


def test_matrices_are_views_of_the_file(packed: Path) -> None:
    panels = open_packed(packed)["model.layers.0.self_attn.q_proj.weight"].panels
    assert panels is not None
    assert panels.parts == tuple(f"model.layers.0.self_attn.{each}_proj.weight" for each in "qkv")
    assert not panels.data.flags.owndata
    assert not panels.data.flags.writeable
    assert panels.data.ctypes.data % 64 == 0


def test_digest_is_of_the_packed_model_and_tells_formats_apart(model: Path, packed: Path, tmp_path: Path) -> None:
    digests = {open_source(str(each)).digest for each in (model, packed, pack(model, tmp_path / "int4", "int4"))}
    assert len(digests) == 3
    assert open_packed(packed).manifest.source_digest == open_source(str(model)).digest


# -- what is refused ------------------------------------------------------------------------------------------------
def load(folder: Path) -> None:
    """As a server does, without the executor."""
    opened = open_model(ModelOptions(source=str(folder)))
    assert opened.source.digest


def test_any_flipped_bit_is_refused_by_the_name_of_its_file(packed: Path, tmp_path: Path) -> None:
    broken = copied(packed, tmp_path / "broken")
    rng = np.random.default_rng(7)
    for path in sorted(broken.iterdir()):
        whole = path.read_bytes()
        for at in {0, len(whole) - 1, *rng.integers(0, len(whole), 40).tolist()}:
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            with pytest.raises(ModelRefused, match=path.name.replace(".", r"\.")):
                load(broken)
        path.write_bytes(whole)
    load(broken)


def test_a_damaged_tensor_is_named(packed: Path, tmp_path: Path) -> None:
    broken = copied(packed, tmp_path / "broken")
    data = bytearray((broken / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (broken / WEIGHTS_FILE).write_bytes(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    last = max((entry["data_offsets"][1], name) for name, entry in header.items() if name != "__metadata__")[1]
    with pytest.raises(ModelRefused, match=rf"packed\.safetensors: tensor {last} is damaged .*tripos quantize"):
        load(broken)
    with pytest.raises(ModelRefused, match=last):
        LLM(broken)


def test_parts_of_the_file_that_are_not_the_written_ones_are_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match="damaged outside its tensors"):
        load(resealed(copied(packed, tmp_path / "other"), parts=("0" * 64,)))


def test_a_wrong_tokenizer_is_refused_while_weights_are_copied(packed: Path, tmp_path: Path) -> None:
    """The library does not wait for the vocabulary before it loads."""
    broken = copied(packed, tmp_path / "broken")
    data = json.dumps({"model": {"type": "Magic", "vocab": {"a": 0}}}).encode()
    (broken / "tokenizer.json").write_bytes(data)
    files = msgspec.json.decode((broken / MANIFEST).read_bytes(), type=Manifest).files
    resealed(broken, files=files | {"tokenizer.json": hashlib.sha256(data).hexdigest()})
    gc.collect()
    with pytest.raises(ModelRefused, match=r"tokenizer\.json"):
        LLM(broken)
    assert gc.isenabled()


@pytest.mark.parametrize("size", [0, 7, 4096, -1, -64])
def test_a_truncated_file_is_refused(packed: Path, tmp_path: Path, size: int) -> None:
    broken = copied(packed, tmp_path / "broken")
    data = (broken / WEIGHTS_FILE).read_bytes()
    (broken / WEIGHTS_FILE).write_bytes(data[:size])
    with pytest.raises(ModelRefused, match=r"packed\.safetensors"):
        load(broken)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS_FILE])
def test_a_missing_file_is_refused(packed: Path, tmp_path: Path, name: str) -> None:
    broken = copied(packed, tmp_path / "broken")
    (broken / name).unlink()
    with pytest.raises(ModelRefused, match=name):
        load(broken)


def test_a_file_that_was_added_is_refused(packed: Path, tmp_path: Path) -> None:
    broken = copied(packed, tmp_path / "broken")
    (broken / "chat_template.jinja").write_text("{{ messages }}")
    with pytest.raises(ModelRefused, match=r"chat_template\.jinja: does not belong"):
        load(broken)


def resealed(folder: Path, **changes: Any) -> Path:
    """A manifest that lies, with its digest put right."""
    manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    manifest = msgspec.structs.replace(manifest, **changes)
    manifest = msgspec.structs.replace(manifest, sha256=manifest.digest())
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"version": 1}, "version 1, this Tripos reads 2"), ({"panel_layout": 99}, "layout 99, these kernels read")],
)
def test_another_version_is_refused_with_the_next_step(
    packed: Path, tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelRefused, match=f"{reason}.*tripos quantize"):
        LLM(resealed(copied(packed, tmp_path / "other"), **changes))


@pytest.mark.parametrize("lie", ["shape", "format", "parts", "is_interleaved"])
def test_panels_that_do_not_fit_the_plan_are_refused_by_name(packed: Path, tmp_path: Path, lie: str) -> None:
    folder = copied(packed, tmp_path / "other")
    tensors = dict(open_packed(folder).manifest.tensors)
    name = "panels.model.layers.0.mlp.down_proj.weight"
    kind = tensors[name].panels
    assert kind is not None
    values = {"shape": (48, 96), "format": "int4", "parts": {**kind.parts, "extra.weight": 1}, "is_interleaved": True}
    wrong = msgspec.structs.replace(kind, **{lie: values[lie]})
    tensors[name] = msgspec.structs.replace(tensors[name], panels=wrong)
    with pytest.raises(ModelRefused, match="down_proj"):
        LLM(resealed(folder, tensors=tensors))


def test_a_manifest_cannot_name_files_elsewhere(packed: Path, tmp_path: Path) -> None:
    folder = copied(packed, tmp_path / "other")
    files = open_packed(folder).manifest.files | {"../small/config.json": "0"}
    with pytest.raises(ModelRefused, match=r"tripos\.json"):
        load(resealed(folder, files=files))


def test_another_format_needs_the_model_that_was_packed(packed: Path) -> None:
    with pytest.raises(ConfigError, match="packed as int8 and cannot run as int4"):
        LLM(packed, weights="int4")


def test_packing_twice_is_refused(packed: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="packed already"):
        pack(packed, tmp_path / "again", "auto")


def test_the_numpy_reference_says_what_it_needs(packed: Path) -> None:
    opened = open_model(ModelOptions(source=str(packed)))
    with pytest.raises(ModelRefused, match="packed for the native kernels"):
        ReferenceExecutor(ExecutorOptions()).load(opened.optimized(), opened.weights)


def test_nothing_is_overwritten_and_nothing_half_done_stays(model: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty directory"):
        pack(model, taken)
    damaged = small_model(tmp_path / "damaged")
    data = bytearray((damaged / "model.safetensors").read_bytes())
    data[-4:] = b"\0\0\xc0\x7f"
    (damaged / "model.safetensors").write_bytes(data)
    with pytest.raises(TriposError, match="NaN"):
        pack(damaged, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "taken"]
