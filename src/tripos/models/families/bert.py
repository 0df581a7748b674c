"""BERT and the encoders of its shape: RoBERTa, XLM-RoBERTa, CamemBERT and DistilBERT.

Learned positions, a norm after each sum, biases everywhere. They differ in names, token types, where positions begin,
and in the head that scores a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

from tripos.models.encoder_config import EncoderConfig
from tripos.plan.ir import View
from tripos.plan.ops import Tracer


@dataclass(frozen=True)
class Names:
    """A family's names of the parts of a layer."""

    layer: str
    qkv: tuple[str, str, str]
    out: str
    attention_norm: str
    wide: str
    narrow: str
    norm: str


_BERT = Names(
    "encoder.layer", ("attention.self.query", "attention.self.key", "attention.self.value"), "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
_DISTILBERT = Names(
    "transformer.layer", ("attention.q_lin", "attention.k_lin", "attention.v_lin"), "attention.out_lin",
    "sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm",
)  # fmt: skip


_HEADS = {  # family -> the layer over the first token, its activation, and the layer that gives the score
    "bert": ("pooler.dense", "tanh", "classifier"),
    "distilbert": ("pre_classifier", "relu", "classifier"),
    "roberta": ("classifier.dense", "tanh", "classifier.out_proj"),
}


def trace_bert(t: Tracer, config: EncoderConfig) -> View:
    """The last layer's output for every token: [T, hidden_size]."""
    names = _DISTILBERT if config.family == "distilbert" else _BERT
    x = _embed(t, config)
    for layer in range(config.num_layers):
        name = f"{names.layer}.{layer}"
        q, k, v = (linear(t, x, f"{name}.{part}", config.hidden_size) for part in names.qkv)
        mixed = t.self_attention(
            q, k, v, num_heads=config.num_heads, num_kv_heads=config.num_heads, head_dim=config.head_dim,
            scale=config.head_dim**-0.5,
        )  # fmt: skip
        x = _norm(t, t.add(x, linear(t, mixed, f"{name}.{names.out}", config.hidden_size)), config,
                  f"{name}.{names.attention_norm}")  # fmt: skip
        wide = t.act(linear(t, x, f"{name}.{names.wide}", config.intermediate_size), act=config.hidden_act)
        x = _norm(t, t.add(x, linear(t, wide, f"{name}.{names.narrow}", config.hidden_size)), config,
                  f"{name}.{names.norm}")  # fmt: skip
    return x


def trace_bert_head(t: Tracer, first: View, config: EncoderConfig) -> View:
    """The score of a pair, read from its first token: [S, 1]."""
    dense, act, score = _HEADS[config.family]
    pooled = t.act(linear(t, first, dense, config.hidden_size), act=act)
    return linear(t, pooled, score, config.num_labels)


def linear(t: Tracer, x: View, name: str, out_features: int) -> View:
    """A linear layer with its bias."""
    return t.linear(x, f"{name}.weight", out_features, bias=f"{name}.bias")


def _embed(t: Tracer, config: EncoderConfig) -> View:
    size = config.hidden_size
    tokens = t.embed("embeddings.word_embeddings.weight", config.vocab_size, size)
    num_rows = config.max_positions + config.position_offset
    places = t.embed(
        "embeddings.position_embeddings.weight", num_rows, size, source="positions", row_offset=config.position_offset
    )
    x = t.add(tokens, places)
    if config.type_vocab_size:
        table = "embeddings.token_type_embeddings.weight"
        x = t.add(x, t.embed(table, config.type_vocab_size, size, source="token_types"))
    return _norm(t, x, config, "embeddings.LayerNorm")


def _norm(t: Tracer, x: View, config: EncoderConfig, name: str) -> View:
    return t.norm(x, f"{name}.weight", bias=f"{name}.bias", eps=config.norm_eps, kind="layer")
