"""Makes golden_generation.json with transformers 5.24.0: what generate answers under each generation_config.json.

Run once where torch and transformers are installed: python -m tests.models.make_golden_generation
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).with_name("golden_generation.json")
VOCAB, HIDDEN, INNER, HEADS, LAYERS = 300, 32, 64, 4, 2
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "intermediate_size": INNER, "vocab_size": VOCAB,
    "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False, "torch_dtype": "float32",
}  # fmt: skip
PROMPT = [256, 72, 101, 108, 108, 111, 32, 72, 101]
LONGEST = 24


def weights() -> dict[str, np.ndarray]:
    """Random weights from a fixed seed, of a model that repeats itself, which is what the fields are about."""
    rng = np.random.default_rng(7)
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "lm_head.weight": (VOCAB, HIDDEN)}
    for layer in range(LAYERS):
        name = f"model.layers.{layer}"
        shapes |= {f"{name}.self_attn.{part}_proj.weight": (HIDDEN, HIDDEN) for part in "qkvo"}
        shapes |= {f"{name}.mlp.{part}_proj.weight": (INNER, HIDDEN) for part in ("gate", "up")}
        shapes |= {f"{name}.mlp.down_proj.weight": (HIDDEN, INNER)}
    scales = {name: 0.12 if ".layers." in name else 0.3 for name in shapes}  # small: the last token says most
    tensors = {name: rng.standard_normal(shape).astype(np.float32) * scales[name] for name, shape in shapes.items()}
    norms = [f"model.layers.{layer}.{place}" for layer in range(LAYERS) for place in ("input", "post_attention")]
    ones = {f"{name}_layernorm.weight": np.ones(HIDDEN, np.float32) for name in norms}
    return tensors | ones | {"model.norm.weight": np.ones(HIDDEN, np.float32)}


def cases(free: list[int]) -> list[dict[str, Any]]:
    """generation_config.json of each case; `free` is what the model answers without one."""
    first, second, third = free[0], free[1], free[2]
    end = {"eos_token_id": free[4]}
    return [
        {},
        {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "top_k": 5},
        {"suppress_tokens": [first, third, -1, 10**6]},
        {"begin_suppress_tokens": [first]},
        {"bad_words_ids": [[second]]},
        {"bad_words_ids": [[first, second], [PROMPT[-1], first], [second, third, free[3]]]},
        {"bad_words_ids": [[free[4]], [first, second]], **end},
        *({"no_repeat_ngram_size": size} for size in (1, 2, 3, 5)),
        {"repetition_penalty": 1.4},
        {"repetition_penalty": 0.7, "do_sample": False},
        {"sequence_bias": [[[first], -4.0], [[second, third], 5.0], [[third], 1.5]]},
        end,
        {"min_new_tokens": 9, **end},
        {"min_length": 20, **end},
        {"min_length": 20, "min_new_tokens": 6, **end},
        {"max_new_tokens": 7},
        {"max_length": 15},
        {"max_length": 15, "max_new_tokens": 10},
        {"no_repeat_ngram_size": 2, "suppress_tokens": [second], "repetition_penalty": 1.2, "bad_words_ids": [[77]]},
    ]  # fmt: skip


def main() -> None:
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**{key: value for key, value in CONFIG.items() if key != "architectures"}))
    model.load_state_dict({name: torch.from_numpy(array) for name, array in weights().items()})
    model.eval()

    def answer(given: dict[str, Any]) -> list[int]:
        has_limit = "max_new_tokens" in given or "max_length" in given
        limit = {} if has_limit else {"max_new_tokens": LONGEST}
        model.generation_config = GenerationConfig(**given, **limit, pad_token_id=0)
        ids = torch.tensor([PROMPT])
        with torch.no_grad():
            out = model.generate(ids, attention_mask=torch.ones_like(ids))
        return out[0, len(PROMPT) :].tolist()

    free = answer({})
    found = [{"generation_config": given, "answer": answer(given)} for given in cases(free)]
    GOLDEN.write_text("[\n" + ",\n".join(json.dumps(each) for each in found) + "\n]\n")


if __name__ == "__main__":
    main()
