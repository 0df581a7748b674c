"""Checkpoints that others quantized, read as WeightTensors: the scheme chosen by config.json's own words.

Tested in tests/unit/models/files/test_quantized.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tripos.errors import ModelRefused, shown
from tripos.models.files.quantized.compressed import read_compressed
from tripos.models.files.quantized.grouped import read_autoround, read_awq, read_gptq
from tripos.models.files.quantized.layers import QuantizedWeights
from tripos.plan.ir import Weights

Reader = Callable[[Mapping[str, Any], Weights], QuantizedWeights]

READERS: dict[str, Reader] = {
    "awq": read_awq,
    "gptq": read_gptq,
    "compressed-tensors": read_compressed,
    "auto-round": read_autoround,
}


def read_quantized(settings: Any, weights: Weights) -> QuantizedWeights:
    """`settings` is config.json's quantization_config. Raises ModelRefused naming what is not supported."""
    method = settings.get("quant_method") if isinstance(settings, Mapping) else settings
    if not isinstance(settings, Mapping) or not isinstance(method, str) or method not in READERS:
        raise ModelRefused(
            f"config.json: quantization_config names {shown(method)}; read are {', '.join(READERS)}: "
            "choose such a checkpoint, a GGUF file or a float one with --weights"
        )
    return READERS[method](settings, weights)
