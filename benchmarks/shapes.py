"""Named shapes of public models, and random weights for them: what benchmarks run without a checkpoint."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tripos.plan.formats import float32_to_bf16
from tripos.plan.ir import Plan, Weights, WeightTensor

# As in the config.json of the models named; "rope_theta" and "rope_scaling" as written before transformers 5.
SHAPES: dict[str, dict[str, Any]] = {
    "smollm2-135m": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 576, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "vocab_size": 49152,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 100000, "rope_scaling": None,
        "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16",
    },
    "qwen3-0.6b": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 3072,
        "vocab_size": 151936, "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "rope_theta": 1000000,
        "rope_scaling": None, "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False,
        "use_sliding_window": False, "sliding_window": None, "max_window_layers": 28,
        "bos_token_id": 151643, "eos_token_id": 151645, "torch_dtype": "bfloat16",
    },
    "llama3.2-1b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 8192,
        "vocab_size": 128256, "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "hidden_act": "silu", "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False,
        "bos_token_id": 128000, "eos_token_id": 128001, "torch_dtype": "bfloat16",
    },
}  # fmt: skip

_STD = 0.02  # as models are initialised: logits stay finite at any depth
_POOL_SIZE = 1 << 23


def random_weights(plan: Plan, dtype: str = "bf16", seed: int = 0) -> Weights:
    """Normal weights for an unfused plan, in f32, f16 or bf16: the same for the same seed and tensor name.

    Vectors that scale (norms) lie around 1. Tensors repeat one pool of numbers from different places, so that
    a billion parameters cost little more than writing them.
    """
    pool = np.random.default_rng(seed).standard_normal(_POOL_SIZE, dtype=np.float32)
    stored = {around: _encode(around + _STD * pool, dtype) for around in (0.0, 1.0)}
    scales = {op.weights[0] for op in plan.ops if op.kind == "norm"}

    def tensor(name: str, shape: tuple[int, ...]) -> WeightTensor:
        start = zlib.crc32(f"{seed}/{name}".encode()) % (_POOL_SIZE // 2)
        source = stored[1.0 if name in scales else 0.0][start:]
        data = np.empty(math.prod(shape), source.dtype)
        for at in range(0, len(data), len(source)):
            data[at : at + len(source)] = source[: len(data) - at]
        return WeightTensor(name, dtype, shape, data.reshape(shape))

    return {name: tensor(name, spec.shape) for name, spec in plan.weights.items()}


def _encode(values: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    encoders: dict[str, Callable[[Any], Any]] = {"f32": np.float32, "f16": np.float16, "bf16": float32_to_bf16}
    if dtype not in encoders:
        raise ValueError(f"dtype {dtype}: expected one of {', '.join(encoders)}")
    return np.asarray(encoders[dtype](values))
