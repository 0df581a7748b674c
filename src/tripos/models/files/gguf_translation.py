"""A GGUF model in Hugging Face's terms: its metadata as a config.json, its tensors under canonical names.

Owns the two tables and what converters did to tensors (permuted q and k rows, transposed GPT-2 weights, rope factors).
What the numbers may be is checked by config.py, exactly as for a config.json.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tripos.errors import ModelRefused
from tripos.models.files.gguf import GgufFile
from tripos.models.files.gguf_rope import ROPE_FACTORS, rope_scaling
from tripos.models.files.safetensors import Checkpoint
from tripos.plan.formats import FORMATS, to_float32
from tripos.plan.ir import WeightTensor

_BLOCK = re.compile(r"blk\.(\d{1,5})\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class _Family:
    """A GGUF architecture: what it is called elsewhere, and the names of its parts."""

    architecture: str
    outer: Mapping[str, str]  # names outside the blocks, without .weight or .bias
    layer: str  # prefix of a block's tensors
    inner: Mapping[str, str]  # names inside a block
    is_permuted: bool = False  # the converter interleaved the halves of each head of q and k
    transposed: tuple[str, ...] = ()  # stored [out, in] here and [in, out] there


_LLAMA_OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_LLAMA_INNER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_GPT2_OUTER = {
    "token_embd": "transformer.wte", "position_embd": "transformer.wpe", "output_norm": "transformer.ln_f",
    "output": "lm_head",
}  # fmt: skip
_GPT2_INNER = {
    "attn_norm": "ln_1", "ffn_norm": "ln_2", "attn_qkv": "attn.c_attn", "attn_output": "attn.c_proj",
    "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj",
}  # fmt: skip
_FAMILIES = {
    "llama": _Family("LlamaForCausalLM", _LLAMA_OUTER, "model.layers", _LLAMA_INNER, is_permuted=True),
    "qwen2": _Family("Qwen2ForCausalLM", _LLAMA_OUTER, "model.layers", _LLAMA_INNER),
    "qwen3": _Family("Qwen3ForCausalLM", _LLAMA_OUTER, "model.layers", _LLAMA_INNER),
    "gpt2": _Family(
        "GPT2LMHeadModel", _GPT2_OUTER, "transformer.h", _GPT2_INNER,
        transposed=("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"),
    ),
}  # fmt: skip


_NOTHING = (0, False)
# Keys that change the answer and are not implemented -> the values at which they change nothing.
_CHANGING: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        (
            "expert_count", "use_parallel_residual", "attn_logit_softcapping", "final_logit_softcapping",
            "attention.max_alibi_bias", "attention.clamp_kqv", "attention.scale", "attention.output_scale",
            "attention.temperature_scale", "attention.temperature_length", "attention.shared_kv_layers",
            "attention.sliding_window_pattern", "rope.scaling.alpha", "rope.scaling.yarn_log_multiplier",
            "rope.dimension_sections", "rope.freq_base_swa", "rope.dimension_count_swa", "nextn_predict_layers",
            "swin_norm", "swiglu_clamp_exp", "rescale_every_n_layers", "activation_sparsity_scale",
            "full_attention_interval",
        ),
        _NOTHING,
    ),
    **dict.fromkeys(("logit_scale", "residual_scale", "embedding_scale"), (0, 1)),
    "attention.causal": (True,), "rope.scaling.yarn_ext_factor": (1,), "rope.scaling.yarn_attn_factor": (1,),
}  # fmt: skip
_READ = frozenset(
    (
        "block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
        "attention.head_count_kv", "attention.key_length", "attention.value_length", "attention.layer_norm_rms_epsilon",
        "attention.layer_norm_epsilon", "attention.sliding_window", "rope.dimension_count", "rope.freq_base",
        "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.attn_factor",
        "rope.scaling.original_context_length", "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
        # said, and without effect on the answer
        "vocab_size", "rope.scaling.finetuned", "expert_used_count", "pooling_type", "tensor_data_layout",
    )
)  # fmt: skip


class TranslatedWeights(Checkpoint):
    """A GGUF's tensors under canonical names. Those that a converter rearranged are put back when asked for."""

    def __init__(self, gguf: GgufFile) -> None:
        """Raises ModelRefused for an architecture or a tensor name that is not known."""
        family = _family(gguf)
        super().__init__(
            {
                _canonical_name(name, family, gguf.file): tensor
                for name, tensor in gguf.tensors.items()
                if name != ROPE_FACTORS  # they are in the config
            }
        )
        self._restore: dict[str, Callable[[WeightTensor], WeightTensor]] = {}
        heads = _metadata(gguf, "attention.head_count")
        kv_heads = _uniform(gguf, "attention.head_count_kv") or heads
        for name, tensor in self._tensors.items():
            if name.endswith(family.transposed):
                self._restore[name] = _transpose
            elif family.is_permuted and (".q_proj." in name or ".k_proj." in name):
                num_heads = heads if ".q_proj." in name else kv_heads
                if type(num_heads) is not int or num_heads < 1 or tensor.shape[0] % (2 * num_heads):
                    raise ModelRefused(f"{gguf.file}: {name} has {tensor.shape[0]} rows for {num_heads!a} heads")
                self._restore[name] = _Unpermute(num_heads)

    def __getitem__(self, name: str) -> WeightTensor:
        tensor = replace(self._tensors[name], name=name)
        restore = self._restore.get(name)
        return restore(tensor) if restore else tensor


