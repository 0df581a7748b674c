"""A config.json is believed only after every number was checked; what is refused is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.shapes import SHAPES
from tripos.errors import ModelRefused
from tripos.models.config import FAMILIES, ModelConfig, RopeScaling, parse_config
from tripos.models.families.blocks import inv_freq
from tripos.models.files.strict_json import MAX_JSON_BYTES, parse_json, read_json

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 96, "vocab_size": 1000, "max_position_embeddings": 128,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "architectures": ["GPT2LMHeadModel"], "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": 50
}  # fmt: skip
GPT_NEO: dict[str, Any] = {
    "architectures": ["GPTNeoForCausalLM"], "hidden_size": 64, "num_layers": 4, "num_heads": 4,
    "max_position_embeddings": 128, "vocab_size": 50, "attention_types": [[["global", "local"], 2]],
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def config(**changes: Any) -> ModelConfig:
    return parse_config({**LLAMA, **changes})


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"])
@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, 10**400, 64.0, 1e308, "64", True, [], {}])
def test_impossible_sizes_are_refused_by_file_and_key(key: str, value: Any) -> None:
    with pytest.raises(ModelRefused, match=rf"^config\.json: {key} is "):
        config(**{key: value})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"hidden_size": 63}, "hidden_size is 63, which 4 attention heads do not divide"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ({"num_key_value_heads": 8}, "num_key_value_heads is 8, which does not divide 4"),
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"num_key_value_heads": 0}, "num_key_value_heads"),
        ({"vocab_size": 2**31}, "vocab_size"),
        ({"vocab_size": None}, "vocab_size is missing"),
        ({"head_dim": 15}, "head_dim"),
        ({"head_dim": 0}, "head_dim"),
        ({"rope_theta": 0}, "rope_theta"),
        ({"rope_theta": float("nan")}, "rope_theta"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'"),
        ({"torch_dtype": "float8_e4m3fn"}, "torch_dtype is 'float8_e4m3fn'"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantization_config names 'gptq'"),
        ({"quantization_config": "awq"}, "quantization_config names 'awq'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "type is 'dynamic'"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_type is 'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0.0}}, "rope_scaling: factor"),
        ({"rope_scaling": [1]}, "rope_scaling"),
        ({"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}}, "low_freq_factor is 4"),
        ({"rope_parameters": {**YARN, "original_max_position_embeddings": 0}}, "original_max_position_embeddings"),
        ({"eos_token_id": 1000}, "eos_token_id holds 1000"),
        ({"eos_token_id": [2, -1]}, "eos_token_id holds -1"),
        ({"bos_token_id": "1"}, "bos_token_id"),
        ({"architectures": ["MambaForCausalLM"]}, "architectures names 'MambaForCausalLM'"),
        ({"architectures": []}, "architectures"),
        ({"architectures": None}, "architectures"),
        ({"architectures": [["LlamaForCausalLM"]]}, "architectures"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": -4}, "sliding_window is -4"),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 0}, "sliding_window is 0"),
        ({"architectures": ["MistralForCausalLM"], "layer_types": ["full_attention"]}, "layer_types"),
        ({"architectures": ["MistralForCausalLM"], "layer_types": ["chunked"] * 3}, "names 'chunked'"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_naming_it(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelRefused, match=r"^config\.json: ") as refusal:
        config(**changes)
    assert named in refusal.value.message


@pytest.mark.parametrize(
    ("key", "changing", "neutral"),
    [
        ("attn_logit_softcapping", 50.0, None), ("final_logit_softcapping", 30.0, 0), ("logit_scale", 0.5, 1.0),
        ("embedding_multiplier", 12.0, 1), ("residual_multiplier", 0.22, 1.0), ("attention_multiplier", 0.1, None),
        ("logits_scaling", 8.0, 1.0), ("num_local_experts", 8, 0), ("clip_qkv", 8.0, None), ("no_rope_layers", [0], []),
        ("alibi", True, False), ("rope_parameters", {"full_attention": {"rope_theta": 1e4}}, {}),
        ("rope_scaling", {"rope_type": "default", "mrope_section": [16, 24, 24]}, {"rope_type": "default"}),
    ],
)  # fmt: skip
def test_keys_that_change_the_result_are_refused_by_name(key: str, changing: Any, neutral: Any) -> None:
    with pytest.raises(ModelRefused, match=rf"^config\.json: {key} (is|holds) .*not supported"):
        config(**{key: changing})
    assert config(**{key: neutral}) == config()


def test_sizes_that_a_file_leaves_out_are_its_familys() -> None:
    bare = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"} | {"num_attention_heads": 64}

    def heads(architecture: str) -> tuple[int, int]:
        read = parse_config({**bare, "hidden_size": 512, "architectures": [architecture]})
        return read.num_kv_heads, read.head_dim

    families = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
    assert [heads(name) for name in families] == [(64, 8), (8, 8), (32, 8), (32, 128)]


def test_errors_use_the_names_of_the_file_not_ours() -> None:
    with pytest.raises(ModelRefused, match="n_embd is 0"):
        parse_config({**GPT2, "n_embd": 0})
    with pytest.raises(ModelRefused, match=r"attention_types holds \[\['local'\], -1\]|describes more"):
        parse_config({**GPT_NEO, "attention_types": [[["local"], 10**9]]})


def test_scaling_is_read_from_old_and_new_files_alike() -> None:
    old = config(rope_theta=500.0, rope_scaling=LLAMA3)
    new = config(rope_parameters={**LLAMA3, "rope_theta": 500.0})
    assert (old.rope_theta, old.rope_scaling) == (new.rope_theta, new.rope_scaling)
    assert old.rope_scaling.original_max_position_embeddings == LLAMA["max_position_embeddings"]
    assert config(rope_scaling={"type": "linear", "factor": 2}).rope_scaling == RopeScaling(kind="linear", factor=2.0)
    assert config(rope_scaling=None).rope_scaling == config(rope_scaling={"rope_type": "default"}).rope_scaling


def test_yarn_attention_factor_follows_the_paper_unless_given() -> None:
    def factor(**values: float) -> float:
        return config(rope_parameters={**YARN, **values}).rope_scaling.attention_factor

    assert factor() == pytest.approx(1 + 0.1 * np.log(4.0))
    assert factor(attention_factor=1.5) == 1.5
    assert factor(mscale=1.0, mscale_all_dim=1.0) == 1.0


def test_short_wavelengths_are_kept_and_long_ones_stretched() -> None:
    plain = inv_freq(config(head_dim=64))
    for scaling in (LLAMA3 | {"original_max_position_embeddings": 64}, YARN | {"original_max_position_embeddings": 64}):
        stretched = inv_freq(config(head_dim=64, rope_parameters=scaling))
        assert stretched[0] == plain[0]
        assert stretched[-1] == pytest.approx(plain[-1] / scaling["factor"])
        assert np.all(np.diff(stretched) < 0)


def test_windows_of_each_family() -> None:
    mistral = {"architectures": ["MistralForCausalLM"]}
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8, "max_window_layers": 1}
    assert config(sliding_window=8).windows == (0, 0, 0)  # Llama knows none
    assert config(**mistral).windows == (4096,) * 3
    assert config(**mistral, sliding_window=None).windows == (0, 0, 0)
    assert config(**qwen, use_sliding_window=True).windows == (0, 8, 8)
    assert config(**qwen, use_sliding_window=False).windows == (0, 0, 0)
    assert config(**qwen).windows == (0, 0, 0)  # Qwen slides only when told to
    assert parse_config(GPT_NEO).windows == (0, 256, 0, 256)


def test_gpt_defaults_are_those_of_its_family() -> None:
    gpt2, neo = parse_config(GPT2), parse_config(GPT_NEO)
    assert (gpt2.intermediate_size, gpt2.hidden_act, gpt2.tie_word_embeddings) == (256, "gelu_tanh", True)
    assert gpt2.attention_scales == (0.25,) * 3
    assert parse_config({**GPT2, "scale_attn_by_inverse_layer_idx": True}).attention_scales == (0.25, 0.125, 0.25 / 3)
    assert (neo.attention_scales, neo.attention_bias, neo.attention_out_bias) == ((1.0,) * 4, False, True)


def test_eos_may_be_one_many_or_none() -> None:
    assert config(eos_token_id=2).eos_token_ids == (2,)
    assert config(eos_token_id=[2, 7]).eos_token_ids == (2, 7)
    assert config().eos_token_ids == ()
    assert config(bos_token_id=0).bos_token_id == 0


def test_keys_that_ask_for_code_are_reported_and_ignored() -> None:
    asking = config(auto_map={"AutoModel": "evil.py"}, trust_remote_code=True)
    assert asking.ignored_keys == ("auto_map", "trust_remote_code")


@pytest.mark.parametrize("name", SHAPES)
def test_public_shapes_parse(name: str) -> None:
    assert parse_config(SHAPES[name], name).dtype == "bf16"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"[]", "holds a JSON list"),
        (b"null", "NoneType"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b'{"a": 1e400}', "overflows"),
        (b'{"a": 1, "b": 2, "a": 3}', "key 'a' appears twice"),
        (b'{"a": {"b": 1, "b": 1}}', "key 'b' appears twice"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "nested deeper than 64"),
        (b"[" * 100_000 + b"]" * 100_000, "not acceptable JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "not acceptable JSON"),
        (b'\xff{"a": 1}', "not acceptable JSON"),
        (b'{"a": 1} x', "not acceptable JSON"),
    ],
)
def test_json_that_is_not_plain_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ModelRefused, match=r"^config\.json: ") as refusal:
        parse_json(data, "config.json")
    assert reason in refusal.value.message


def test_json_files_are_bounded_and_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"config\.json: cannot be read"):
        read_json(tmp_path / "config.json")
    huge = tmp_path / "huge.json"
    huge.write_bytes(b'{"a": "' + b"x" * MAX_JSON_BYTES + b'"}')
    with pytest.raises(ModelRefused, match="larger than 16 MiB"):
        read_json(huge)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    assert parse_config(read_json(tmp_path / "config.json")).num_layers == 3


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(list(FAMILIES)),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)
KNOWN_KEYS = sorted(
    {
        *LLAMA,
        *GPT2,
        *GPT_NEO,
        *YARN,
        *LLAMA3,
        "torch_dtype",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "head_dim",
    }
    | {"layer_types", "sliding_window", "quantization_config", "eos_token_id", "hidden_act", "tie_word_embeddings"}
)


@given(
    start=st.sampled_from([LLAMA, GPT2, GPT_NEO, {**LLAMA, "architectures": ["Qwen2ForCausalLM"]}]),
    changes=st.dictionaries(st.sampled_from(KNOWN_KEYS), JSON_VALUES, max_size=3),
    scaling=st.dictionaries(
        st.sampled_from([*YARN, *LLAMA3, "truncate", "mscale", "beta_fast"]), JSON_VALUES, max_size=3
    ),
)
def test_any_content_is_read_or_refused(
    start: dict[str, Any], changes: dict[str, Any], scaling: dict[str, Any]
) -> None:
    for rope in ({}, {"rope_parameters": {**YARN, **scaling}}, {"rope_scaling": {**LLAMA3, **scaling}}):
        try:
            accepted = parse_config({**start, **rope, **changes})
        except ModelRefused:
            continue
        assert len(accepted.windows) == len(accepted.attention_scales) == accepted.num_layers
        assert np.isfinite(inv_freq(accepted)).all()
