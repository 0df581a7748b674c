"""A text encoder of any kind as a plan: encoders proper, and decoders whose last token is the vector.

Owns which function traces which family, how a checkpoint's tensors are renamed, and which row is the vector or score.
Tested in tests/models/test_encoder_golden.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tripos.errors import ModelRefused, shown
from tripos.models.config import FAMILIES as DECODERS
from tripos.models.config import parse_config
from tripos.models.encoder_config import ENCODERS, EncoderConfig, is_encoder, parse_encoder_config
from tripos.models.families.bert import trace_bert, trace_bert_head
from tripos.models.families.modernbert import trace_modernbert, trace_modernbert_head
from tripos.models.families.static import MAX_TOKENS, trace_static
from tripos.models.fields import Family, Fields
from tripos.models.files.sentence_transformers import Dense, Modules, parse_modules, torch_class
from tripos.models.registry import RenamedWeights, adapt_weights, trace
from tripos.models.task import SCORES, STATIC, task_of
from tripos.plan.ir import Plan, View, Weights
from tripos.plan.ops import Tracer
from tripos.plan.passes import embedding
from tripos.types import Task

_TOP = {"bert": "bert.", "roberta": "roberta.", "distilbert": "distilbert.", "modernbert": "model."}
_LEFT_OVER = re.compile(r"(.*\.)?position_ids|(pooler|cls|lm_head|head|decoder|vocab_\w+)\..*")  # buffers, other heads


@dataclass(frozen=True)
class Encoder:
    """What building an EncoderModel takes from a checkpoint's config."""

    architecture: str
    task: Task  # embed, or rerank for a cross-encoder
    plan: Plan  # as traced; its output is the vector or the score of each sequence
    modules: Modules
    row: str  # which row of a sequence is read: "first" or "last" (pool needs none)
    max_length: int  # tokens of the longest input
    vocab_size: int
    has_sigmoid: bool = False  # rerank: the score is the logit's sigmoid
    has_special_tokens: bool = True  # around each text
    num_token_types: int = 0  # of the table of token types; 0: there is none

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return min(self.plan.vocab_size, self.modules.truncate_dim or self.plan.vocab_size)


def open_encoder(config: Mapping[str, Any], weights: Weights, file: str = "config.json") -> tuple[Encoder, Weights]:
    """The plan, and the checkpoint under the plan's names. Raises ModelRefused."""
    if config.get("architectures") == [STATIC]:
        return _open_static(config, weights, file)
    if not is_encoder(config):
        return _open_decoder(config, weights, file)
    if task_of(config) == "embed":  # a pooled classifier is used without its head
        config = {**config, "architectures": [str(config["architectures"][0]).replace(SCORES, "Model")]}
    sizes, modules = parse_encoder_config(config, file), parse_modules(config)
    if modules.pooling is None and not sizes.num_labels:
        name = sizes.architecture
        raise ModelRefused(f"modules.json: a Transformer alone is a cross-encoder, and {name} gives no score")
    longest = min(sizes.max_positions, modules.max_length or sizes.max_positions)
    encoder = Encoder(
        architecture=sizes.architecture,
        task=task_of(config),
        plan=_trace(sizes, modules),
        modules=modules,
        row="last" if modules.pooling == "last" and not sizes.num_labels else "first",
        max_length=longest,
        vocab_size=sizes.vocab_size,
        has_sigmoid=_has_sigmoid(config, modules),
        num_token_types=sizes.type_vocab_size if modules.feeds_token_types else 0,
    )
    return encoder, RenamedWeights(weights, {name.removeprefix(_TOP[sizes.family]): name for name in weights})


def _trace(config: EncoderConfig, modules: Modules) -> Plan:
    t, is_modern = Tracer(), config.family == "modernbert"
    x = (trace_modernbert if is_modern else trace_bert)(t, config)
    pooling = (config.classifier_pooling if is_modern else "cls") if config.num_labels else modules.pooling
    x = t.pool(x) if pooling == "mean" else t.select(x)
    if config.num_labels:
        x = (trace_modernbert_head if is_modern else trace_bert_head)(t, x, config)
    for layer in modules.dense if not config.num_labels else ():
        x = _trace_dense(t, x, layer)
    return t.plan(x, vocab_size=x.cols)


