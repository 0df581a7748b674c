"""StaticEmbedding of sentence-transformers, and model2vec's form of it: a vector is the mean of its text's rows.

Owns the names of the table in checkpoints. There is no config.json; the sizes are the table's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tripos.errors import ModelRefused
from tripos.models.files.safetensors import Checkpoint, open_checkpoint
from tripos.models.task import STATIC
from tripos.plan.formats import to_float32
from tripos.plan.ir import Plan, View, WeightTensor
from tripos.plan.ops import Tracer

TABLE = "embedding.weight"
MAX_TOKENS = 8192  # of a text; the memory of a step bounds it, not the table
_FLOATS = ("f32", "f16", "bf16")


def open_static(folder: Path) -> tuple[dict[str, Any], Checkpoint]:
    """A config of its sizes, and the table under one name. Raises ModelRefused naming the tensor."""
    found = open_checkpoint(folder)
    table = _matrix(found, TABLE) if TABLE in found else _folded(found)
    config = {"architectures": [STATIC], "vocab_size": table.shape[0], "hidden_size": table.shape[1]}
    return config, Checkpoint({TABLE: table})


def trace_static(t: Tracer, vocab_size: int, hidden_size: int) -> View:
    """The mean of a text's rows: [S, hidden_size]."""
    return t.pool(t.embed(TABLE, vocab_size, hidden_size))


def is_static(plan: Plan) -> bool:
    """Whether a plan consists of a table of vectors."""
    return all(op.kind in ("embed", "pool") for op in plan.ops)


def _folded(found: Checkpoint) -> WeightTensor:
    """model2vec's table, whose rows several tokens may share (mapping), each with a weight of its own (weights)."""
    if "embeddings" not in found:
        raise ModelRefused(f"model.safetensors: holds neither tensor {TABLE} nor embeddings")
    table = _matrix(found, "embeddings")
    mapping, factors = found.get("mapping"), found.get("weights")
    if mapping is None and factors is None:
        return WeightTensor(TABLE, table.dtype, table.shape, table.data)
    rows = to_float32(table)
    if mapping is not None:
        places = np.asarray(mapping.data).reshape(-1)
        if mapping.dtype not in ("i32", "i64") or not len(places) or places.min() < 0 or places.max() >= len(rows):
            raise ModelRefused(f"model.safetensors: tensor mapping must hold rows of the {len(rows)} embeddings")
        rows = rows[places]
    if factors is not None:
        if factors.dtype not in (*_FLOATS, "f64") or factors.shape != (len(rows),):
            raise ModelRefused(f"model.safetensors: tensor weights must hold one number for each of {len(rows)} tokens")
        values = factors.data if factors.dtype == "f64" else to_float32(factors)
        rows = rows * np.asarray(values, np.float32)[:, None]
    return WeightTensor(TABLE, "f32", rows.shape, np.ascontiguousarray(rows, np.float32))


def _matrix(found: Checkpoint, name: str) -> WeightTensor:
    tensor = found[name]
    if tensor.dtype not in _FLOATS or len(tensor.shape) != 2 or 0 in tensor.shape:
        raise ModelRefused(
            f"model.safetensors: tensor {name} is {tensor.dtype} {list(tensor.shape)}; expected a float matrix"
        )
    return tensor
