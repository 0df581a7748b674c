"""What an adapter directory may hold, and how clearly everything else is refused (W39 and its kin)."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.models.files.adapter_files import CONFIG, adapter_folder, matrices
from tests.unit.models.files.writing import safetensors_bytes, write
from tripos.errors import ModelRefused
from tripos.models.files.lora import ReadAdapter, read_adapter
from tripos.plan.formats import to_float32
from tripos.plan.lora import Place

LAYERS = ("model.layers.0.self_attn", "model.layers.1.self_attn")
SHAPES = {f"{layer}.{name}": shape for layer in LAYERS for name, shape in (("q_proj", (6, 4)), ("v_proj", (3, 4)))}
OTHERS = {f"{layer}.o_proj": (4, 6) for layer in LAYERS}
PLACES = {f"{module}.weight": Place(module, 0, 0, shape, 16) for module, shape in (SHAPES | OTHERS).items()}


def read(folder: Path, max_rank: int = 16, dtype: str = "f32") -> ReadAdapter:
    return read_adapter(folder, PLACES, max_rank=max_rank, dtype=dtype)


def test_an_honest_adapter(tmp_path: Path) -> None:
    tensors = matrices(SHAPES)
    found = read(adapter_folder(tmp_path, tensors))
    assert set(found.modules) == {f"{module}.weight" for module in SHAPES}
    assert (found.rank, found.num_parameters) == (2, sum(t.size for t in tensors.values()))
    assert len(found.digest) == 64
    low = found.modules["model.layers.1.self_attn.q_proj.weight"]
    assert low.scale == 2.0
    np.testing.assert_array_equal(low.a.data, tensors["base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"])


def test_rounded_to_bfloat16_where_the_model_runs_in_less_than_float32(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path, matrices(SHAPES))
    exact, rounded = (read(folder, dtype=dtype).modules for dtype in ("f32", "bf16"))
    for name, low in rounded.items():
        assert low.a.dtype == low.b.dtype == "bf16"
        np.testing.assert_allclose(to_float32(low.a), to_float32(exact[name].a), rtol=2**-8)


def test_float16_files(tmp_path: Path) -> None:
    tensors = {name: values.astype(np.float16) for name, values in matrices(SHAPES).items()}
    low = read(adapter_folder(tmp_path, tensors)).modules["model.layers.0.self_attn.v_proj.weight"]
    assert low.a.dtype == "f32"


def test_rank_and_alpha_patterns_and_rslora(tmp_path: Path) -> None:
    first, second = f"{LAYERS[0]}.q_proj", f"{LAYERS[1]}.q_proj"
    tensors = matrices({module: shape for module, shape in SHAPES.items() if module != first})
    tensors |= matrices({first: SHAPES[first]}, rank=5)
    found = read(
        adapter_folder(
            tmp_path, tensors, use_rslora=True, rank_pattern={first: 5}, alpha_pattern={"self_attn.v_proj": 9}
        )
    )
    scales = {name: low.scale for name, low in found.modules.items()}
    assert scales[f"{first}.weight"] == 4 / np.sqrt(5)
    assert scales[f"{second}.weight"] == 4 / np.sqrt(2)
    assert scales[f"{LAYERS[0]}.v_proj.weight"] == 9 / np.sqrt(2)
    assert found.rank == 5


@pytest.mark.parametrize("targets", ["all-linear", r".*\.(q|v)_proj", ["q_proj", "model.layers.0.self_attn.v_proj"]])
def test_targets_as_peft_writes_them(tmp_path: Path, targets: str | list[str]) -> None:
    shapes = dict(SHAPES)
    if isinstance(targets, list):
        del shapes[f"{LAYERS[1]}.v_proj"]
    assert len(read(adapter_folder(tmp_path, matrices(shapes), target_modules=targets)).modules) == len(shapes)


def test_an_expression_that_would_run_for_ever_is_not_run(tmp_path: Path) -> None:
    read(adapter_folder(tmp_path, matrices(SHAPES), target_modules=r"(a+)+$" * 50))


def test_some_layers_only(tmp_path: Path) -> None:
    shapes = {module: shape for module, shape in SHAPES.items() if module.startswith(LAYERS[1])}
    assert len(read(adapter_folder(tmp_path, matrices(shapes), layers_to_transform=[1])).modules) == 2


def test_the_digest_is_of_everything(tmp_path: Path) -> None:
    same = [read(adapter_folder(tmp_path / name, matrices(SHAPES))).digest for name in "ab"]
    other = read(adapter_folder(tmp_path / "c", matrices(SHAPES, seed=1))).digest
    scaled = read(adapter_folder(tmp_path / "d", matrices(SHAPES), lora_alpha=5)).digest
    assert same[0] == same[1]
    assert len({same[0], other, scaled}) == 3


# field of adapter_config.json, its value, what the refusal says
WRONG_CONFIG: list[tuple[str, Any, str]] = [
    ("peft_type", "LOHA", "peft_type is 'LOHA'; only LORA"),
    ("peft_type", None, "peft_type is None"),
    ("task_type", "SEQ_CLS", "task_type is 'SEQ_CLS'"),
    ("bias", "all", "bias is 'all'"),
    ("use_dora", True, "DoRA is not supported"),
    ("modules_to_save", ["lm_head"], "whole modules beside the adapter"),
    ("trainable_token_indices", [1], "trained tokens"),
    ("layer_replication", [[0, 1]], "replicated layers"),
    ("lora_bias", True, "lora_bias is not supported"),
    ("use_qalora", True, "use_qalora is not supported"),
    ("target_parameters", ["x"], "target_parameters is not supported"),
    ("alora_invocation_tokens", [1], "alora_invocation_tokens is not supported"),
    ("something_new", 3, "something_new is not supported and may change"),
    ("init_lora_weights", "pissa_niter_4", "changed the base model"),
    ("use_rslora", "yes", "use_rslora is not true or false"),
    ("r", 0, "r is 0, must be a whole number from 1 to 16"),
    ("r", 17, "must be a whole number from 1 to 16 (--max-adapter-rank)"),
    ("r", 2.0, "r is 2.0"),
    ("r", True, "r is True"),
    ("r", 10**30, "r is 1"),
    ("r", None, "r is None"),
    ("r", 3, "lora_A has shape [2, 4]; its rank and this model ask for [3, 4]"),
    ("lora_alpha", "16", "lora_alpha is '16'"),
    ("lora_alpha", 1e300, "must be a number within 1e6"),
    ("lora_alpha", None, "lora_alpha is None"),
    ("rank_pattern", {"q_proj": 0}, "rank_pattern is 0"),
    ("rank_pattern", {"(q|v)_proj": 2}, "an expression: write the module names out"),
    ("rank_pattern", [1], "must be an object"),
    ("alpha_pattern", {"q_proj": "x"}, "alpha_pattern is 'x'"),
    ("target_modules", [], "a list of 1 to 4096 names"),
    ("target_modules", ["q_proj"] * 5000, "a list of 1 to 4096 names"),
    ("target_modules", [7], "holds 7, which is no module name"),
    ("target_modules", ["q_proj", "v_proj", "w_proj"], "names 'w_proj': the model has no such linear"),
    ("target_modules", ["q_proj", "v_proj", "lm_head"], "adapters of embeddings and of the head"),
    ("target_modules", ["q_proj"], "has tensors, but target_modules"),
    ("target_modules", ["q_proj", "v_proj", "o_proj"], "has no tensors, but target_modules"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG_CONFIG, ids=lambda value: str(value)[:40])
def test_a_wrong_config_is_refused(tmp_path: Path, field: str, value: Any, message: str) -> None:
    folder = adapter_folder(tmp_path, matrices(SHAPES), **{field: value})
    with pytest.raises(ModelRefused) as refused:
        read(folder)
    assert message in refused.value.message
    assert "adapter_" in refused.value.message  # names the file
    assert len(refused.value.message) < 400


Q = "base_model.model.model.layers.0.self_attn.q_proj"


def without(name: str) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def with_(**changed: np.ndarray) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    return lambda tensors: tensors | {f"{Q}.{name.replace('__', '.')}": value for name, value in changed.items()}


def zeros(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


WRONG_TENSORS: list[tuple[Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], str]] = [
    (lambda tensors: {}, "holds no tensor"),
    (without(f"{Q}.lora_B.weight"), "has lora_A only"),
    (with_(lora_A__weight=zeros(2, 5)), "trained on another model"),
    (with_(lora_B__weight=zeros(7, 2)), "trained on another model"),
    (with_(lora_B__weight=zeros(6, 3)), "trained on another model"),
    (with_(lora_A__weight=zeros(8)), "expected a float matrix"),
    (with_(lora_A__weight=zeros(2, 4, dtype=np.int32)), "is i32 [2, 4]; expected a float matrix"),
    (with_(lora_A__weight=zeros(2, 4) + np.nan), "is NaN or infinite"),
    (with_(lora_B__weight=zeros(6, 2) + np.inf), "is NaN or infinite"),
    (with_(lora_embedding_A=zeros(2, 4)), "adapters of embeddings"),
    (with_(lora_magnitude_vector__weight=zeros(6)), "DoRA is not supported"),
    (with_(lora_B__bias=zeros(6)), "biases of adapters"),
    (with_(modules_to_save__weight=zeros(6, 4)), "whole modules"),
    (with_(other=zeros(1)), "as PEFT saves them"),
    (
        lambda tensors: tensors | matrices({"lm_head": (9, 4)}),
        "adapters of embeddings and of the head are not supported",
    ),
    (lambda tensors: tensors | matrices({"model.layers.7.self_attn.q_proj": (6, 4)}), "no such linear"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_TENSORS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_wrong_tensors_are_refused(
    tmp_path: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]], message: str, dtype: str
) -> None:
    folder = adapter_folder(tmp_path, change(matrices(SHAPES)), target_modules="all-linear")
    with pytest.raises(ModelRefused) as refused:
        read(folder, dtype=dtype)
    assert message in refused.value.message


def test_files_that_are_no_adapter(tmp_path: Path) -> None:
    def refusal(folder: Path) -> str:
        with pytest.raises(ModelRefused) as refused:
            read(folder)
        return refused.value.message

    assert "no such adapter" in refusal(tmp_path / "nowhere")
    assert "no such adapter" in refusal(write(tmp_path / "file", b""))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "adapter_config.json: is not in the directory" in refusal(empty)
    write(empty / "adapter_config.json", CONFIG)
    assert "adapter_model.safetensors: is not in the directory" in refusal(empty)
    write(empty / "adapter_model.bin", b"\x80\x02")
    assert "pickled weights can run code" in refusal(empty)
    os.mkfifo(empty / "adapter_model.safetensors")
    assert "it is a named pipe (FIFO), expected a regular file" in refusal(empty)


def test_sizes_are_bounded_by_the_model(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path, matrices(SHAPES))
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(1 << 30)  # a hole, which takes no room on the disk
    with pytest.raises(ModelRefused, match=r"larger than .* bytes, the most that an adapter of this model"):
        read(folder)
    write(folder / "adapter_config.json", b" " * (1 << 20) + b"{}")
    with pytest.raises(ModelRefused, match=r"adapter_config\.json: larger than"):
        read(folder)


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_do_harm(tmp_path_factory: pytest.TempPathFactory, data: bytes, is_config: bool) -> None:
    folder = adapter_folder(tmp_path_factory.mktemp("adapter"), matrices(SHAPES))
    write(folder / ("adapter_config.json" if is_config else "adapter_model.safetensors"), data)
    with pytest.raises(ModelRefused):
        read(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*sorted(CONFIG), "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights"]), JSON)
def test_any_value_of_any_field_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, field: str, value: Any
) -> None:
    folder = tmp_path_factory.mktemp("adapter")
    write(folder / "adapter_config.json", json.dumps(CONFIG | {field: value}))
    write(folder / "adapter_model.safetensors", safetensors_bytes(matrices(SHAPES)))
    with contextlib.suppress(ModelRefused):
        assert read(folder).modules
