"""The identity of a model: SHA-256 over its tensors, tokenizer, template and config.

The same model gives the same digest however its tensors are spread over files, and in whatever order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from tripos.plan.ir import Weights, let_pages_go

_THREADS = 2  # hashlib releases the interpreter lock; more threads are bound by memory bandwidth


def model_digest(
    config: Mapping[str, Any],
    weights: Weights,
    tokenizer: bytes,
    template: str | None,
    tool_template: str | None = None,
) -> str:
    """64 hexadecimal digits. `tokenizer` is Tokenizer.identity. Reads every weight once."""
    with ThreadPoolExecutor(_THREADS) as pool:
        tensors = list(pool.map(lambda name: _tensor_digest(weights, name), sorted(weights)))
    canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    parts = [b"tripos model 1", canonical.encode(), tokenizer, b"" if template is None else b"t" + template.encode()]
    if tool_template is not None:
        parts.append(b"u" + tool_template.encode())
    return _hash_fields([*parts, *tensors])


def _tensor_digest(weights: Weights, name: str) -> bytes:
    tensor = weights[name]
    data = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
    facts = f"{name}\0{tensor.dtype}\0{tensor.shape}"
    content = hashlib.sha256(data.data).digest()
    let_pages_go(tensor.data)
    return hashlib.sha256(facts.encode() + b"\0" + content).digest()


def _hash_fields(fields: Iterable[bytes]) -> str:
    """Hash each field with its length in front, so that no two lists of fields are hashed alike."""
    total = hashlib.sha256()
    for field in fields:
        total.update(len(field).to_bytes(8, "little"))
        total.update(field)
    return total.hexdigest()
