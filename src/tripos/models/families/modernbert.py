"""ModernBERT (Warner et al. 2024, https://arxiv.org/abs/2412.13663): rope, pre-norms without biases, gated
feed-forward, and windows in two layers of three.
"""

from __future__ import annotations

import numpy as np

from tripos.models.encoder_config import EncoderConfig
from tripos.plan.ir import View
from tripos.plan.ops import Tracer


def trace_modernbert(t: Tracer, config: EncoderConfig) -> View:
    """The last norm's output for every token: [T, hidden_size]."""
    x = _norm(t, t.embed("embeddings.tok_embeddings.weight", config.vocab_size, config.hidden_size), config,
              "embeddings.norm")  # fmt: skip
    for layer in range(config.num_layers):
        name = f"layers.{layer}"
        h = _norm(t, x, config, f"{name}.attn_norm") if layer else x  # the embeddings are normalised already
        x = t.add(x, _attention(t, h, config, layer, f"{name}.attn"))
        h = _norm(t, x, config, f"{name}.mlp_norm")
        both, size = t.linear(h, f"{name}.mlp.Wi.weight", 2 * config.intermediate_size), config.intermediate_size
        gated = t.glu(View(both.tensor, 0, size), View(both.tensor, size, size), act=config.hidden_act)
        x = t.add(x, t.linear(gated, f"{name}.mlp.Wo.weight", config.hidden_size))
    return _norm(t, x, config, "final_norm")


def trace_modernbert_head(t: Tracer, pooled: View, config: EncoderConfig) -> View:
    """The score of a pair: [S, 1]."""
    x = t.act(t.linear(pooled, "head.dense.weight", config.hidden_size), act="gelu")
    return t.linear(_norm(t, x, config, "head.norm"), "classifier.weight", config.num_labels, bias="classifier.bias")


def _attention(t: Tracer, x: View, config: EncoderConfig, layer: int, name: str) -> View:
    size, head_dim, theta = config.hidden_size, config.head_dim, config.rope_thetas[layer]
    qkv = t.linear(x, f"{name}.Wqkv.weight", 3 * size)
    q, k, v = (View(qkv.tensor, part * size, size) for part in range(3))
    frequencies = theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    table = t.constant(f"rope.inv_freq.{theta:g}", frequencies)
    q, k = (t.rope(part, head_dim=head_dim, inv_freq=table) for part in (q, k))
    mixed = t.self_attention(
        q, k, v, num_heads=config.num_heads, num_kv_heads=config.num_heads, head_dim=head_dim, scale=head_dim**-0.5,
        left=config.windows[layer], right=config.windows[layer],
    )  # fmt: skip
    return t.linear(mixed, f"{name}.Wo.weight", size)


def _norm(t: Tracer, x: View, config: EncoderConfig, name: str) -> View:
    return t.norm(x, f"{name}.weight", eps=config.norm_eps, kind="layer")