def _trace_dense(t: Tracer, x: View, layer: Dense) -> View:
    """A layer of sentence-transformers over the pooled vectors: [S, out_features]. Raises ModelRefused."""
    if layer.in_features != x.cols:
        raise ModelRefused(f"{layer.name}/config.json: in_features is {layer.in_features}; its input has {x.cols}")
    bias = f"{layer.name}.linear.bias" if layer.has_bias else None
    x = t.linear(x, f"{layer.name}.linear.weight", layer.out_features, bias=bias)
    return t.act(x, act=layer.act) if layer.act else x


def _open_static(config: Mapping[str, Any], weights: Weights, file: str) -> tuple[Encoder, Weights]:
    """A table with a row for each token, and optional dense layers over their mean."""
    fields, modules = Fields(config, file, Family()), parse_modules(config)
    t, rows = Tracer(), fields.integer("vocab_size", 1, 1 << 24)
    x = trace_static(t, rows, fields.integer("hidden_size", 1, 1 << 17))
    for layer in modules.dense:
        x = _trace_dense(t, x, layer)
    encoder = Encoder(
        architecture=STATIC,
        task="embed",
        plan=t.plan(x, vocab_size=x.cols),
        modules=modules,
        row="first",
        max_length=MAX_TOKENS,
        vocab_size=rows,
        has_special_tokens=False,
    )
    return encoder, weights


def _open_decoder(config: Mapping[str, Any], weights: Weights, file: str) -> tuple[Encoder, Weights]:
    """A decoder whose vector is the last token's hidden state, as Qwen3-Embedding and E5-Mistral are."""
    architecture, modules = _decoder_name(config, file), parse_modules(config)
    if modules.pooling != "last":
        raise ModelRefused(
            f"1_Pooling/config.json: pooling_mode {modules.pooling or 'none'} of a decoder is not supported: "
            "only lasttoken is"
        )
    if modules.dense:
        raise ModelRefused("modules.json: a Dense after a decoder is not supported; only after an encoder")
    sizes = parse_config({**config, "architectures": [architecture]}, file)
    encoder = Encoder(
        architecture=architecture,
        task="embed",
        plan=embedding(trace(sizes)),
        modules=modules,
        row="last",
        max_length=min(sizes.max_position_embeddings, modules.max_length or sizes.max_position_embeddings),
        vocab_size=sizes.vocab_size,
    )
    return encoder, adapt_weights(sizes, weights)


def _decoder_name(config: Mapping[str, Any], file: str) -> str:
    """Checkpoints of the bare decoder are called Qwen3Model, not Qwen3ForCausalLM."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else None
    full = name.removesuffix("Model") + "ForCausalLM" if isinstance(name, str) and name.endswith("Model") else name
    if not isinstance(full, str) or full not in DECODERS:
        raise ModelRefused(
            f"{file}: architectures names {shown(names)}; supported: {', '.join([*ENCODERS, *DECODERS])}"
        )
    return full


def _has_sigmoid(config: Mapping[str, Any], modules: Modules) -> bool:
    """Cross-encoders of one label end in a sigmoid unless one of their files names another activation."""
    inner = config.get("sentence_transformers")
    named = modules.activation or (inner.get("activation_fn") if isinstance(inner, Mapping) else None)
    named = named or config.get("sbert_ce_default_activation_function") or "torch.nn.modules.activation.Sigmoid"
    kind = torch_class(named)
    if kind not in ("Sigmoid", "Identity"):
        raise ModelRefused(
            f"config.json: activation_fn {shown(named)} is not supported; supported: torch's Sigmoid, Identity"
        )
    return kind == "Sigmoid"


def is_expected_leftover(name: str) -> bool:
    """Whether a tensor that the plan does not use is a buffer or belongs to a head that is not used."""
    return _LEFT_OVER.fullmatch(name) is not None