@dataclass(frozen=True)
class _Unpermute:
    """Undo the converter's interleaving: rows of a head go from pairs (i, i + half) back to two halves.

    Works on whole rows, so it is exact for block formats, whose blocks lie within a row.
    """

    num_heads: int

    def __call__(self, tensor: WeightTensor) -> WeightTensor:
        rows = tensor.shape[0]
        order = np.arange(rows).reshape(self.num_heads, rows // self.num_heads // 2, 2).swapaxes(1, 2).reshape(-1)
        data = tensor.data.reshape(rows, -1)[order].reshape(tensor.data.shape)
        return replace(tensor, data=data)


def _transpose(tensor: WeightTensor) -> WeightTensor:
    """[out, in] as [in, out]; block formats, whose rows cannot be turned, become float32."""
    if FORMATS[tensor.dtype][0] > 1:
        tensor = replace(tensor, dtype="f32", data=to_float32(tensor))
    return replace(tensor, shape=tensor.shape[::-1], data=tensor.data.reshape(tensor.shape).T)


def _family(gguf: GgufFile) -> _Family:
    name = gguf.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in _FAMILIES:
        raise ModelRefused(
            f"{gguf.file}: general.architecture is {name!a}, which is not supported; supported: {', '.join(_FAMILIES)}"
        )
    return _FAMILIES[name]


def _canonical_name(name: str, family: _Family, file: str) -> str:
    if block := _BLOCK.fullmatch(name):
        number, part, ending = block.groups()
        if part in family.inner:
            return f"{family.layer}.{int(number)}.{family.inner[part]}.{ending}"
    part, _, ending = name.rpartition(".")
    if part in family.outer and ending in ("weight", "bias"):
        return f"{family.outer[part]}.{ending}"
    raise ModelRefused(f"{file}: tensor {name} is not part of a {family.architecture}; this variant is not supported")


def _own_keys(gguf: GgufFile) -> dict[str, Any]:
    """The architecture's own metadata without its name: "block_count" for "llama.block_count"."""
    prefix = f"{gguf.metadata.get('general.architecture')}."
    return {key.removeprefix(prefix): value for key, value in gguf.metadata.items() if key.startswith(prefix)}


def _metadata(gguf: GgufFile, key: str) -> Any:
    """One of the architecture's own keys; None where it is absent."""
    return gguf.metadata.get(f"{gguf.metadata.get('general.architecture')}.{key}")


def _uniform(gguf: GgufFile, key: str) -> Any:
    """A value that may be given per layer but must be the same in all."""
    value = _metadata(gguf, key)
    if not isinstance(value, np.ndarray):
        return value
    if len(set(value.tolist())) != 1:
        raise ModelRefused(f"{gguf.file}: {key} differs between layers, which is not supported")
    return value.tolist()[0]


def translated_config(gguf: GgufFile) -> dict[str, Any]:
    """The config.json of the model in the file; keys that the file leaves out are left out.

    Raises ModelRefused for what has no counterpart there (experts, partial rotation, unlike layers).
    """
    family = _family(gguf)
    _check_keys(gguf)
    is_gpt2 = family.architecture == "GPT2LMHeadModel"
    config = {
        "architectures": [family.architecture],
        "model_type": gguf.metadata["general.architecture"],
        **(_gpt2_sizes(gguf) if is_gpt2 else _llama_sizes(gguf)),
        "vocab_size": _vocab_size(gguf),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "bos_token_id": gguf.metadata.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.metadata.get("tokenizer.ggml.eos_token_id"),
    }
    return {key: value for key, value in config.items() if value is not None}


def _check_keys(gguf: GgufFile) -> None:
    """Refuse by name what would change the answer and is not implemented."""
    keys = _own_keys(gguf)
    for key, neutral in _CHANGING.items():
        value = keys.get(key)
        if value is not None and (isinstance(value, np.ndarray | list) or value not in neutral):
            shown = f"of {len(value)} values" if isinstance(value, np.ndarray | list) else f"{value!a}"
            raise ModelRefused(f"{gguf.file}: {key} is {shown}, which is not supported")
    window, positions = keys.get("attention.sliding_window"), keys.get("context_length")
    if window and not (type(window) is type(positions) is int and window >= positions):
        raise ModelRefused(
            f"{gguf.file}: attention.sliding_window is {window!a}; only a window as wide as the context is supported"
        )


def unread_keys(gguf: GgufFile) -> tuple[str, ...]:
    """Keys of the architecture that are neither read nor known to change nothing, for a note."""
    known = _READ | _CHANGING.keys()
    return tuple(sorted(ascii(key)[1:-1][:80] for key in _own_keys(gguf) if key not in known))


def _gpt2_sizes(gguf: GgufFile) -> dict[str, Any]:
    return {
        "n_embd": _metadata(gguf, "embedding_length"),
        "n_layer": _metadata(gguf, "block_count"),
        "n_head": _uniform(gguf, "attention.head_count"),
        "n_inner": _uniform(gguf, "feed_forward_length"),
        "n_positions": _metadata(gguf, "context_length"),
        "layer_norm_epsilon": _metadata(gguf, "attention.layer_norm_epsilon"),
        "activation_function": "gelu_new",
    }


def _llama_sizes(gguf: GgufFile) -> dict[str, Any]:
    heads, hidden_size = _uniform(gguf, "attention.head_count"), _metadata(gguf, "embedding_length")
    head_dim = _metadata(gguf, "attention.key_length")
    if head_dim is None and isinstance(heads, int) and heads > 0 and isinstance(hidden_size, int):
        head_dim = hidden_size // heads
    for key in ("rope.dimension_count", "attention.value_length"):
        if (size := _uniform(gguf, key)) not in (None, head_dim):
            raise ModelRefused(f"{gguf.file}: {key} is {size!a}, not the head size {head_dim}")
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": _metadata(gguf, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": _uniform(gguf, "attention.head_count_kv"),
        "head_dim": head_dim,
        "intermediate_size": _uniform(gguf, "feed_forward_length"),
        "max_position_embeddings": _metadata(gguf, "context_length"),
        "rms_norm_eps": _metadata(gguf, "attention.layer_norm_rms_epsilon"),
        "rope_theta": _metadata(gguf, "rope.freq_base"),
        "rope_scaling": rope_scaling(gguf, _own_keys(gguf), head_dim),
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in gguf.tensors,
        "attention_out_bias": "blk.0.attn_output.bias" in gguf.tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in gguf.tensors,
    }


def _vocab_size(gguf: GgufFile) -> int:
    embedding = gguf.tensors.get("token_embd.weight")
    tokens = gguf.metadata.get("tokenizer.ggml.tokens")
    if embedding is None or len(embedding.shape) != 2:
        raise ModelRefused(f"{gguf.file}: tensor token_embd.weight is missing or no matrix")
    if isinstance(tokens, list) and len(tokens) != embedding.shape[0]:
        raise ModelRefused(
            f"{gguf.file}: tokenizer.ggml.tokens has {len(tokens)} entries, token_embd.weight {embedding.shape[0]} rows"
        )
    return embedding.shape[0]
