"""Makes quant_vectors.npz with the gguf package (0.19.0), the oracle of tests/unit/models/files/test_quant_vectors.py.

Run once where gguf is installed: python make_quant_vectors.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, quants

BLOCKS = 6
# format -> the gguf package's name, bytes per block, and where float16 values lie in it
TYPES: dict[str, tuple[str, int, tuple[int, ...]]] = {
    "q8_0": ("Q8_0", 34, (0,)), "q4_0": ("Q4_0", 18, (0,)), "q4_k": ("Q4_K", 144, (0, 2)),
    "q5_k": ("Q5_K", 176, (0, 2)), "q6_k": ("Q6_K", 210, (208,)), "bf16": ("BF16", 64, ()),
    "q5_0": ("Q5_0", 22, (0,)), "q5_1": ("Q5_1", 24, (0, 2)), "q2_k": ("Q2_K", 84, (80, 82)),
    "q3_k": ("Q3_K", 110, (108,)), "q4_1": ("Q4_1", 20, (0, 2)),
}  # fmt: skip


def main() -> None:
    random = np.random.default_rng(2026)
    arrays = {}
    for name, (oracle_name, size, halves) in TYPES.items():
        raw = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for at in halves:  # any bits are a block, but its scales should be finite
            raw[:, at : at + 2] = random.normal(0, 0.1, BLOCKS).astype(np.float16).view(np.uint8).reshape(BLOCKS, 2)
        if name == "bf16":
            raw[:, 1::2] = 0x3F
        values = quants.dequantize(raw, getattr(GGMLQuantizationType, oracle_name))
        arrays |= {f"{name}_raw": raw.reshape(-1), f"{name}_values": values.astype(np.float32).reshape(-1)}
    np.savez_compressed(Path(__file__).with_name("quant_vectors.npz"), **arrays)


if __name__ == "__main__":
    main()
