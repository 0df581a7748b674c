"""Makes tests/models/golden_adapters: small LoRA adapters of the models in golden/, and what PEFT says of them.

Run in an environment of its own: python tests/models/make_golden_adapters.py
Made with torch 2.13.0 (cpu), transformers 5.24.0, peft 0.21.2, numpy 2.4.6.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

GOLDEN = Path(__file__).parent / "golden"
FOLDER = Path(__file__).parent / "golden_adapters"
PROMPT_LENGTHS = (1, 9, 40)

# name -> the model that it adapts, and how
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-list": ("llama-gqa-tied", {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    "llama-patterns": (
        "llama-gqa-tied",
        {
            "r": 4, "lora_alpha": 6, "target_modules": "all-linear", "use_rslora": True,
            "rank_pattern": {"down_proj": 7, "model.layers.1.self_attn.q_proj": 2},
            "alpha_pattern": {"self_attn.q_proj": 20, "gate_proj": 3},
        },
    ),
    "qwen3-expression": (
        "qwen3", {"r": 3, "lora_alpha": 5, "target_modules": r"model\.layers\.1\..*(k|o|up|down)_proj"}
    ),
    "qwen2-layers": (
        "qwen2",
        {"r": 2, "lora_alpha": 16, "target_modules": ["k_proj", "gate_proj", "up_proj"], "layers_to_transform": [1]},
    ),
    "gpt2-conv": (
        "gpt2", {"r": 5, "lora_alpha": 10, "target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}
    ),
    "gpt-neo": ("gpt-neo", {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "out_proj", "c_fc"]}),
}  # fmt: skip


@torch.no_grad()
def make(name: str, base: str, values: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(len(name))
    model = AutoModelForCausalLM.from_pretrained(GOLDEN / base, dtype=torch.float32, attn_implementation="eager")
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.1, **values)).eval()
    for parameter, weight in adapted.named_parameters():
        if "lora_" in parameter:
            noise = torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5
            weight.copy_(noise.to(torch.bfloat16).float())
    golden: dict[str, np.ndarray] = {}
    for index, length in enumerate(PROMPT_LENGTHS):
        prompt = torch.randint(0, model.config.vocab_size, (length,), generator=generator)
        golden[f"prompt_{index}"] = prompt.numpy().astype(np.int32)
        golden[f"logits_{index}"] = adapted(prompt[None], use_cache=False).logits[0].numpy()
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    adapted.peft_config["default"].base_model_name_or_path = base
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    np.savez_compressed(folder / "golden.npz", **golden)
    print(f"{name}: {sum(f.stat().st_size for f in folder.iterdir()) >> 10} KiB")


if __name__ == "__main__":
    for name, (base, values) in ADAPTERS.items():
        make(name, base, values)
