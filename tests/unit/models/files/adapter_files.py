"""Writers of adapter directories for a given set of linears, honest unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.models.files.writing import safetensors_bytes, write

CONFIG: dict[str, Any] = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "lora_dropout": 0.1, "bias": "none",
    "target_modules": ["q_proj", "v_proj"], "fan_in_fan_out": False, "modules_to_save": None, "use_dora": False,
    "base_model_name_or_path": "somewhere/else", "inference_mode": True,
}  # fmt: skip


def matrices(shapes: Mapping[str, tuple[int, int]], rank: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """lora_A and lora_B of each module whose weight has the given shape [N, K]."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for module, (outputs, inputs) in shapes.items():
        prefix = f"base_model.model.{module}"
        tensors[f"{prefix}.lora_A.weight"] = rng.standard_normal((rank, inputs)).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = rng.standard_normal((outputs, rank)).astype(np.float32)
    return tensors


def adapter_folder(folder: Path, tensors: Mapping[str, np.ndarray], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "adapter_config.json", CONFIG | config)
    write(folder / "adapter_model.safetensors", safetensors_bytes(dict(tensors)))
    return folder
