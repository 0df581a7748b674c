"""Llama and the families of its shape: Llama 2 and 3, Mistral, SmolLM, Qwen 2 and Qwen 3.

They differ in biases, norms of q and k, windows and rope scaling, all of which the config says.
"""

from __future__ import annotations

from tripos.models.config import ModelConfig
from tripos.models.families.blocks import gated_mlp, lm_head, rope_attention
from tripos.plan.ir import Plan
from tripos.plan.ops import Tracer


def trace_llama(config: ModelConfig) -> Plan:
    """Pre-norm decoder with RMS norms, rope and a gated feed-forward."""
    t, eps = Tracer(), config.norm_eps
    x = t.embed("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    for layer in range(config.num_layers):
        name = f"model.layers.{layer}"
        h = t.norm(x, f"{name}.input_layernorm.weight", eps=eps)
        x = t.add(x, rope_attention(t, h, config, layer, f"{name}.self_attn"))
        h = t.norm(x, f"{name}.post_attention_layernorm.weight", eps=eps)
        x = t.add(x, gated_mlp(t, h, config, f"{name}.mlp"))
    x = t.norm(t.select(x), "model.norm.weight", eps=eps)
    return lm_head(t, x, config, "model.embed_tokens.weight")
