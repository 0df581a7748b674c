"""config.json, read strictly into a ModelConfig: every number is checked before anything is allocated.

Owns the names that checkpoints use for their sizes, and their silent defaults. Knows nothing of weights or plans.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tripos.errors import ModelRefused, plain, shown
from tripos.models.fields import MISSING, Family, Fields

CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")  # would run code from the model's directory
ACTIVATION_NAMES = {
    "silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
}  # fmt: skip
DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rope frequencies are stretched. Fields beside `kind` and `factor` are read by the kinds named.

    llama3: Llama 3.1 model card. yarn: Peng et al. 2023, https://arxiv.org/abs/2309.00071.
    """

    kind: Literal["none", "linear", "llama3", "yarn"] = "none"
    factor: float = 1.0
    original_max_position_embeddings: int = 0  # llama3, yarn
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # yarn: multiplies sin and cos
    truncate: bool = True  # yarn: whole-numbered ramp ends


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The sizes and switches of a decoder. `windows[layer]` is how many positions a layer sees, 0 = all."""

    architecture: str
    model_type: str
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    norm_eps: float
    hidden_act: str  # silu, gelu, gelu_tanh or relu
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling = RopeScaling()
    tie_word_embeddings: bool = False
    attention_bias: bool = False  # on q, k and v
    attention_out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False  # RMS norm over each head of q and k
    attention_scales: tuple[float, ...] = ()  # what each layer multiplies q·k by
    windows: tuple[int, ...] = ()
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "f32"  # of the checkpoint, as its config says: f32, f16 or bf16
    ignored_keys: tuple[str, ...] = ()  # keys that ask for code from the model's directory; never honoured


# Keys of other families that change the result and are not implemented -> the values at which they change nothing.
_CHANGING: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        ("embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale", "rotary_pct"), (1,)
    ),
    **dict.fromkeys(
        (
            "attn_logit_softcapping", "final_logit_softcapping", "attention_multiplier", "query_pre_attn_scalar",
            "clip_qkv", "num_experts", "num_local_experts", "attention_chunk_size", "no_rope_layers", "alibi",
            "use_bidirectional_attention",
        ),
        (0, False, []),
    ),
}  # fmt: skip
_QWEN_DEFAULTS = {"use_sliding_window": False, "max_window_layers": 28, "num_key_value_heads": 32}
_GPT = {"num_key_value_heads": None, "head_dim": None, "attention_out_bias": True, "mlp_bias": True}
_GPT_DEFAULTS = {"tie_word_embeddings": True, "hidden_act": "gelu_new", "rms_norm_eps": 1e-5}
_GPT2_KEYS = {
    "hidden_size": "n_embd", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head",
    "intermediate_size": "n_inner", "max_position_embeddings": "n_positions",
    "rms_norm_eps": "layer_norm_epsilon", "hidden_act": "activation_function",
}  # fmt: skip
_GPT_NEO_KEYS = {
    "num_hidden_layers": "num_layers", "num_attention_heads": "num_heads", "sliding_window": "window_size",
    "rms_norm_eps": "layer_norm_epsilon", "hidden_act": "activation_function",
}  # fmt: skip

FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(always={"sliding_window": None}),
    "MistralForCausalLM": Family(
        defaults={"sliding_window": 4096, "num_key_value_heads": 8}, always={"attention_bias": False, "mlp_bias": False}
    ),
    "Qwen2ForCausalLM": Family(
        defaults=_QWEN_DEFAULTS, always={"attention_bias": True, "attention_out_bias": False, "mlp_bias": False}
    ),
    "Qwen3ForCausalLM": Family(
        defaults={**_QWEN_DEFAULTS, "head_dim": 128}, always={"qk_norm": True, "mlp_bias": False}
    ),
    "GPT2LMHeadModel": Family(_GPT2_KEYS, _GPT_DEFAULTS, 4, {**_GPT, "attention_bias": True, "sliding_window": None}),
    "GPTNeoForCausalLM": Family(
        _GPT_NEO_KEYS, {**_GPT_DEFAULTS, "sliding_window": 256}, 4, {**_GPT, "attention_bias": False, "unscaled": True}
    ),
}


def parse_config(raw: Mapping[str, Any], file: str = "config.json") -> ModelConfig:
    """Check a config.json's content. Raises ModelRefused naming the file and the key that is wrong."""
    architecture = _architecture(raw, file)
    family = FAMILIES[architecture]
    f = Fields(raw, file, family)
    _check_supported(raw, f)
    hidden_size = f.integer("hidden_size", 1, 1 << 17)
    num_layers = f.integer("num_hidden_layers", 1, 1024)
    num_heads = f.integer("num_attention_heads", 1, 4096)
    num_kv_heads = f.integer("num_key_value_heads", 1, 4096, num_heads)
    if num_heads % num_kv_heads:
        raise f.refuse("num_key_value_heads", f"is {num_kv_heads}, which does not divide {num_heads} attention heads")
    vocab_size = f.integer("vocab_size", 1, 1 << 24)
    max_positions = f.integer("max_position_embeddings", 1, 1 << 24)
    rope = _rope_fields(raw, f, file)
    head_dim = _head_dim(f, hidden_size, num_heads)
    attention_bias = f.flag("attention_bias", False)
    return ModelConfig(
        architecture=architecture,
        model_type=str(raw.get("model_type", "")),
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=f.integer("intermediate_size", 1, 1 << 20, family.mlp_ratio * hidden_size or MISSING),
        vocab_size=vocab_size,
        max_position_embeddings=max_positions,
        norm_eps=f.number("rms_norm_eps", 0.0, 1.0, 1e-6),
        hidden_act=f.choice("hidden_act", ACTIVATION_NAMES, "silu"),
        rope_theta=rope.number("rope_theta", 1.001, 1e12, 10000.0),
        rope_scaling=_rope_scaling(rope, max_positions),
        tie_word_embeddings=f.flag("tie_word_embeddings", False),
        attention_bias=attention_bias,
        attention_out_bias=f.flag("attention_out_bias", attention_bias),
        mlp_bias=f.flag("mlp_bias", False),
        qk_norm=f.flag("qk_norm", False),
        attention_scales=_attention_scales(f, num_layers, head_dim),
        windows=_windows(f, num_layers),
        bos_token_id=(_token_ids(f, "bos_token_id", vocab_size) or (None,))[0],
        eos_token_ids=_token_ids(f, "eos_token_id", vocab_size),
        dtype=f.choice("dtype" if raw.get("dtype") is not None else "torch_dtype", DTYPES, "float32"),
        ignored_keys=tuple(key for key in CODE_KEYS if key in raw),
    )


