"""What a GGUF says of rope, as config.json's rope_scaling.

Owns the older and the newer spelling of its keys, the factor that llama.cpp gives YaRN beside the file's own, and the
rule behind a table of factors. What the numbers may be is checked by config.py.
Tested in tests/unit/models/files/test_gguf_translation.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tripos.errors import ModelRefused, plain
from tripos.models.files.gguf import GgufFile

ROPE_FACTORS = "rope_freqs.weight"


def rope_scaling(gguf: GgufFile, keys: Mapping[str, Any], head_dim: Any) -> dict[str, Any] | None:
    """`keys` are the architecture's own, without its name. None: frequencies stay as they are. Raises ModelRefused.

    A factor without a type is linear, as llama.cpp reads it.
    """
    kind, factor = keys.get("rope.scaling.type", "linear"), keys.get("rope.scaling.factor")
    attention_factor = keys.get("rope.scaling.attn_factor", 1.0)
    if factor is None:
        factor = keys.get("rope.scale_linear")  # the older key
    is_scaled = kind != "none" and factor not in (None, 0, 1)
    if not _is_number(attention_factor) or (factor is not None and not _is_number(factor)):
        raise ModelRefused(
            f"{gguf.file}: rope.scaling.factor is {factor!a}, attn_factor {attention_factor!a}: no number"
        )
    if attention_factor != 1 and not (is_scaled and kind == "yarn"):
        raise ModelRefused(
            f"{gguf.file}: rope.scaling.attn_factor is {plain(attention_factor)}; supported with yarn only"
        )
    if ROPE_FACTORS in gguf.tensors:
        if is_scaled:
            raise ModelRefused(f"{gguf.file}: scales rope by rope.scaling.factor and by tensor {ROPE_FACTORS}")
        return _llama3(gguf, keys.get("rope.freq_base"), head_dim)
    if factor is None or not is_scaled:
        return None
    scaling = {"rope_type": kind, "factor": factor}  # linear and yarn are called the same; config.py refuses others
    if kind == "yarn":
        scaling |= {
            "original_max_position_embeddings": keys.get("rope.scaling.original_context_length"),
            "beta_fast": keys.get("rope.scaling.yarn_beta_fast"),
            "beta_slow": keys.get("rope.scaling.yarn_beta_slow"),
            "attention_factor": attention_factor * (0.1 * math.log(max(factor, 1.0)) + 1.0),
        }
    return scaling


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _llama3(gguf: GgufFile, theta: Any, head_dim: Any) -> dict[str, Any]:
    """The rule behind a table of rope factors: Llama 3.1's, the only one that converters write. It must fit exactly."""
    tensor = gguf.tensors[ROPE_FACTORS]
    if tensor.dtype != "f32" or tensor.shape != (int(head_dim or 0) // 2,) or not isinstance(theta, float) or theta < 1:
        raise ModelRefused(f"{gguf.file}: tensor {ROPE_FACTORS} does not fit head size {head_dim!a}, base {theta!a}")
    rule = {"factor": float(tensor.data.max()), "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    original = 8192
    turns = original / (2 * np.pi) * theta ** (-2 * np.arange(len(tensor.data)) / head_dim)  # in the original context
    smooth = np.clip((turns - 1.0) / (4.0 - 1.0), 0.0, 1.0)
    expected = 1 / ((1 - smooth) / rule["factor"] + smooth)
    if not np.allclose(tensor.data, expected, rtol=1e-4):
        raise ModelRefused(f"{gguf.file}: tensor {ROPE_FACTORS} follows a rule other than Llama 3.1's; not supported")
    return {"rope_type": "llama3", **rule, "original_max_position_embeddings": original}
