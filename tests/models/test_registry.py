"""Checkpoints become the plan's weights, or are refused naming the tensor; goldens notice what is forgotten."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.shapes import SHAPES, random_weights
from tests.models.driver import BLOCK_SIZE, TOLERANCE, Golden, golden_names, relative_error, run_in_chunks
from tripos.errors import ModelRefused
from tripos.models.config import ModelConfig, RopeScaling, parse_config
from tripos.models.registry import ARCHITECTURES, adapt_weights, check_weights, notes_on_unused, trace, with_own_head
from tripos.plan.formats import to_float32
from tripos.plan.ir import Weights, WeightTensor
from tripos.runtime.executor import ExecutorOptions
from tripos.runtime.reference import ReferenceExecutor

NOTICED = 2 * TOLERANCE
FORGOTTEN: dict[str, dict[str, Any]] = {
    "mistral-window": {"windows": (0, 0)},
    "qwen2-window": {"windows": (8, 8)},
    "gpt-neo": {"windows": (0, 0, 0, 0)},
    "gpt2-variant": {"attention_scales": (8**-0.5, 8**-0.5)},
    "llama-linear-rope": {"rope_scaling": RopeScaling()},
    "llama-llama3-rope": {"rope_theta": 10000.0},
    "llama-yarn-rope": {"rope_scaling": RopeScaling(kind="linear", factor=8.0)},
    "llama-head-dim": {"hidden_act": "gelu"},
}


def longest_prompt_error(golden: Golden, config: ModelConfig, weights: Weights) -> float:
    executor = ReferenceExecutor(ExecutorOptions(block_size=BLOCK_SIZE, keep_logits=True))
    executor.load(trace(config), weights)
    return relative_error(run_in_chunks(executor, golden.prompts[2], 64), golden.logits[2])


@pytest.mark.parametrize("name", FORGOTTEN)
def test_goldens_notice_a_forgotten_setting(name: str) -> None:
    golden = Golden(name)
    assert longest_prompt_error(golden, replace(golden.config, **FORGOTTEN[name]), golden.weights) > NOTICED


@pytest.mark.parametrize("name", golden_names())
def test_goldens_notice_every_tensor(name: str) -> None:
    golden = Golden(name)
    weights = {name: golden.weights[name] for name in golden.weights}
    for tensor in weights.values():
        flipped = WeightTensor(tensor.name, "f32", tensor.shape, np.flip(to_float32(tensor), axis=0))
        assert longest_prompt_error(golden, golden.config, weights | {tensor.name: flipped}) > NOTICED, tensor.name


def test_every_architecture_has_a_golden() -> None:
    assert {Golden(name).config.architecture for name in golden_names()} == set(ARCHITECTURES)


def test_checkpoints_of_the_bare_model_load_under_the_full_names() -> None:
    golden = Golden("gpt2")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in golden.stored.items()}
    adapted = adapt_weights(golden.config, bare)
    assert check_weights(trace(golden.config), adapted) == ()
    for name in golden.weights:
        assert adapted[name].name == name
        assert np.array_equal(adapted[name].data, golden.weights[name].data)


def test_buffers_and_the_head_of_a_tied_model_are_not_weights() -> None:
    golden = Golden("qwen2")
    extra = WeightTensor("", "f32", (1, 1), np.zeros((1, 1), np.float32))
    names = ("lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.attn.masked_bias")
    stored = dict(golden.stored) | dict.fromkeys(names, extra)
    assert set(adapt_weights(golden.config, stored)) == set(golden.stored)


@pytest.mark.parametrize("name", ["qwen2", "gpt2"])
def test_a_tied_model_keeps_a_head_that_is_not_its_embedding(name: str) -> None:
    golden = Golden(name)
    table = trace(golden.config).ops[0].weights[0]
    doubled = 2 * to_float32(golden.stored[table])
    head = WeightTensor("lm_head.weight", "f32", doubled.shape, doubled)
    config, notes = with_own_head(golden.config, dict(golden.stored) | {"lm_head.weight": head})
    assert not config.tie_word_embeddings
    assert notes == ("lm_head.weight is not the embedding and is kept, although tie_word_embeddings is true",)
    weights = adapt_weights(config, dict(golden.stored) | {"lm_head.weight": head})
    assert check_weights(trace(config), weights) == ()
    executor = ReferenceExecutor(ExecutorOptions(block_size=BLOCK_SIZE, keep_logits=True))
    executor.load(trace(config), weights)
    logits = run_in_chunks(executor, golden.prompts[2], 64)
    assert relative_error(logits, 2 * golden.logits[2]) < TOLERANCE


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_head_of_the_embeddings_values_stays_tied(dtype: type[np.generic]) -> None:
    golden = Golden("qwen2")
    table = to_float32(golden.stored["model.embed_tokens.weight"]).astype(np.float16)
    stored = dict(golden.stored) | {
        "model.embed_tokens.weight": WeightTensor("", "f16", table.shape, table),
        "lm_head.weight": WeightTensor("", "f32" if dtype is np.float32 else "f16", table.shape, table.astype(dtype)),
    }
    assert with_own_head(golden.config, stored) == (golden.config, ())


def test_a_tied_model_without_an_embedding_takes_its_head_for_both() -> None:
    golden = Golden("qwen2")
    stored = dict(golden.stored)
    stored["lm_head.weight"] = stored.pop("model.embed_tokens.weight")
    config, notes = with_own_head(golden.config, stored)
    assert (config.tie_word_embeddings, notes) == (True, ())
    weights = adapt_weights(config, stored)
    assert check_weights(trace(config), weights) == ()
    np.testing.assert_array_equal(weights["model.embed_tokens.weight"].data, stored["lm_head.weight"].data)


def test_layers_beyond_the_configs_number_are_told() -> None:
    golden = Golden("qwen3")
    config = replace(golden.config, num_layers=1, windows=golden.config.windows[:1])
    unused = check_weights(trace(config), golden.weights)
    last = golden.config.num_layers - 1
    assert notes_on_unused(unused, 1) == (
        f"layers 1 to {last} of the checkpoint are not used: the config's num_hidden_layers is 1",
    )
    assert notes_on_unused(("model.x", "model.layers.0.y"), 1) == ("2 tensors are not used: model.x, model.layers.0.y",)
    assert notes_on_unused([f"t{i}" for i in range(10)], 1)[0].endswith("t7 and 2 more")


def test_unused_tensors_are_listed() -> None:
    golden = Golden("qwen3")
    stored = dict(golden.stored) | {"model.vision.weight": golden.stored["model.norm.weight"]}
    assert check_weights(trace(golden.config), adapt_weights(golden.config, stored)) == ("model.vision.weight",)


def test_a_missing_tensor_is_refused_by_name() -> None:
    golden = Golden("llama-mha")
    stored = {name: tensor for name, tensor in golden.stored.items() if name != "lm_head.weight"}
    with pytest.raises(ModelRefused, match=r"tensor lm_head\.weight is missing"):
        check_weights(trace(golden.config), adapt_weights(golden.config, stored))


def test_a_misshapen_tensor_is_refused_with_both_shapes() -> None:
    golden = Golden("llama-mha")
    plan = trace(replace(golden.config, intermediate_size=50))
    with pytest.raises(ModelRefused, match=r"gate_proj.weight has shape \[48, 32\]; the config asks for \[50, 32\]"):
        check_weights(plan, golden.weights)


def test_integer_tensors_are_refused() -> None:
    golden = Golden("llama-mha")
    norm = WeightTensor("model.norm.weight", "i8", (32,), np.zeros(32, np.int8))
    with pytest.raises(ModelRefused, match=r"model\.norm\.weight is stored as i8"):
        check_weights(trace(golden.config), dict(golden.stored) | {"model.norm.weight": norm})


def test_transposed_weights_must_be_plain_matrices() -> None:
    golden = Golden("gpt2")
    name = "transformer.h.0.mlp.c_fc.weight"
    packed = WeightTensor(name, "q8_0", (32, 128), np.zeros(32 * 4 * 34, np.uint8))
    with pytest.raises(ModelRefused, match=r"c_fc.weight is q8_0"):
        check_weights(trace(golden.config), adapt_weights(golden.config, dict(golden.stored) | {name: packed}))


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16"])
def test_random_weights_fit_repeat_and_give_finite_logits(dtype: str) -> None:
    small = {"hidden_size": 72, "intermediate_size": 192, "vocab_size": 300}
    config = parse_config({**SHAPES["smollm2-135m"], **small, "bos_token_id": 1, "eos_token_id": 2})
    plan = trace(config)
    weights, again, other = (
        random_weights(plan, dtype),
        random_weights(plan, dtype),
        random_weights(plan, dtype, seed=1),
    )
    assert check_weights(plan, adapt_weights(config, weights)) == ()
    assert all(np.array_equal(weights[name].data, again[name].data) for name in weights)
    assert not any(np.array_equal(weights[name].data, other[name].data) for name in weights)
    executor = ReferenceExecutor(ExecutorOptions(block_size=BLOCK_SIZE, keep_logits=True))
    executor.load(plan, weights)
    logits = run_in_chunks(executor, [3, 1, 4, 1, 5], 64)
    assert np.isfinite(logits).all()
    assert logits.std() > 0
