"""tokenizer_config.json over tokenizer.json, as transformers 5.24 read the same files: it depends on the class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.models.files.writing import LLAMA_CONFIG, model_folder, tokenizer_definition
from tripos.errors import ModelRefused
from tripos.models.files.source import open_source


def ids(folder: Path, in_json: bool, **settings: Any) -> list[int]:
    step = {"type": "ByteLevel", "add_prefix_space": in_json, "trim_offsets": True, "use_regex": True}
    steps = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, step]}
    definition = tokenizer_definition(pre_tokenizer=steps)
    settings = {"bos_token": "<s>", "eos_token": "</s>", **settings}
    source = open_source(str(model_folder(folder, tokenizer__json=definition, tokenizer_config__json=settings)))
    return source.tokenizer.encode("hi")


@pytest.mark.parametrize("in_json", [False, True])
@pytest.mark.parametrize("name", ["GPT2Tokenizer", "GPT2TokenizerFast", "RobertaTokenizerFast", "Qwen2Tokenizer"])
def test_a_class_of_its_own_builds_its_steps_from_its_arguments(tmp_path: Path, name: str, in_json: bool) -> None:
    num_tokens = {
        given: len(ids(tmp_path, in_json, tokenizer_class=name, **given_as(given))) for given in (None, True, False)
    }
    assert num_tokens == {None: 2, True: 3, False: 2}


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "TokenizersBackend", "LlamaTokenizer"])
@pytest.mark.parametrize("given", [None, True, False])
def test_the_generic_class_takes_tokenizer_json_as_it_is(tmp_path: Path, name: str, given: bool | None) -> None:
    assert len(ids(tmp_path, False, tokenizer_class=name, **given_as(given))) == 2
    assert len(ids(tmp_path, True, tokenizer_class=name, **given_as(given))) == 3


def test_where_no_class_is_named_the_family_has_one(tmp_path: Path) -> None:
    assert LLAMA_CONFIG["model_type"] == "llama"
    assert len(ids(tmp_path, True, add_prefix_space=False)) == 3


def test_another_kind_of_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"tokenizer_config\.json: add_prefix_space is 'no'; expected true or false"):
        ids(tmp_path, True, tokenizer_class="GPT2Tokenizer", add_prefix_space="no")


def given_as(value: bool | None) -> dict[str, Any]:
    return {} if value is None else {"add_prefix_space": value}
