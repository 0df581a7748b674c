"""GPT-2 and GPT-Neo: learned positions, layer norms, plain feed-forward. They differ in how q, k and v are stored."""

from __future__ import annotations

from collections.abc import Callable

from tripos.models.config import ModelConfig
from tripos.models.families.blocks import attend, linear, lm_head, plain_mlp
from tripos.plan.ir import Plan, View
from tripos.plan.ops import Tracer

Attention = Callable[[Tracer, View, ModelConfig, int, str], View]


def trace_gpt2(config: ModelConfig) -> Plan:
    """GPT-2: one projection gives q, k and v."""
    return _trace(config, _fused_attention)


def trace_gpt_neo(config: ModelConfig) -> Plan:
    """GPT-Neo: q, k and v apart and without biases; every other layer sees a window, nothing is scaled."""
    return _trace(config, _split_attention)


def _trace(config: ModelConfig, attention: Attention) -> Plan:
    t = Tracer()
    tokens = t.embed("transformer.wte.weight", config.vocab_size, config.hidden_size)
    places = t.embed("transformer.wpe.weight", config.max_position_embeddings, config.hidden_size, source="positions")
    x = t.add(tokens, places)
    for layer in range(config.num_layers):
        name = f"transformer.h.{layer}"
        x = t.add(x, attention(t, _norm(t, x, config, f"{name}.ln_1"), config, layer, f"{name}.attn"))
        x = t.add(x, plain_mlp(t, _norm(t, x, config, f"{name}.ln_2"), config, f"{name}.mlp"))
    x = _norm(t, t.select(x), config, "transformer.ln_f")
    return lm_head(t, x, config, "transformer.wte.weight")


def _norm(t: Tracer, x: View, config: ModelConfig, name: str) -> View:
    return t.norm(x, f"{name}.weight", bias=f"{name}.bias", eps=config.norm_eps, kind="layer")


def _fused_attention(t: Tracer, x: View, config: ModelConfig, layer: int, name: str) -> View:
    size = config.hidden_size
    qkv = linear(t, x, f"{name}.c_attn", 3 * size, config.attention_bias)
    q, k, v = (View(qkv.tensor, part * size, size) for part in range(3))
    return linear(t, attend(t, q, k, v, config, layer), f"{name}.c_proj", size, config.attention_out_bias)


def _split_attention(t: Tracer, x: View, config: ModelConfig, layer: int, name: str) -> View:
    size, inner = config.hidden_size, f"{name}.attention"
    q, k, v = (linear(t, x, f"{inner}.{part}_proj", size, config.attention_bias) for part in "qkv")
    return linear(t, attend(t, q, k, v, config, layer), f"{inner}.out_proj", size, config.attention_out_bias)
