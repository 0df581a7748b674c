"""Which function traces which architecture, and the one place that knows how checkpoints deviate from the plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tripos.errors import ModelRefused
from tripos.models.config import ModelConfig
from tripos.models.gpt import trace_gpt2, trace_gpt_neo
from tripos.models.llama import trace_llama
from tripos.plan.formats import FORMATS
from tripos.plan.ir import Plan, Weights, WeightTensor


@dataclass(frozen=True)
class Architecture:
    """How to trace a family, and how its checkpoints are stored."""

    trace: Callable[[ModelConfig], Plan]
    prefix: str = "model."  # of every tensor but lm_head; checkpoints of the bare model leave it out
    transposed: tuple[str, ...] = ()  # endings of the weights stored [in, out]


ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": Architecture(trace_llama),
    "MistralForCausalLM": Architecture(trace_llama),
    "Qwen2ForCausalLM": Architecture(trace_llama),
    "Qwen3ForCausalLM": Architecture(trace_llama),
    "GPT2LMHeadModel": Architecture(
        trace_gpt2, "transformer.", ("c_attn.weight", "attn.c_proj.weight", "c_fc.weight", "mlp.c_proj.weight")
    ),
    "GPTNeoForCausalLM": Architecture(trace_gpt_neo, "transformer."),
}
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


class AdaptedWeights(Weights):
    """A view of a checkpoint; see adapt_weights."""

    def __init__(self, architecture: Architecture, is_tied: bool, weights: Weights) -> None:
        self._weights = weights
        self._transposed = architecture.transposed
        prefix = "" if any(name.startswith(architecture.prefix) for name in weights) else architecture.prefix
        self._stored_names = {
            name if name == "lm_head.weight" else prefix + name: name
            for name in weights
            if not name.endswith(BUFFERS) and not (is_tied and name == "lm_head.weight")
        }

    def __getitem__(self, name: str) -> WeightTensor:
        tensor = self._weights[self._stored_names[name]]
        if tensor.name != name:
            tensor = replace(tensor, name=name)
        if tensor.panels is not None or not name.endswith(self._transposed):
            return tensor
        if len(tensor.shape) != 2 or tensor.dtype not in ("f32", "f16", "bf16"):
            raise ModelRefused(
                f"{name} is {tensor.dtype} {list(tensor.shape)}; expected a float matrix stored [in, out]"
            )
        data = np.ascontiguousarray(tensor.data.reshape(tensor.shape).T)
        return replace(tensor, shape=data.shape, data=data)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored_names)

    def __len__(self) -> int:
        return len(self._stored_names)


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
