"""AutoRound checkpoints (https://github.com/intel/auto-round): the tensors of GPTQ or of AWQ under settings of its own.

Knows which packing is whose; the tensors are read by gptq.py and awq.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tripos.errors import ModelRefused, shown
from tripos.models.files.quantized.awq import read_awq
from tripos.models.files.quantized.gptq import read_gptq
from tripos.models.files.quantized.layers import QuantizedWeights
from tripos.plan.ir import Weights

PACKINGS = {"auto_round:auto_gptq": read_gptq, "auto_round:auto_awq": read_awq}
_FLOAT_BITS = 16  # of a layer that was left as it is
_PER_LAYER = ("bits", "group_size", "sym", "data_type")


def read_autoround(settings: Mapping[str, Any], weights: Weights) -> QuantizedWeights:
    """Raises ModelRefused naming the setting or tensor that is not supported."""
    packing = settings.get("packing_format", "auto_round:auto_gptq")
    if packing not in PACKINGS:
        raise ModelRefused(
            f"config.json: AutoRound packing_format {shown(packing)} is not supported: only {', '.join(PACKINGS)}"
        )
    if (data_type := settings.get("data_type", "int")) != "int":
        raise ModelRefused(f"config.json: AutoRound data_type {shown(data_type)} is not supported: only int")
    if (bits := settings.get("act_bits", _FLOAT_BITS)) not in (None, _FLOAT_BITS, 32):
        raise ModelRefused(f"config.json: AutoRound act_bits {shown(bits)} is not supported: only 16")
    _check_layers(settings)
    return PACKINGS[packing](settings, weights)


def _check_layers(settings: Mapping[str, Any]) -> None:
    """extra_config may quantize single layers in another way; only float ones are as any other tensor."""
    extra = settings.get("extra_config") or {}
    if not isinstance(extra, Mapping):
        raise ModelRefused("config.json: AutoRound extra_config is no object")
    for name, layer in extra.items():
        if not isinstance(layer, Mapping):
            raise ModelRefused(f"config.json: AutoRound extra_config of {shown(name)} is no object")
        if layer.get("bits", settings.get("bits")) == _FLOAT_BITS:
            continue
        for key in _PER_LAYER:
            if key in layer and layer[key] != settings.get(key, "int" if key == "data_type" else None):
                raise ModelRefused(
                    f"config.json: AutoRound extra_config gives {shown(name)} {key} {shown(layer[key])}; "
                    "layers that are quantized in another way than the rest are not supported"
                )