def _check_supported(raw: Mapping[str, Any], f: Fields) -> None:
    if (quantization := raw.get("quantization_config")) is not None:
        method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
        raise f.refuse("quantization_config", f"names {shown(method)}, which is not supported: use a float checkpoint")
    for key, neutral in _CHANGING.items():
        if (value := raw.get(key)) is not None and value not in neutral:
            raise f.refuse(key, f"is {shown(value)}, which is not supported")


def _architecture(raw: Mapping[str, Any], file: str) -> str:
    names = raw.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelRefused(f"{file}: architectures names {shown(name)}; supported: {', '.join(FAMILIES)}")
    return name


def _head_dim(f: Fields, hidden_size: int, num_heads: int) -> int:
    if f.get("head_dim", None) is None and hidden_size % num_heads:
        raise f.refuse("hidden_size", f"is {hidden_size}, which {num_heads} attention heads do not divide")
    head_dim = f.integer("head_dim", 2, 1024, hidden_size // num_heads)
    if head_dim % 2:
        raise f.refuse("head_dim", f"is {head_dim}; expected an even number")
    return head_dim


def _attention_scales(f: Fields, num_layers: int, head_dim: int) -> tuple[float, ...]:
    scale = 1.0 if f.flag("unscaled", False) or not f.flag("scale_attn_weights", True) else head_dim**-0.5
    if f.flag("scale_attn_by_inverse_layer_idx", False):
        return tuple(scale / (layer + 1) for layer in range(num_layers))
    return (scale,) * num_layers


def _windows(f: Fields, num_layers: int) -> tuple[int, ...]:
    """Window of each layer: from layer_types, GPT-Neo's attention_types, or Qwen's first max_window_layers."""
    if f.get("sliding_window", None) is None or not f.flag("use_sliding_window", True):
        return (0,) * num_layers
    window = f.integer("sliding_window", 1, 1 << 24)
    first = f.integer("max_window_layers", 0, 1 << 24, 0)
    implied = ["full_attention" if layer < first else "sliding_attention" for layer in range(num_layers)]
    types = f.get("layer_types", None) or _unrolled(f, num_layers) or implied
    names = {"full_attention": 0, "global": 0, "sliding_attention": window, "local": window}
    if not isinstance(types, list) or len(types) != num_layers:
        raise f.refuse("layer_types", f"must list one attention type for each of {num_layers} layers")
    for name in types:
        if not isinstance(name, str) or name not in names:
            raise f.refuse("layer_types", f"names {shown(name)}; supported: {', '.join(names)}")
    return tuple(names[name] for name in types)


def _unrolled(f: Fields, num_layers: int) -> list[Any]:
    """GPT-Neo's [[["global", "local"], 6]] as one name per layer."""
    layers: list[Any] = []
    entries = f.get("attention_types", [])
    if not isinstance(entries, list):
        raise f.refuse("attention_types", f"is {shown(entries)}; expected a list")
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], list) and type(entry[1]) is int):
            raise f.refuse("attention_types", f"holds {shown(entry)}; expected [[name, ...], repeats]")
        if not 0 <= len(entry[0]) * entry[1] <= num_layers - len(layers):
            raise f.refuse("attention_types", f"describes more than {num_layers} layers")
        layers += entry[0] * entry[1]
    return layers


