"""What sentence-transformers directories say: served as it serves them, or refused by file and field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tripos.build.encoder import open_encoder_model
from tripos.config import ModelOptions
from tripos.errors import ModelRefused
from tripos.models.files.sentence_transformers import Modules, parse_modules
from tripos.models.files.source import open_source
from tripos.models.task import task_of
from tripos.runtime.reference import ReferenceExecutor

GOLDEN = Path(__file__).parents[3] / "models" / "golden_encoders"
LIBRARY = "sentence_transformers.base.modules"


def changed(folder: Path, name: str, file: str, change: Callable[[Any], Any]) -> Path:
    """A copy of a golden model, one of its JSON files changed."""
    shutil.copytree(GOLDEN / name, folder)
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(change(value)))
    return folder


def opened(folder: Path) -> Modules:
    options = ModelOptions(source=str(folder))
    return open_encoder_model(options, open_source(options.source), ReferenceExecutor).kind.encoder.modules


def setting(**values: Any) -> Callable[[Any], Any]:
    return lambda found: {**found, **values}


def module(kind: str, path: str = "", at: int = 99) -> Callable[[Any], Any]:
    """modules.json with one more."""
    return lambda found: [*found[:at], {"type": f"{LIBRARY}.{kind}", "path": path}, *found[at:]]


@pytest.mark.parametrize(
    "kind", ["Router", "Asym", "WeightedLayerPooling", "LayerNorm", "BoW", "CLIPModel", "CNN", "LSTM", "LogitScore",
             "WordEmbeddings", "SpladePooling"],
)  # fmt: skip
def test_modules_that_are_not_served_are_named(tmp_path: Path, kind: str) -> None:
    folder = changed(tmp_path / "m", "bert-mean", "modules.json", module(f"x.{kind}"))
    with pytest.raises(
        ModelRefused, match=rf"modules\.json: '{kind}' is not supported; supported: Transformer, Static"
    ):
        open_source(str(folder))


def test_a_router_is_named_though_there_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(json.dumps([{"type": f"{LIBRARY}.router.Router", "path": ""}]))
    with pytest.raises(ModelRefused, match=r"modules\.json: 'Router' is not supported"):
        open_source(str(tmp_path))


def test_a_class_of_the_directory_is_not_taken_for_the_library_s(tmp_path: Path) -> None:
    def own(found: Any) -> Any:
        return [{**found[0], "type": "custom_st.Transformer"}, *found[1:]]

    folder = changed(tmp_path / "m", "bert-mean", "modules.json", own)
    with pytest.raises(
        ModelRefused, match=r"modules\.json: type is 'custom_st\.Transformer'; only classes of sentence"
    ):
        open_source(str(folder))


def test_dropout_does_nothing(tmp_path: Path) -> None:
    folder = changed(tmp_path / "m", "bert-mean", "modules.json", module("dropout.Dropout", "9_Dropout", 2))
    assert opened(folder) == opened(GOLDEN / "bert-mean")


def test_the_first_module_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(GOLDEN / "static-mean", folder)
    (folder / "0_StaticEmbedding").mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        (folder / name).rename(folder / "0_StaticEmbedding" / name)
    (folder / "modules.json").write_text(
        json.dumps([{"type": f"{LIBRARY}.StaticEmbedding", "path": "0_StaticEmbedding"}])
    )
    assert opened(folder).first == "StaticEmbedding"


@pytest.mark.parametrize(
    ("name", "file", "change", "named"),
    [
        ("bert-mean", "1_Pooling/config.json", setting(pooling_mode="max"), "pooling_mode 'max'"),
        ("bert-mean", "1_Pooling/config.json", setting(pooling_mode=["mean", "cls"]), "pooling_mode .'mean', 'cls'"),
        ("bert-mean", "1_Pooling/config.json", setting(include_prompt=False), "include_prompt false"),
        ("bert-mean", "sentence_bert_config.json", setting(transformer_task="fill-mask"), "task 'fill-mask'"),
        ("bert-mean", "sentence_bert_config.json", setting(processing_kwargs={"text": 1}), "processing_kwargs"),
        (
            "bert-mean", "sentence_bert_config.json",
            setting(modality_config={"text": {"method": "get_text_features"}}), "modality_config",
        ),
        ("bert-mean", "config_sentence_transformers.json", setting(model_type="SparseEncoder"), "model_type 'Sparse"),
        ("bert-mean", "config_sentence_transformers.json", setting(truncate_dim=0), "truncate_dim is 0"),
        ("bert-mean", "config_sentence_transformers.json", setting(default_prompt_name=[]), "default_prompt_name is"),
        ("bert-modules-cross", "config_sentence_transformers.json", setting(activation_fn="torch.nn.ReLU"), "ReLU"),
        ("bert-modules-cross", "config_sentence_transformers.json", setting(activation_fn="my.Sigmoid"), "'my.Sig"),
        ("bert-modules-cross", "config.json", setting(architectures=["BertModel"]), "BertModel gives no score"),
        ("bert-modules-cross", "tokenizer_config.json", setting(model_input_names=3), "model_input_names is 3"),
        ("bert-dense", "2_Dense/config.json", setting(activation_function="my.Tanh"), "activation_function 'my.Tanh'"),
        ("bert-dense", "2_Dense/config.json", setting(use_residual=True), "use_residual is not supported"),
        ("bert-dense", "4_Normalize/config.json", setting(module_input_name="token_embeddings"), "module_input_name"),
        ("bert-mean", "config.json", setting(tripos_modules=3), "never read"),
    ],
)  # fmt: skip
def test_what_would_be_another_model_is_refused_by_field(
    tmp_path: Path, name: str, file: str, change: Callable[[Any], Any], named: str
) -> None:
    folder = changed(tmp_path / "m", name, file, change)
    if named == "never read":  # the directory's own files come first
        assert opened(folder) == opened(GOLDEN / name)
        return
    with pytest.raises(ModelRefused, match="^" + Path(file).parts[0] + ".*" + named if file[0].isdigit() else named):
        opened(folder)


@pytest.mark.parametrize("raw", [3, {"kinds": 3}, {"kinds": ["Transformer"], "prompts": []}, {"dense": [1]}])
def test_a_config_that_claims_to_be_ours_is_checked_like_any_other(raw: Any) -> None:
    with pytest.raises(ModelRefused, match=r"config\.json: tripos_modules"):
        parse_modules({"tripos_modules": raw})


def test_a_classifier_that_is_pooled_embeds(tmp_path: Path) -> None:
    pooled = [{"type": f"{LIBRARY}.Transformer", "path": ""}, {"type": f"{LIBRARY}.Pooling", "path": "1_Pooling"}]
    folder = changed(tmp_path / "m", "bert-modules-cross", "modules.json", lambda found: pooled)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["mean"]}))
    (folder / "sentence_bert_config.json").unlink()
    source = open_source(str(folder))
    assert task_of(source.config) == "embed"
    assert opened(folder).pooling == "mean"


def test_lengths_come_from_the_tokenizer_without_modules_too() -> None:
    assert parse_modules(open_source(str(GOLDEN / "bert-cross")).config).max_length == 36
    assert parse_modules(open_source(str(GOLDEN / "bert-modules-cross")).config).max_length == 12
