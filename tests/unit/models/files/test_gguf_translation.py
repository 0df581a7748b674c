"""A GGUF says the same model as the checkpoint that it was converted from."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.models.files.writing import (
    ARRAY,
    BOOL,
    F32,
    I32,
    STRING,
    U32,
    gguf_bytes,
    gguf_model,
    numbers,
    pair,
    strings,
    tensor_info,
    text,
    u32,
    write,
)  # fmt: skip
from tripos.errors import ModelRefused
from tripos.models.config import RopeScaling, parse_config
from tripos.models.files.gguf import GgufFile, read_gguf
from tripos.models.files.gguf_translation import TranslatedWeights, translated_config, unread_keys
from tripos.models.files.safetensors import open_checkpoint
from tripos.plan.formats import to_float32
from tripos.plan.ir import WeightTensor

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB = 8, 2, 1, 4, 16, 10


def real(value: float) -> bytes:
    return struct.pack("<f", value)


def sizes(arch: str = "llama", **changes: bytes) -> list[bytes]:
    values = {
        "context_length": u32(64), "embedding_length": u32(HIDDEN), "block_count": u32(1),
        "feed_forward_length": u32(INNER), "attention.head_count": u32(HEADS), "attention.head_count_kv": u32(KV_HEADS),
    }  # fmt: skip
    values |= {name.replace("__", "."): raw for name, raw in changes.items()}
    epsilon = pair(f"{arch}.attention.layer_norm_rms_epsilon", F32, real(1e-5))
    return [epsilon, *(pair(f"{arch}.{name}", U32, raw) for name, raw in values.items())]


def matrix(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, cols), dtype=np.float32)


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """What the converter does to q and k: the halves of each head become pairs."""
    return array.reshape(heads, 2, len(array) // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)


Q, K = matrix(HIDDEN, HIDDEN, 1), matrix(HEAD_DIM, HIDDEN, 2)
Q_BIAS = np.arange(HIDDEN, dtype=np.float32)
LLAMA = {
    "token_embd.weight": matrix(VOCAB, HIDDEN),
    "blk.0.attn_q.weight": interleaved(Q, HEADS),
    "blk.0.attn_q.bias": interleaved(Q_BIAS, HEADS),
    "blk.0.attn_k.weight": interleaved(K, KV_HEADS),
    "blk.0.attn_v.weight": K,
    "blk.0.ffn_gate.weight": matrix(INNER, HIDDEN),
    "blk.0.attn_norm.weight": np.ones(HIDDEN, np.float32),
    "output_norm.weight": np.ones(HIDDEN, np.float32),
}


def opened(folder: Path, arch: str, pairs: list[bytes], tensors: dict[str, np.ndarray]) -> GgufFile:
    return read_gguf(write(folder / "m.gguf", gguf_model(arch, pairs, tensors)))


def test_llama_tensors_get_their_canonical_names(tmp_path: Path) -> None:
    weights = TranslatedWeights(opened(tmp_path, "llama", sizes(), LLAMA))
    assert set(weights) == {
        "model.embed_tokens.weight", "model.norm.weight", "model.layers.0.input_layernorm.weight",
        "model.layers.0.mlp.gate_proj.weight", "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.self_attn.q_proj.bias", "model.layers.0.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight",
    }  # fmt: skip
    assert all(weights[name].name == name for name in weights)


def test_rows_of_q_and_k_are_put_back(tmp_path: Path) -> None:
    weights = TranslatedWeights(opened(tmp_path, "llama", sizes(), LLAMA))
    np.testing.assert_array_equal(weights["model.layers.0.self_attn.q_proj.weight"].data, Q)
    np.testing.assert_array_equal(weights["model.layers.0.self_attn.q_proj.bias"].data, Q_BIAS)
    np.testing.assert_array_equal(weights["model.layers.0.self_attn.k_proj.weight"].data, K)
    np.testing.assert_array_equal(weights["model.layers.0.self_attn.v_proj.weight"].data, K)


def test_rows_of_block_formats_are_put_back_whole(tmp_path: Path) -> None:
    raw = np.random.default_rng(3).integers(0, 256, (HIDDEN, 34), dtype=np.uint8)
    raw[:, 1] = 0x2C  # finite scales
    infos = [tensor_info("blk.0.attn_q.weight", [32, HIDDEN], 8)]
    pairs = [pair("general.architecture", STRING, text("llama")), *sizes()]
    gguf = read_gguf(write(tmp_path / "m.gguf", gguf_bytes(pairs, infos, interleaved(raw, HEADS).tobytes())))
    got = TranslatedWeights(gguf)["model.layers.0.self_attn.q_proj.weight"]
    np.testing.assert_array_equal(to_float32(got), to_float32(WeightTensor("w", "q8_0", (HIDDEN, 32), raw.reshape(-1))))


@pytest.mark.parametrize("arch", ["qwen2", "qwen3"])
def test_qwen_rows_stay_as_they_are(tmp_path: Path, arch: str) -> None:
    tensors = {"blk.0.attn_q.weight": Q, "blk.0.attn_q_norm.weight": np.ones(HEAD_DIM, np.float32)}
    weights = TranslatedWeights(opened(tmp_path, arch, sizes(arch), tensors))
    np.testing.assert_array_equal(weights["model.layers.0.self_attn.q_proj.weight"].data, Q)
    assert "model.layers.0.self_attn.q_norm.weight" in weights


def test_gpt2_weights_lie_as_in_its_checkpoints(tmp_path: Path) -> None:
    qkv = matrix(3 * HIDDEN, HIDDEN)
    tensors = {"blk.0.attn_qkv.weight": qkv, "position_embd.weight": matrix(4, HIDDEN)}
    weights = TranslatedWeights(opened(tmp_path, "gpt2", [], tensors))
    tensor = weights["transformer.h.0.attn.c_attn.weight"]
    assert tensor.shape == (HIDDEN, 3 * HIDDEN)
    np.testing.assert_array_equal(tensor.data, qkv.T)
    assert "transformer.wpe.weight" in weights


def test_llama_config_is_one_that_config_json_could_hold(tmp_path: Path) -> None:
    raw = translated_config(opened(tmp_path, "llama", sizes(), LLAMA))
    config = parse_config(raw, "m.gguf")
    assert (config.architecture, config.hidden_size, config.num_layers) == ("LlamaForCausalLM", HIDDEN, 1)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (HEADS, KV_HEADS, HEAD_DIM)
    assert (config.vocab_size, config.intermediate_size, config.max_position_embeddings) == (VOCAB, INNER, 64)
    assert config.tie_word_embeddings
    assert config.attention_bias
    assert not config.attention_out_bias
    assert not parse_config(
        translated_config(opened(tmp_path, "llama", sizes(), {**LLAMA, "output.weight": matrix(VOCAB, HIDDEN)}))
    ).tie_word_embeddings


def test_gpt2_config_is_one_that_config_json_could_hold(tmp_path: Path) -> None:
    pairs = [pair(f"gpt2.{name}", U32, u32(value)) for name, value in {
        "context_length": 32, "embedding_length": HIDDEN, "block_count": 1, "feed_forward_length": 32,
        "attention.head_count": HEADS,
    }.items()]  # fmt: skip
    pairs.append(pair("gpt2.attention.layer_norm_epsilon", F32, real(1e-5)))
    gguf = opened(tmp_path, "gpt2", pairs, {"token_embd.weight": matrix(VOCAB, HIDDEN)})
    config = parse_config(translated_config(gguf))
    assert (config.architecture, config.max_position_embeddings, config.tie_word_embeddings) == (
        "GPT2LMHeadModel", 32, True,
    )  # fmt: skip


def rope_factors(theta: float, head_dim: int, factor: float) -> np.ndarray:
    """Llama 3.1's rule as its model card writes it, frequency by frequency."""
    factors = []
    for frequency in theta ** (-np.arange(0, head_dim, 2) / head_dim):
        wavelength = 2 * np.pi / frequency
        if wavelength < 8192 / 4:
            factors.append(1.0)
        elif wavelength > 8192 / 1:
            factors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.float32(factors)


