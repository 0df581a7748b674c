"""The parts that decoders share, written with the tracer: attention, feed-forward, head, and rope's tables.

No part normalises or adds a residual: the family's layer does both, so that their order stands in one place.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from tripos.models.config import ModelConfig, RopeScaling
from tripos.plan.ir import Plan, View
from tripos.plan.ops import Tracer

ROPE_TABLE = "rope.inv_freq"


def linear(t: Tracer, x: View, name: str, out_features: int, has_bias: bool) -> View:
    """The linear layer `name`.weight (+ `name`.bias)."""
    return t.linear(x, f"{name}.weight", out_features, bias=f"{name}.bias" if has_bias else None)


def rope_attention(t: Tracer, x: View, config: ModelConfig, layer: int, name: str) -> View:
    """Attention with q/k/v/o projections, optional norms of q and k per head, and rope: [T, hidden_size]."""
    kv_cols = config.num_kv_heads * config.head_dim
    q = linear(t, x, f"{name}.q_proj", config.num_heads * config.head_dim, config.attention_bias)
    k = linear(t, x, f"{name}.k_proj", kv_cols, config.attention_bias)
    v = linear(t, x, f"{name}.v_proj", kv_cols, config.attention_bias)
    if config.qk_norm:
        q = t.norm(q, f"{name}.q_norm.weight", eps=config.norm_eps, group=config.head_dim)
        k = t.norm(k, f"{name}.k_norm.weight", eps=config.norm_eps, group=config.head_dim)
    table = t.constant(ROPE_TABLE, inv_freq(config))
    scale = config.rope_scaling.attention_factor
    q = t.rope(q, head_dim=config.head_dim, inv_freq=table, scale=scale)
    k = t.rope(k, head_dim=config.head_dim, inv_freq=table, scale=scale)
    mixed = attend(t, q, k, v, config, layer)
    return linear(t, mixed, f"{name}.o_proj", config.hidden_size, config.attention_out_bias)


def attend(t: Tracer, q: View, k: View, v: View, config: ModelConfig, layer: int) -> View:
    """Causal attention of one layer, as wide and scaled as the config says: [T, num_heads * head_dim]."""
    return t.attention(
        q, k, v, num_heads=config.num_heads, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim,
        scale=config.attention_scales[layer], window=config.windows[layer],
    )  # fmt: skip


def gated_mlp(t: Tracer, x: View, config: ModelConfig, name: str) -> View:
    """down(act(gate(x)) · up(x))."""
    gate = linear(t, x, f"{name}.gate_proj", config.intermediate_size, config.mlp_bias)
    up = linear(t, x, f"{name}.up_proj", config.intermediate_size, config.mlp_bias)
    return linear(t, t.glu(gate, up, act=config.hidden_act), f"{name}.down_proj", config.hidden_size, config.mlp_bias)


def plain_mlp(t: Tracer, x: View, config: ModelConfig, name: str) -> View:
    """proj(act(fc(x)))."""
    wide = linear(t, x, f"{name}.c_fc", config.intermediate_size, config.mlp_bias)
    return linear(t, t.act(wide, act=config.hidden_act), f"{name}.c_proj", config.hidden_size, config.mlp_bias)


def lm_head(t: Tracer, x: View, config: ModelConfig, embedding: str) -> Plan:
    """Logits [S, vocab_size] of selected, normed rows, by the embedding's own table when tied. Closes the trace."""
    table = embedding if config.tie_word_embeddings else "lm_head.weight"
    return t.plan(t.linear(x, table, config.vocab_size), vocab_size=config.vocab_size)


def inv_freq(config: ModelConfig) -> npt.NDArray[np.float32]:
    """Radians per position of each pair of columns: [head_dim / 2]."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies: npt.NDArray[np.float64] = np.power(config.rope_theta, -exponents)
    scaling = config.rope_scaling
    if scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    elif scaling.kind == "llama3":
        frequencies = _llama3(frequencies, scaling)
    elif scaling.kind == "yarn":
        frequencies = _yarn(frequencies, scaling, config.rope_theta)
    return frequencies.astype(np.float32)


def _llama3(frequencies: npt.NDArray[np.float64], scaling: RopeScaling) -> npt.NDArray[np.float64]:
    """Long wavelengths are divided by factor, short ones kept, those between blended."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)  # within the trained context
    retained = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    retained = np.clip(retained, 0.0, 1.0)
    return np.asarray(retained * frequencies + (1 - retained) * frequencies / scaling.factor)


def _yarn(frequencies: npt.NDArray[np.float64], scaling: RopeScaling, theta: float) -> npt.NDArray[np.float64]:
    """As llama3, but the blend is linear in the column between those turning beta_fast and beta_slow times."""
    num_pairs = len(frequencies)

    def column(turns: float) -> float:
        wavelength_ratio = scaling.original_max_position_embeddings / (turns * 2 * math.pi)
        return num_pairs * math.log(wavelength_ratio) / math.log(theta)

    low, high = column(scaling.beta_fast), column(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * num_pairs - 1)
    divided = np.clip((np.arange(num_pairs) - low) / max(high - low, 1e-3), 0.0, 1.0)
    return np.asarray((1 - divided) * frequencies + divided * frequencies / scaling.factor)
