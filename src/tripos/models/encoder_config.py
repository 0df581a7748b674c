"""config.json of an encoder, read strictly into an EncoderConfig: every number is checked before anything is allocated.

Owns which architectures are encoders and what each calls its sizes. Knows nothing of pooling
(sentence_transformers.py), weights or plans.
Tested in tests/models/test_encoder_golden.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tripos.models.config import ACTIVATION_NAMES
from tripos.models.fields import Family, Fields

_TASKS = ("Model", "ForMaskedLM", "ForSequenceClassification")
_DISTILBERT_KEYS = {
    "hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim", "hidden_act": "activation",
}  # fmt: skip
_BERT_DEFAULTS = {"type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "pad_token_id": 0}
_ROBERTA_DEFAULTS = {**_BERT_DEFAULTS, "type_vocab_size": 1, "layer_norm_eps": 1e-5, "pad_token_id": 1}
_MODERNBERT_DEFAULTS = {
    "layer_norm_eps": 1e-5, "hidden_act": "gelu", "pad_token_id": 50283, "global_attn_every_n_layers": 3,
    "local_attention": 128, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0, "classifier_pooling": "cls",
}  # fmt: skip
FAMILIES: dict[str, tuple[tuple[str, ...], Family]] = {  # family -> prefixes of its architectures, and its config.json
    "bert": (("Bert",), Family(defaults=_BERT_DEFAULTS)),
    "roberta": (("Roberta", "XLMRoberta", "Camembert"), Family(defaults=_ROBERTA_DEFAULTS)),
    "distilbert": (
        ("DistilBert",),
        Family(_DISTILBERT_KEYS, {**_BERT_DEFAULTS, "layer_norm_eps": 1e-12}, always={"type_vocab_size": 0}),
    ),
    "modernbert": (
        ("ModernBert",),
        Family({"hidden_act": "hidden_activation", "layer_norm_eps": "norm_eps"}, _MODERNBERT_DEFAULTS),
    ),
}
ENCODERS = {
    prefix + task: family for family, (prefixes, _) in FAMILIES.items() for prefix in prefixes for task in _TASKS
}


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """The sizes and switches of an encoder."""

    architecture: str
    family: str  # bert, roberta, distilbert or modernbert
    hidden_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_positions: int  # tokens of the longest input
    position_offset: int  # row of the position table that token 0 takes
    type_vocab_size: int  # rows of the table of token types; 0: there is none
    norm_eps: float
    hidden_act: str
    num_labels: int  # of the classification head; 0: none, the model embeds
    windows: tuple[int, ...] = ()  # modernbert: keys that each layer sees on each side, -1 = all
    rope_thetas: tuple[float, ...] = ()  # modernbert, per layer
    classifier_pooling: str = "cls"


def is_encoder(config: Mapping[str, Any]) -> bool:
    """Whether a config.json names an architecture of this file."""
    return _named(config) in ENCODERS


def parse_encoder_config(raw: Mapping[str, Any], file: str = "config.json") -> EncoderConfig:
    """Check a config.json's content. Raises ModelRefused naming the file and the key that is wrong."""
    architecture = str(_named(raw))
    family = ENCODERS[architecture]
    f = Fields(raw, file, FAMILIES[family][1])
    hidden_size, num_heads = f.integer("hidden_size", 1, 1 << 17), f.integer("num_attention_heads", 1, 4096)
    if hidden_size % num_heads:
        raise f.refuse("hidden_size", f"is {hidden_size}, which {num_heads} attention heads do not divide")
    kind = f.get("position_embedding_type", "absolute")
    if kind != "absolute" and family != "modernbert":
        raise f.refuse("position_embedding_type", f"is {kind!a}, which is not supported; supported: absolute")
    num_layers = f.integer("num_hidden_layers", 1, 1024)
    positions = f.integer("max_position_embeddings", 1, 1 << 24)
    pad_id = f.integer("pad_token_id", 0, 1 << 24)
    offset = pad_id + 1 if family == "roberta" else 0
    if offset >= positions:
        raise f.refuse("max_position_embeddings", f"is {positions}, which pad_token_id {pad_id} leaves no room in")
    windows, thetas = _modern_layers(f, raw, num_layers) if family == "modernbert" else ((), ())
    return EncoderConfig(
        architecture=architecture,
        family=family,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        head_dim=hidden_size // num_heads,
        intermediate_size=f.integer("intermediate_size", 1, 1 << 20),
        vocab_size=f.integer("vocab_size", 1, 1 << 24),
        max_positions=positions - offset,
        position_offset=offset,
        type_vocab_size=f.integer("type_vocab_size", 0, 1 << 16, 0),
        norm_eps=f.number("layer_norm_eps", 0.0, 1.0),
        hidden_act=f.choice("hidden_act", ACTIVATION_NAMES),
        num_labels=_num_labels(f, raw) if architecture.endswith("ForSequenceClassification") else 0,
        windows=windows,
        rope_thetas=thetas,
        classifier_pooling=f.choice("classifier_pooling", {"cls": "cls", "mean": "mean"}, "cls"),
    )


def _named(raw: Mapping[str, Any]) -> Any:
    names = raw.get("architectures")
    return names[0] if isinstance(names, list) and len(names) == 1 and isinstance(names[0], str) else None


def _num_labels(f: Fields, raw: Mapping[str, Any]) -> int:
    labels = raw.get("id2label")
    found = len(labels) if isinstance(labels, Mapping) and labels else f.integer("num_labels", 1, 1 << 16, 2)
    if found != 1:
        raise f.refuse(
            "id2label", f"names {found} labels; a classification head is supported with one label, as a reranker has"
        )
    return found


def _modern_layers(f: Fields, raw: Mapping[str, Any], num_layers: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Window and rope base of each layer: from layer_types and rope_parameters (transformers 5), or as before."""
    every = f.integer("global_attn_every_n_layers", 1, 1024)
    local = f.integer("local_attention", 2, 1 << 24) // 2
    implied = ["sliding_attention" if layer % every else "full_attention" for layer in range(num_layers)]
    types = raw.get("layer_types") or implied
    names = ("full_attention", "sliding_attention")
    if not isinstance(types, list) or len(types) != num_layers or any(name not in names for name in types):
        raise f.refuse("layer_types", f"must list one of {', '.join(names)} for each of {num_layers} layers")
    bases = dict(zip(names, (_theta(f, raw, names[0], "global"), _theta(f, raw, names[1], "local")), strict=True))
    return tuple(-1 if name == names[0] else local for name in types), tuple(bases[name] for name in types)


def _theta(f: Fields, raw: Mapping[str, Any], name: str, older: str) -> float:
    parameters = raw.get("rope_parameters")
    inner = parameters.get(name) if isinstance(parameters, Mapping) else None
    if isinstance(inner, Mapping):
        fields = Fields(inner, f"config.json: rope_parameters.{name}", Family())
        fields.choice("rope_type", {"default": "default"}, "default")
        return fields.number("rope_theta", 1.001, 1e12)
    return f.number(f"{older}_rope_theta", 1.001, 1e12)