BIG = {"attention__key_length": u32(64)}


def test_rope_factors_become_the_rule_behind_them(tmp_path: Path) -> None:
    tensors = {**LLAMA, "rope_freqs.weight": rope_factors(500000.0, 64, 32.0)}
    gguf = opened(tmp_path, "llama", [*sizes(**BIG), pair("llama.rope.freq_base", F32, real(500000.0))], tensors)
    assert translated_config(gguf)["rope_scaling"] == {
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }  # fmt: skip
    assert not any("rope" in name for name in TranslatedWeights(gguf))


def test_rope_factors_of_another_rule_are_refused(tmp_path: Path) -> None:
    tensors = {**LLAMA, "rope_freqs.weight": np.linspace(1, 8, 32, dtype=np.float32)}
    gguf = opened(tmp_path, "llama", [*sizes(**BIG), pair("llama.rope.freq_base", F32, real(500000.0))], tensors)
    with pytest.raises(ModelRefused, match=r"rope_freqs\.weight follows a rule other than"):
        translated_config(gguf)


def scaling(**keys: float | str) -> list[bytes]:
    """rope.* metadata; a double underscore stands for the dot."""
    return [
        pair(f"llama.rope.{key.replace('__', '.')}", STRING, text(value)) if isinstance(value, str)
        else pair(f"llama.rope.{key.replace('__', '.')}", F32, real(value))
        for key, value in keys.items()
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"scale_linear": 4.0}, RopeScaling(kind="linear", factor=4.0)),
        ({"scaling__factor": 4.0}, RopeScaling(kind="linear", factor=4.0)),
        ({"scaling__factor": 4.0, "scale_linear": 2.0}, RopeScaling(kind="linear", factor=4.0)),
        ({"scaling__type": "linear", "scaling__factor": 4.0}, RopeScaling(kind="linear", factor=4.0)),
        ({"scaling__type": "none", "scaling__factor": 4.0}, RopeScaling()),
        ({"scaling__type": "yarn"}, RopeScaling()),
        ({"scale_linear": 0.0}, RopeScaling()),
        ({"scaling__type": "linear", "scaling__factor": 1.0}, RopeScaling()),
    ],
)
def test_scaling_is_read_from_every_key_that_says_it(
    tmp_path: Path, keys: dict[str, float | str], expected: RopeScaling
) -> None:
    raw = translated_config(opened(tmp_path, "llama", [*sizes(), *scaling(**keys)], LLAMA))
    assert parse_config(raw).rope_scaling == expected


