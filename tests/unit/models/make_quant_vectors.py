"""Makes quant_vectors.npz with the gguf package (0.19.0), the oracle of tests/unit/models/test_quant_vectors.py.

Run once where gguf is installed: python make_quant_vectors.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

BLOCKS = 6
TYPES = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_k": "Q4_K", "q5_k": "Q5_K", "q6_k": "Q6_K", "bf16": "BF16"}
SCALES = {"q8_0": (0,), "q4_0": (0,), "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,)}  # where float16 values lie
SIZES = {"q8_0": 34, "q4_0": 18, "q4_k": 144, "q5_k": 176, "q6_k": 210, "bf16": 64}


def main() -> None:
    random = np.random.default_rng(2026)
    arrays = {}
    for name, oracle_name in TYPES.items():
        raw = random.integers(0, 256, (BLOCKS, SIZES[name]), dtype=np.uint8)
        for at in SCALES.get(name, ()):  # any bits are a block, but its scales should be finite
            raw[:, at : at + 2] = random.normal(0, 0.1, BLOCKS).astype(np.float16).view(np.uint8).reshape(BLOCKS, 2)
        if name == "bf16":
            raw[:, 1::2] = 0x3F
        values = quants.dequantize(raw, getattr(GGMLQuantizationType, oracle_name))
        arrays |= {f"{name}_raw": raw.reshape(-1), f"{name}_values": values.astype(np.float32).reshape(-1)}
    np.savez_compressed(Path(__file__).with_name("quant_vectors.npz"), **arrays)


if __name__ == "__main__":
    main()
