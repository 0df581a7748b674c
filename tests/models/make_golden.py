"""Makes tests/models/golden: tiny random models of every family, and what the original implementation says of them.

Run in an environment of its own: python tests/models/make_golden.py [NAME ...]
Made with torch 2.13.0 (cpu), transformers 5.23.0, safetensors 0.8.0, numpy 2.4.6.

Each model's weights are rounded to the type they are stored in, and then run in float32, without a cache.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

GOLDEN = Path(__file__).parent / "golden"
PROMPT_LENGTHS = (1, 7, 44)
NUM_GREEDY = 20
MIN_MARGIN = 0.02  # between the two likeliest tokens of each greedy step: no rounding may turn them

SMALL: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": 101, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 80, "bos_token_id": 1, "eos_token_id": 2
}  # fmt: skip
GPT_NEO: dict[str, Any] = {
    "vocab_size": 101, "hidden_size": 32, "num_layers": 4, "num_heads": 4,
    "attention_types": [[["global", "local"], 2]],
    "window_size": 8, "intermediate_size": 48, "max_position_embeddings": 80, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


MODELS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any], torch.dtype]] = {
    "llama-mha": (LlamaConfig, {**SMALL, "num_key_value_heads": 4}, torch.float32),
    "llama-gqa-tied": (LlamaConfig, {**SMALL, "tie_word_embeddings": True}, torch.bfloat16),
    "llama-llama3-rope": (
        LlamaConfig,
        SMALL | rope("llama3", rope_theta=500.0, factor=8.0, original_max_position_embeddings=16,
                     low_freq_factor=1.0, high_freq_factor=4.0),
        torch.float16,
    ),
    "llama-linear-rope": (LlamaConfig, SMALL | rope("linear", factor=2.5), torch.float16),
    "llama-yarn-rope": (
        LlamaConfig, SMALL | rope("yarn", factor=8.0, original_max_position_embeddings=16, beta_fast=4.0), torch.float16
    ),
    "llama-yarn-variant": (
        LlamaConfig,
        SMALL | {"head_dim": 16} | rope("yarn", factor=4.0, original_max_position_embeddings=32, attention_factor=1.4,
                                        beta_fast=3.0, beta_slow=0.5, truncate=False),
        torch.float16,
    ),
    "llama-biases": (LlamaConfig, {**SMALL, "attention_bias": True, "mlp_bias": True}, torch.float16),
    "llama-head-dim": (LlamaConfig, {**SMALL, "head_dim": 16, "hidden_act": "gelu_pytorch_tanh"}, torch.float16),
    "smollm": (
        LlamaConfig,
        {**SMALL, "hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True},
        torch.bfloat16,
    ),
    "mistral-window": (MistralConfig, {**SMALL, "sliding_window": 8}, torch.float16),
    "qwen2": (Qwen2Config, {**SMALL, "tie_word_embeddings": True}, torch.bfloat16),
    "qwen2-window": (
        Qwen2Config, {**SMALL, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, torch.float16
    ),
    "qwen3": (Qwen3Config, {**SMALL, "head_dim": 16}, torch.bfloat16),
    "qwen3-tied": (Qwen3Config, {**SMALL, "head_dim": 16, "tie_word_embeddings": True}, torch.bfloat16),
    "gpt2": (GPT2Config, GPT2, torch.float32),
    "gpt2-variant": (
        GPT2Config, {**GPT2, "scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu", "n_inner": 48},
        torch.float16,
    ),
    "gpt-neo": (GPTNeoConfig, GPT_NEO, torch.float16),
}  # fmt: skip


def randomize(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Weights that all matter: no scale is 1, no bias 0, and layers outweigh the embedding they are added to."""
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim == 1:
            values = 0.2 * noise if name.endswith("bias") else 1.0 + 0.3 * noise
        elif any(part in name for part in ("embed_tokens", "wte", "wpe")):
            values = 0.5 * noise
        else:
            fan_in_axis = 0 if model.config.model_type == "gpt2" else 1  # GPT-2 stores [in, out]
            values = 1.3 * noise / weight.shape[fan_in_axis] ** 0.5
        weight.data.copy_(values)


@torch.no_grad()
def continue_greedily(model: PreTrainedModel, prompt: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Logits of the prompt [len, vocab], the tokens that follow [NUM_GREEDY], the smallest margin among them."""
    tokens, margin = prompt, float("inf")
    for _ in range(NUM_GREEDY):
        top = model(tokens[None], use_cache=False).logits[0, -1].topk(2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        tokens = torch.cat([tokens, top.indices[:1]])
    return model(prompt[None], use_cache=False).logits[0], tokens[len(prompt) :], margin


def make(name: str, seed: int) -> bool:
    """Write one golden model; False when this seed's continuations are too close a call or too dull."""
    config_type, values, dtype = MODELS[name]
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_type(**values), attn_implementation="eager").eval()
    randomize(model, generator)
    for weight in model.parameters():  # and not buffers: rope's frequencies are float32 however weights are stored
        weight.data = weight.data.to(dtype).to(torch.float32)
    vocab_size = model.config.vocab_size
    golden: dict[str, np.ndarray] = {}
    for index, length in enumerate(PROMPT_LENGTHS):
        prompt = torch.randint(0, vocab_size, (length,), generator=generator)
        logits, greedy, margin = continue_greedily(model, prompt)
        if margin < MIN_MARGIN or len(set(greedy.tolist())) < 5:
            return False
        golden[f"prompt_{index}"] = prompt.numpy().astype(np.int32)
        golden[f"logits_{index}"] = logits.numpy()
        golden[f"greedy_{index}"] = greedy.numpy().astype(np.int32)
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(folder / "golden.npz", **golden)
    return True


def main(names: list[str]) -> None:
    for name in names or MODELS:
        seed = next(seed for seed in range(1000) if make(name, seed))
        print(f"{name}: seed {seed}, {sum(f.stat().st_size for f in (GOLDEN / name).iterdir()) >> 10} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