def test_yarn_takes_its_own_factors(tmp_path: Path) -> None:
    keys = {
        "scaling__type": "yarn", "scaling__factor": 4.0, "scaling__attn_factor": 0.5, "scaling__yarn_beta_fast": 16.0,
        "scaling__yarn_beta_slow": 2.0, "scaling__yarn_ext_factor": 1.0,
    }  # fmt: skip
    original = pair("llama.rope.scaling.original_context_length", U32, u32(16))
    raw = translated_config(opened(tmp_path, "llama", [*sizes(), *scaling(**keys), original], LLAMA))
    expected = RopeScaling(
        kind="yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=16.0, beta_slow=2.0,
        attention_factor=0.5 * (0.1 * math.log(4.0) + 1.0),
    )  # fmt: skip
    assert parse_config(raw).rope_scaling == expected


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"scaling__type": "longrope", "scaling__factor": 4.0}, "longrope"),
        ({"scaling__attn_factor": 0.5}, r"rope\.scaling\.attn_factor is 0\.5"),
        ({"scaling__type": "yarn", "scaling__factor": 4.0, "scaling__yarn_ext_factor": 0.0}, "yarn_ext_factor is 0"),
        ({"scaling__yarn_log_multiplier": 0.1}, r"yarn_log_multiplier is 0\.1"),
        ({"scaling__alpha": 2.0}, r"rope\.scaling\.alpha is 2\.0"),
        ({"freq_base_swa": 2.0}, "freq_base_swa is 2"),
        ({"scaling__factor": "much"}, "no number"),
    ],
)
def test_scaling_that_is_not_implemented_is_refused_by_key(
    tmp_path: Path, keys: dict[str, float | str], named: str
) -> None:
    gguf = opened(tmp_path, "llama", [*sizes(), *scaling(**keys)], LLAMA)
    with pytest.raises(ModelRefused, match=rf"m\.gguf: .*{named}"):
        parse_config(translated_config(gguf), gguf.file)


@pytest.mark.parametrize(
    "key", ["logit_scale", "residual_scale", "embedding_scale", "attn_logit_softcapping", "final_logit_softcapping",
            "attention.max_alibi_bias", "attention.clamp_kqv", "attention.scale", "attention.temperature_scale"],
)  # fmt: skip
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3", "gpt2"])
def test_keys_that_change_the_answer_are_refused_by_name(tmp_path: Path, arch: str, key: str) -> None:
    named = pair(f"{arch}.{key}", F32, real(3.5))
    with pytest.raises(ModelRefused, match=rf"m\.gguf: {key} is 3\.5"):
        translated_config(opened(tmp_path, arch, [*sizes(arch), named], LLAMA))
    neutral = pair(f"{arch}.{key}", F32, real(0.0))
    translated_config(opened(tmp_path, arch, [*sizes(arch), neutral], LLAMA))