def _rope_fields(raw: Mapping[str, Any], f: Fields, file: str) -> Fields:
    """rope_parameters (transformers 5), or rope_scaling beside rope_theta (before)."""
    key = "rope_parameters" if raw.get("rope_parameters") is not None else "rope_scaling"
    inner = f.get(key, {})
    if not isinstance(inner, Mapping):
        raise f.refuse(key, f"is {shown(inner)}; expected an object")
    if several := [name for name, value in inner.items() if isinstance(value, Mapping | list)]:
        raise f.refuse(key, f"holds {shown(several[0])}, a rope for one kind of layer, which is not supported")
    fields = Fields({"rope_theta": raw.get("rope_theta"), **inner}, f"{file}: {key}", Family())
    for holder in (f, fields):
        if holder.number("partial_rotary_factor", 0.0, 1.0, 1.0) != 1.0:
            raise holder.refuse("partial_rotary_factor", "other than 1 is not supported")
    return fields


def _rope_scaling(f: Fields, max_positions: int) -> RopeScaling:
    names = {"default": "none", "none": "none", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
    kind = f.choice("rope_type" if f.get("rope_type", None) is not None else "type", names, "default")
    if kind == "none":
        return RopeScaling()
    factor = f.number("factor", 1.0, 1e6)
    if kind == "linear":
        return RopeScaling(kind="linear", factor=factor)
    original = f.integer("original_max_position_embeddings", 1, 1 << 24, max_positions)
    if kind == "llama3":
        low, high = f.number("low_freq_factor", 1e-6, 1e6), f.number("high_freq_factor", 1e-6, 1e6)
        if low >= high:
            raise f.refuse("low_freq_factor", f"is {plain(low)}; expected less than high_freq_factor {plain(high)}")
        return RopeScaling(
            kind="llama3",
            factor=factor,
            original_max_position_embeddings=original,
            low_freq_factor=low,
            high_freq_factor=high,
        )
    return RopeScaling(
        kind="yarn",
        factor=factor,
        original_max_position_embeddings=original,
        beta_fast=f.number("beta_fast", 1e-6, 1e6, 32.0),
        beta_slow=f.number("beta_slow", 1e-6, 1e6, 1.0),
        attention_factor=_yarn_attention_factor(f, factor),
        truncate=f.flag("truncate", True),
    )


def _yarn_attention_factor(f: Fields, factor: float) -> float:
    """The given one, or 0.1·mscale·ln(factor) + 1 as the paper's section 3.4 and DeepSeek's variant of it."""
    if f.get("attention_factor", None) is not None:
        return f.number("attention_factor", 1e-6, 1e6)
    top, bottom = f.number("mscale", 0.0, 1e6, 0.0), f.number("mscale_all_dim", 0.0, 1e6, 0.0)
    if top and bottom:
        return (0.1 * top * math.log(factor) + 1.0) / (0.1 * bottom * math.log(factor) + 1.0)
    return 0.1 * math.log(factor) + 1.0


def _token_ids(f: Fields, key: str, vocab_size: int) -> tuple[int, ...]:
    value = f.get(key, [])
    ids = value if isinstance(value, list) else [value]
    for token_id in ids:
        if type(token_id) is not int or not 0 <= token_id < vocab_size:
            raise f.refuse(key, f"holds {shown(token_id)}; expected token ids below vocab_size {vocab_size}")
    return tuple(ids)
