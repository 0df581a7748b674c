"""The checkpoint with int8 weights per output channel, to be run with int8 activations per token (compressed-tensors).

Usage: python -m benchmarks.peers.write_w8a8 CHECKPOINT FOLDER.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import stored


def arguments(strategy: str, *, dynamic: bool) -> dict[str, Any]:
    return {"num_bits": 8, "type": "int", "symmetric": True, "strategy": strategy, "dynamic": dynamic}


QUANTIZATION = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": arguments("channel", dynamic=False),
            "input_activations": arguments("token", dynamic=True),
        }
    },
}


def quantized(tensors: stored.Tensors) -> stored.Tensors:
    found: stored.Tensors = {}
    for name, (kind, values) in tensors.items():
        if "_proj." not in name:
            found[name] = kind, values
            continue
        full = stored.float32(kind, values)
        scale = stored.float32("BF16", stored.bf16(np.abs(full).max(axis=1, keepdims=True) / 127))
        found[name] = "I8", np.clip(np.rint(full / scale), -127, 127).astype(np.int8)
        found[name + "_scale"] = "BF16", stored.bf16(scale)
    return found


def main() -> None:
    checkpoint, directory = Path(sys.argv[1]), Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    for path in checkpoint.glob("*.json"):
        shutil.copy(path, directory)
    config = json.loads((checkpoint / "config.json").read_text()) | {"quantization_config": QUANTIZATION}
    (directory / "config.json").write_text(json.dumps(config, indent=1))
    stored.write(directory / "model.safetensors", quantized(stored.read(checkpoint / "model.safetensors")))


if __name__ == "__main__":
    main()