def test_factors_and_a_scaling_beside_them_are_refused(tmp_path: Path) -> None:
    tensors = {**LLAMA, "rope_freqs.weight": rope_factors(500000.0, 64, 32.0)}
    pairs = [*sizes(**BIG), *scaling(freq_base=500000.0, scaling__factor=2.0)]
    with pytest.raises(ModelRefused, match=r"rope\.scaling\.factor and by tensor rope_freqs\.weight"):
        translated_config(opened(tmp_path, "llama", pairs, tensors))


def test_keys_that_nobody_knows_are_told(tmp_path: Path) -> None:
    pairs = [*sizes(), pair("llama.new.thing", U32, u32(1)), pair("llama.rope.scaling.finetuned", BOOL, b"\1")]
    assert unread_keys(opened(tmp_path, "llama", pairs, LLAMA)) == ("new.thing",)


def test_a_window_as_wide_as_the_context_changes_nothing(tmp_path: Path) -> None:
    raw = translated_config(opened(tmp_path, "qwen2", sizes("qwen2", attention__sliding_window=u32(64)), LLAMA))
    assert parse_config(raw).windows == (0,)
    with pytest.raises(ModelRefused, match=r"attention\.sliding_window is 63"):
        translated_config(opened(tmp_path, "qwen2", sizes("qwen2", attention__sliding_window=u32(63)), LLAMA))


def test_yarn_and_linear_scaling_keep_their_names(tmp_path: Path) -> None:
    pairs = [pair("llama.rope.scaling.type", STRING, text("linear")), pair("llama.rope.scaling.factor", F32, real(2.0))]
    config = translated_config(opened(tmp_path, "llama", [*sizes(), *pairs], LLAMA))
    assert parse_config(config).rope_scaling.kind == "linear"


REFUSED = {
    "W18 head_count 0": {"attention__head_count": u32(0)},
    "W18 block_count 10^9": {"block_count": u32(10**9)},
    "W18 odd head": {"embedding_length": u32(6)},
    "W18 partial rotation": {"rope__dimension_count": u32(2)},
    "W18 embedding_length 0": {"embedding_length": u32(0)},
    "experts": {"expert_count": u32(8)},
    "window": {"attention__sliding_window": u32(63)},
    "values narrower than keys": {"attention__value_length": u32(2)},
}


@pytest.mark.parametrize("changes", REFUSED.values(), ids=REFUSED.keys())
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, bytes]) -> None:
    gguf = opened(tmp_path, "llama", sizes(**changes), LLAMA)
    with pytest.raises(ModelRefused, match=r"m\.gguf"):
        parse_config(translated_config(gguf), gguf.file)


def test_heads_that_do_not_divide_the_rows_are_refused(tmp_path: Path) -> None:
    gguf = opened(tmp_path, "llama", sizes(attention__head_count=u32(3)), LLAMA)
    with pytest.raises(ModelRefused, match="rows for 3 heads"):
        TranslatedWeights(gguf)


def test_layers_that_differ_are_refused(tmp_path: Path) -> None:
    pairs = [p for p in sizes() if b"head_count_kv" not in p]
    pairs.append(pair("llama.attention.head_count_kv", ARRAY, numbers(I32, [1, 2])))
    with pytest.raises(ModelRefused, match="differs between layers"):
        translated_config(opened(tmp_path, "llama", pairs, LLAMA))


def test_vocabulary_that_does_not_fit_the_embedding_is_refused(tmp_path: Path) -> None:
    pairs = [*sizes(), pair("tokenizer.ggml.tokens", ARRAY, strings(["a", "b"]))]
    with pytest.raises(ModelRefused, match=r"tokenizer\.ggml\.tokens has 2 entries, token_embd\.weight 10 rows"):
        translated_config(opened(tmp_path, "llama", pairs, LLAMA))


def test_unknown_architecture_is_refused_naming_it(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"general\.architecture is 'mamba'.*supported: llama"):
        translated_config(opened(tmp_path, "mamba", [], {}))


def test_unknown_tensor_is_refused_naming_it(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"blk\.0\.ffn_gate_exps\.weight is not part of"):
        TranslatedWeights(opened(tmp_path, "llama", sizes(), {"blk.0.ffn_gate_exps.weight": matrix(2, 2)}))


def test_published_gguf_equals_its_safetensors(shared_data: Callable[[str], Path]) -> None:
    gguf = read_gguf(shared_data("lm/stories260K/derived-stories260K-f32-v3.gguf"))
    translated, original = TranslatedWeights(gguf), open_checkpoint(shared_data("lm/stories260K/derived-hf"))
    for name, tensor in original.items():
        np.testing.assert_array_equal(translated[name].data, tensor.data)
