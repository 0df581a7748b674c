"""What a user may type opens, with every part checked against the others (reliability W30, W31, W33, W36, W37)."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.models.files.writing import (
    ARRAY,
    F32,
    I32,
    LLAMA_CONFIG,
    STRING,
    U32,
    gguf_model,
    model_folder,
    numbers,
    pair,
    safetensors_bytes,
    strings,
    text,
    u32,
    write,
)  # fmt: skip
from tripos.errors import EnvironmentProblem, ModelRefused
from tripos.models.files.generation import GenerationDefaults, parse_generation
from tripos.models.files.source import open_source
from tripos.types import Message


def test_directory_opens_as_a_model(tmp_path: Path) -> None:
    source = open_source(str(model_folder(tmp_path)))
    assert source.name == tmp_path.name
    assert source.config == LLAMA_CONFIG
    assert list(source.weights) == ["model.embed_tokens.weight"]
    assert (source.tokenizer.bos_id, source.tokenizer.eos_ids) == (256, {257})
    assert (source.generation, source.notes) == (GenerationDefaults(), ())
    source.close()


def test_a_wrong_tokenizer_is_told_when_it_is_opened_or_asked_for(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelRefused, match=r"tokenizer\.json"):
        open_source(str(folder))
    source = open_source(str(folder), is_patient=False)
    for _ in range(2):
        with pytest.raises(ModelRefused, match=r"tokenizer\.json"):
            source.tokenizer  # noqa: B018  raises
    source.close()


def test_end_tokens_of_all_files_count(tmp_path: Path) -> None:
    files = {"config__json": {**LLAMA_CONFIG, "eos_token_id": [1, 2]}, "generation_config__json": {"eos_token_id": 3}}
    assert open_source(str(model_folder(tmp_path, **files))).tokenizer.eos_ids == {1, 2, 3, 257}


def test_model_without_an_end_token_loads_and_says_so(tmp_path: Path) -> None:
    config = {key: value for key, value in LLAMA_CONFIG.items() if key != "eos_token_id"} | {"eos_token_id": []}
    source = open_source(str(model_folder(tmp_path, config__json=config, tokenizer_config__json={})))
    assert source.tokenizer.eos_ids == frozenset()
    assert "no end-of-sequence token" in source.notes[0]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer_config__json": {"chat_template": "A"}}, "A"),
        ({"tokenizer_config__json": {"chat_template": [{"name": "default", "template": "B"}]}}, "B"),
        ({"tokenizer_config__json": {"chat_template": "A"}, "chat_template__jinja": "C"}, "C"),
        ({}, None),
    ],
)
def test_template_is_found_where_models_keep_it(tmp_path: Path, files: dict[str, Any], expected: str | None) -> None:
    assert open_source(str(model_folder(tmp_path, **files))).tokenizer.template_source == expected


DEFAULT, WITH_TOOLS = "{{ messages[0].content }}", '{{ tools | length }}{{ messages[0].content }}{{ "<tool_call>" }}'
NAMED = [{"name": "default", "template": DEFAULT}, {"name": "tool_use", "template": WITH_TOOLS}]
MORE = "additional_chat_templates/"
TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config.json": {"chat_template": NAMED}},
        {"chat_template.jinja": DEFAULT, MORE + "tool_use.jinja": WITH_TOOLS, MORE + "rag.jinja": "{% for %}"},
        {"tokenizer_config.json": {"chat_template": DEFAULT}, MORE + "tool_use.jinja": WITH_TOOLS},
    ],
    ids=["a list", "files", "a file beside the default"],
)
def test_a_template_for_tools_is_used_when_tools_are_given(tmp_path: Path, files: dict[str, Any]) -> None:
    (tmp_path / MORE).mkdir()
    source = open_source(str(model_folder(tmp_path, **files)))
    talk = [Message(role="user", content="hi")]
    assert source.tokenizer.decode(source.tokenizer.encode_chat(talk)) == "hi"
    assert source.tokenizer.decode(source.tokenizer.encode_chat(talk, TOOLS)) == "1hi<tool_call>"
    other = tmp_path / "other"
    other.mkdir()
    again = open_source(str(model_folder(other, **source.files())))
    assert again.tokenizer.tool_template_source == WITH_TOOLS
    assert again.tokenizer.template_source == DEFAULT


def test_a_template_for_tools_is_part_of_what_a_model_is(tmp_path: Path) -> None:
    digests = set()
    for i, template in enumerate((None, WITH_TOOLS, WITH_TOOLS + " ")):
        named = NAMED[:1] + ([{"name": "tool_use", "template": template}] if template else [])
        folder = tmp_path / str(i)
        folder.mkdir()
        files: dict[str, Any] = {"tokenizer_config.json": {"chat_template": named}}
        digests.add(open_source(str(model_folder(folder, **files))).digest)
    assert len(digests) == 3


def test_code_in_the_folder_is_ignored_and_reported(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folder = tmp_path / "model"
    folder.mkdir()
    code = f"open({str(marker)!r}, 'w')"
    model_folder(folder, config__json={**LLAMA_CONFIG, "auto_map": {"AutoModel": "modeling.Model"}}, modeling__py=code)
    write(folder / "pytorch_model.bin", b"\x80\x04cos\nsystem\n")
    notes = "\n".join(open_source(str(folder)).notes)
    assert "auto_map" in notes
    assert "modeling.py: never read" in notes
    assert "pytorch_model.bin: never read" in notes
    assert not marker.exists()


LIES: dict[str, tuple[dict[str, Any], str]] = {
    "config missing": ({"config__json": b""}, r"config\.json"),
    "config array": ({"config__json": b"[]"}, r"config\.json"),
    "config NaN": ({"config__json": b'{"a": NaN}'}, r"config\.json"),
    "config deep": ({"config__json": b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"}, r"config\.json"),
    "config duplicate": ({"config__json": b'{"a": 1, "a": 2}'}, r"config\.json"),
    "eos of another type": ({"config__json": {**LLAMA_CONFIG, "eos_token_id": "2"}}, "eos_token_id"),
    "eos out of range": (
        {"config__json": {**LLAMA_CONFIG, "eos_token_id": 10**6}},
        "token_id is 1000000; expected token ids from 0",
    ),
    "bos that is no token": ({"tokenizer_config__json": {"bos_token": "<none>"}}, "bos_token"),
    "tokenizer larger than the embedding": ({"config__json": {**LLAMA_CONFIG, "vocab_size": 257}}, "vocab_size is 257"),
    "template does not compile": ({"chat_template__jinja": "{% for %}"}, "does not compile"),
    "template not UTF-8": ({"chat_template__jinja": b"\xff"}, r"chat_template\.jinja"),
    "template of another type": ({"tokenizer_config__json": {"chat_template": 3}}, "chat_template"),
    "template for tools does not compile": (
        {"tokenizer_config__json": {"chat_template": [NAMED[0], {"name": "tool_use", "template": "{% for %}"}]}},
        "chat_template tool_use",
    ),
    "template for tools of another type": (
        {"tokenizer_config__json": {"chat_template": [NAMED[0], {"name": "tool_use", "template": 3}]}},
        "no string",
    ),
    "no default template": ({"tokenizer_config__json": {"chat_template": [{"name": "x", "template": ""}]}}, "default"),
    "temperature": ({"generation_config__json": {"temperature": -1}}, r"generation_config\.json: temperature"),
}


@pytest.mark.parametrize(("files", "named"), LIES.values(), ids=LIES.keys())
def test_lying_directory_is_refused_naming_file_and_field(tmp_path: Path, files: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelRefused, match=named):
        open_source(str(model_folder(tmp_path, **files)))


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    (model_folder(tmp_path) / missing).unlink()
    with pytest.raises(ModelRefused, match=missing.replace(".", r"\.")):
        open_source(str(tmp_path))


SPM_TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]


def gguf(folder: Path, *extra: bytes, tokens: list[str] = SPM_TOKENS) -> Path:
    kinds = [2, 3, 3, *[6] * 256, 1, 1, 1]
    pairs = [
        pair("tokenizer.ggml.model", STRING, text("llama")),
        pair("tokenizer.ggml.tokens", ARRAY, strings(tokens)),
        pair("tokenizer.ggml.scores", ARRAY, numbers(F32, [0.0] * 259 + [-1.0, -2.0, -0.5])),
        pair("tokenizer.ggml.token_type", ARRAY, numbers(I32, kinds)),
        pair("tokenizer.ggml.bos_token_id", U32, u32(1)),
        pair("tokenizer.ggml.eos_token_id", U32, u32(2)),
        *(pair(f"llama.{key}", U32, u32(value)) for key, value in {
            "embedding_length": 4, "block_count": 1, "attention.head_count": 2, "context_length": 8,
            "feed_forward_length": 8,
        }.items()),
        *extra,
    ]  # fmt: skip
    tensors = {"token_embd.weight": np.ones((len(SPM_TOKENS), 4), np.float32)}
    return write(folder / "small.gguf", gguf_model("llama", pairs, tensors))


def test_gguf_opens_as_a_model(tmp_path: Path) -> None:
    template = pair("tokenizer.chat_template", STRING, text("{{ bos_token }}{{ messages[0].content }}"))
    source = open_source(str(gguf(tmp_path, template)))
    assert source.name == "small"
    assert source.config["vocab_size"] == len(SPM_TOKENS)
    assert source.tokenizer.encode("a a") == [1, 261, 261]
    assert source.tokenizer.encode_chat([Message(role="user", content="a")]) == [1, 261]
    assert source.tokenizer.eos_ids == {2}


@pytest.mark.parametrize("end", ["<|eot_id|>", "<end_of_turn>", "<|im_end|>", "<|end|>"])
def test_token_that_only_its_text_makes_an_end_ends_the_turn(tmp_path: Path, end: str) -> None:
    source = open_source(str(gguf(tmp_path, tokens=[*SPM_TOKENS[:-1], end])))
    assert source.tokenizer.eos_ids == {2, 261}
    assert f"small.gguf: answers end at {end} too, known by its text" in source.notes


def test_every_key_that_names_an_end_counts(tmp_path: Path) -> None:
    keys = {"eot": 3, "eom": 4, "fim_pad": 5, "fim_rep": 6, "fim_sep": 7}
    pairs = [pair(f"tokenizer.ggml.{key}_token_id", U32, u32(id)) for key, id in keys.items()]
    assert open_source(str(gguf(tmp_path, *pairs))).tokenizer.eos_ids == {2, 3, 4, 5, 6, 7}


def test_gguf_recommends_as_generation_config_does(tmp_path: Path) -> None:
    keys = {"temp": 0.5, "top_p": 0.75, "penalty_repeat": 1.25, "mirostat_tau": 5.0, "xtc_probability": 0.5}
    pairs = [pair(f"general.sampling.{key}", F32, struct.pack("<f", value)) for key, value in keys.items()]
    source = open_source(str(gguf(tmp_path, *pairs, pair("general.sampling.top_k", I32, struct.pack("<i", 20)))))
    assert source.generation == GenerationDefaults(temperature=0.5, top_p=0.75, top_k=20, repetition_penalty=1.25)
    assert "small.gguf: general.sampling.xtc_probability is '0.5', which is not honoured" in source.notes
    with pytest.raises(ModelRefused, match=r"small\.gguf: general\.sampling: top_p"):
        open_source(str(gguf(tmp_path, pair("general.sampling.top_p", F32, struct.pack("<f", 2.0)))))


def test_what_the_makers_say_is_written_beside_packed_weights(tmp_path: Path) -> None:
    generation = {
        "do_sample": False, "max_new_tokens": 9, "bad_words_ids": [[1, 2]], "sequence_bias": [[[3], -1.5]],
        "suppress_tokens": [4], "no_repeat_ngram_size": 3, "min_length": 2,
    }  # fmt: skip
    source = open_source(str(model_folder(tmp_path, generation_config__json=generation)))
    written = json.loads(source.files()["generation_config.json"])
    assert parse_generation(written) == source.generation


def test_a_gguf_may_hold_a_template_for_tools(tmp_path: Path) -> None:
    default = pair("tokenizer.chat_template", STRING, text(DEFAULT))
    for_tools = pair("tokenizer.chat_template.tool_use", STRING, text("{{ tools | length }}a"))
    tokenizer = open_source(str(gguf(tmp_path, default, for_tools))).tokenizer
    talk = [Message(role="user", content="b")]
    assert tokenizer.decode(tokenizer.encode_chat(talk, TOOLS)) == "1a"
    assert tokenizer.decode(tokenizer.encode_chat(talk)) == "b"


def test_template_of_a_gguf_cannot_run_code(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    attack = f"{{{{ cycler.__init__.__globals__.os.system('touch {marker}') }}}}"
    source = open_source(str(gguf(tmp_path, pair("tokenizer.chat_template", STRING, text(attack)))))
    with pytest.raises(Exception, match="chat template fails"):
        source.tokenizer.encode_chat([Message(role="user", content="a")])
    assert not marker.exists()


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        (pair("tokenizer.chat_template", U32, u32(1)), "chat_template"),
        (pair("tokenizer.ggml.eot_token_id", U32, u32(10**6)), "token_id is 1000000; expected token ids from 0"),
        (pair("tokenizer.ggml.unknown_token_id", U32, u32(10**6)), "unknown_token_id"),
        (pair("tokenizer.ggml.add_bos_token", U32, u32(1)), "add_bos_token"),
    ],
)
def test_lying_gguf_vocabulary_is_refused_by_key(tmp_path: Path, extra: bytes, named: str) -> None:
    with pytest.raises(ModelRefused, match=named):
        open_source(str(gguf(tmp_path, extra)))


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("nowhere", "no such model"),
        ("weights.bin", "pickled weights can run code"),
        ("model.pt", "pickled weights can run code"),
        ("absent.gguf", r"absent\.gguf: cannot be read"),
        ("model.safetensors", "name the directory"),
        ("hf:noslash", "expected hf:org/name"),
        ("hf:../../etc/passwd", "expected hf:org/name"),
        ("demo:nothing", "ships no such model"),
        ("demo:../x", "no such model"),
    ],
)
def test_what_is_no_model_is_refused_with_the_next_step(spec: str, named: str) -> None:
    with pytest.raises(ModelRefused, match=named):
        open_source(spec)


def test_name_on_the_hub_is_told_how_to_be_given() -> None:
    with pytest.raises(ModelRefused, match=r"^Qwen/Qwen3-0\.6B: no such directory; .* say hf:Qwen/Qwen3-0\.6B$"):
        open_source("Qwen/Qwen3-0.6B")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "model.safetensors", "generation_config.json", "tokenizer_config.json",
             "chat_template.jinja", "model.safetensors.index.json"],
)  # fmt: skip
def test_pointer_in_place_of_any_file_says_what_to_run(tmp_path: Path, name: str) -> None:
    model_folder(tmp_path)
    if name.endswith("index.json"):
        (tmp_path / "model.safetensors").unlink()
    write(tmp_path / name, POINTER)
    with pytest.raises(ModelRefused, match=rf"^{name}: is a Git LFS pointer, not the file itself: run git lfs pull"):
        open_source(str(tmp_path))


def test_pointer_in_place_of_a_gguf_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"^m\.gguf: is a Git LFS pointer"):
        open_source(str(write(tmp_path / "m.gguf", POINTER)))


def test_directory_of_gguf_files_names_the_one_to_give(tmp_path: Path) -> None:
    for number in (1, 2):
        write(tmp_path / f"m-0000{number}-of-00002.gguf", b"")
    named = (
        rf"holds no config\.json but m-00001-of-00002\.gguf: give the file itself, {tmp_path}/m-00001-of-00002\.gguf$"
    )
    with pytest.raises(ModelRefused, match=named):
        open_source(str(tmp_path))
    write(tmp_path / "q.gguf", b"")
    with pytest.raises(ModelRefused, match=r"m-00001-of-00002\.gguf, or another of 2$"):
        open_source(str(tmp_path))


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (["inner/config.json"], r"its directory inner does: give .*/inner$"),
        (["model.safetensors"], r"beside model\.safetensors: put the model's own there"),
        ([], "is it the right place"),
    ],
)
def test_directory_that_is_no_model_says_what_it_holds(tmp_path: Path, files: list[str], named: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, b"{}")
    with pytest.raises(ModelRefused, match=rf"holds no config\.json.*{named}"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json", "tekken.json"])
def test_tokenizer_of_another_kind_says_how_to_make_ours(tmp_path: Path, name: str) -> None:
    (model_folder(tmp_path) / "tokenizer.json").unlink()
    write(tmp_path / name, b"\0")
    with pytest.raises(
        ModelRefused, match=rf"tokenizer\.json: is missing, and {name} alone is not read: .*AutoTokenizer"
    ):
        open_source(str(tmp_path))


def test_hub_that_cannot_be_reached_is_a_problem_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match="not in the local cache"):
        open_source("hf:org/name@main")


def test_digest_is_the_same_for_one_file_and_for_shards(tmp_path: Path) -> None:
    (one := tmp_path / "one").mkdir()
    (many := tmp_path / "many").mkdir()
    a, b = np.ones((258, 4), np.float32), np.arange(4, dtype=np.float32)
    model_folder(one, model__safetensors=safetensors_bytes({"a": a, "b": b}))
    (model_folder(many) / "model.safetensors").unlink()
    write(many / "model-1-of-2.safetensors", safetensors_bytes({"b": b}))
    write(many / "model-2-of-2.safetensors", safetensors_bytes({"a": a}))
    shard_of = {"a": "model-2-of-2.safetensors", "b": "model-1-of-2.safetensors"}
    write(many / "model.safetensors.index.json", {"weight_map": shard_of})
    assert open_source(str(one)).digest == open_source(str(many)).digest


def test_importing_sources_loads_no_heavy_package() -> None:
    heavy = ("tokenizers", "jinja2", "huggingface_hub")
    code = f"import sys, tripos.models.files.source; print([name for name in {heavy} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_published_model_opens(shared_data: Callable[[str], Path]) -> None:
    source = open_source(str(shared_data("lm/stories260K/derived-hf")))
    assert (source.tokenizer.bos_id, source.tokenizer.eos_ids, source.tokenizer.vocab_size) == (1, {2}, 512)
    assert len(source.weights) == 47
