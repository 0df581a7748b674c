"""Which function traces which architecture, and how checkpoints deviate from the plan."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tripos.errors import ModelRefused
from tripos.models.config import ModelConfig
from tripos.models.families.gpt import trace_gpt2, trace_gpt_neo
from tripos.models.families.llama import trace_llama
from tripos.plan.formats import FORMATS, to_float32
from tripos.plan.ir import Plan, Weights, WeightTensor

MAX_NAMED = 8  # tensors in a note
_LAYER = re.compile(r"\.(?:layers|h)\.(\d{1,6})\.")


@dataclass(frozen=True)
class Architecture:
    """How to trace a family, and how its checkpoints are stored."""

    trace: Callable[[ModelConfig], Plan]
    embedding: str = "embed_tokens.weight"
    prefix: str = "model."  # of every tensor but lm_head; checkpoints of the model without a head omit it
    transposed: tuple[str, ...] = ()  # endings of the weights stored [in, out]


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture(trace_llama),
    "MistralForCausalLM": Architecture(trace_llama),
    "Qwen2ForCausalLM": Architecture(trace_llama),
    "Qwen3ForCausalLM": Architecture(trace_llama),
    "GPT2LMHeadModel": Architecture(
        trace_gpt2,
        "wte.weight",
        "transformer.",
        ("c_attn.weight", "attn.c_proj.weight", "c_fc.weight", "mlp.c_proj.weight"),
    ),
    "GPTNeoForCausalLM": Architecture(trace_gpt_neo, "wte.weight", "transformer."),
}
HEAD = "lm_head.weight"
BUFFERS = (
    ".attn.bias",
    ".attention.bias",
    ".masked_bias",
    ".rotary_emb.inv_freq",
)  # saved by old exporters, no weights


def trace(config: ModelConfig) -> Plan:
    """The architecture's plan, not yet optimized."""
    return ARCHITECTURES[config.architecture].trace(config)


def adapt_weights(config: ModelConfig, weights: Weights) -> Weights:
    """The checkpoint under the plan's names and orientation. Lazy: a tensor is copied when asked for, and only if it
    must be transposed."""
    return AdaptedWeights(ARCHITECTURES[config.architecture], config.tie_word_embeddings, weights)


def with_own_head(config: ModelConfig, weights: Weights) -> tuple[ModelConfig, tuple[str, ...]]:
    """The config, untied where the checkpoint has a head that differs from the embedding, and a note on it.

    `weights` as stored. transformers 5 keeps such a head, too, whatever tie_word_embeddings says.
    """
    if not config.tie_word_embeddings or HEAD not in weights:
        return config, ()
    architecture = ARCHITECTURES[config.architecture]
    untied = replace(config, tie_word_embeddings=False)
    apart = adapt_weights(untied, weights)
    table = apart.get(architecture.prefix + architecture.embedding)
    if table is None or _is_same(apart[HEAD], table):
        return config, ()
    return untied, (f"{HEAD} is not the embedding and is kept, although tie_word_embeddings is true",)


def _is_same(head: WeightTensor, table: WeightTensor) -> bool:
    if head.panels is not None or head.shape != table.shape:
        return False  # a packed checkpoint has a head only where it differs
    if head.dtype == table.dtype:
        return np.array_equal(head.data.reshape(-1).view(np.uint8), table.data.reshape(-1).view(np.uint8))
    return np.array_equal(to_float32(head), to_float32(table))


class RenamedWeights(Weights):
    """A checkpoint under other names. `stored_names`: the new name -> the checkpoint's."""

    def __init__(self, weights: Weights, stored_names: Mapping[str, str]) -> None:
        self._weights = weights
        self._stored_names = stored_names

    def __getitem__(self, name: str) -> WeightTensor:
        tensor = self._weights[self._stored_names[name]]
        return tensor if tensor.name == name else replace(tensor, name=name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored_names)

    def __len__(self) -> int:
        return len(self._stored_names)


class AdaptedWeights(RenamedWeights):
    """A view of a checkpoint; see adapt_weights."""

    def __init__(self, architecture: Architecture, is_tied: bool, weights: Weights) -> None:
        self._transposed = architecture.transposed
        prefix = "" if any(name.startswith(architecture.prefix) for name in weights) else architecture.prefix
        stored = {name if name == HEAD else prefix + name: name for name in weights if not name.endswith(BUFFERS)}
        if is_tied and (head := stored.pop(HEAD, None)):
            # a tied head is the embedding
            stored.setdefault(architecture.prefix + architecture.embedding, head)
        super().__init__(weights, stored)

    def __getitem__(self, name: str) -> WeightTensor:
        tensor = super().__getitem__(name)
        if tensor.panels is not None or not name.endswith(self._transposed):
            return tensor
        if len(tensor.shape) != 2 or tensor.dtype not in ("f32", "f16", "bf16"):
            raise ModelRefused(
                f"{name} is {tensor.dtype} {list(tensor.shape)}; expected a float matrix stored [in, out]"
            )
        data = np.ascontiguousarray(tensor.data.reshape(tensor.shape).T)
        return replace(tensor, shape=data.shape, data=data)


def check_weights(plan: Plan, weights: Weights) -> tuple[str, ...]:
    """Names of the tensors that an unfused plan does not use.

    Raises ModelRefused naming the tensor that is missing, misshapen or of an unknown type.
    """
    for name, spec in plan.weights.items():
        tensor = weights.get(name)
        if tensor is None:
            raise ModelRefused(f"tensor {name} is missing from the checkpoint; the config asks for {list(spec.shape)}")
        if tensor.shape != spec.shape:
            raise ModelRefused(f"tensor {name} has shape {list(tensor.shape)}; the config asks for {list(spec.shape)}")
        if tensor.dtype not in FORMATS and tensor.panels is None:
            raise ModelRefused(f"tensor {name} is stored as {tensor.dtype}; supported: {', '.join(FORMATS)}")
    return tuple(sorted(set(weights) - set(plan.weights)))


def notes_on_unused(names: Sequence[str], num_layers: int) -> tuple[str, ...]:
    """Notes on tensors that the plan does not use: layers by number, others by name."""
    layers = {int(match[1]) for name in names if (match := _LAYER.search(name)) and int(match[1]) >= num_layers}
    others = [name for name in names if not ((match := _LAYER.search(name)) and int(match[1]) in layers)]
    notes = []
    if layers:
        notes.append(
            f"layers {min(layers)} to {max(layers)} of the checkpoint are not used: the config's num_hidden_layers is "
            f"{num_layers}"
        )
    if others:
        more = f" and {len(others) - MAX_NAMED} more" if len(others) > MAX_NAMED else ""
        notes.append(f"{len(others)} tensors are not used: {', '.join(others[:MAX_NAMED])}{more}")
    return tuple(notes)
