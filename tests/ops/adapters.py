"""Random low-rank adapters for a plan, in float32 or bfloat16."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tripos.plan.formats import float32_to_bf16
from tripos.plan.ir import Adapter, LowRank, Plan, Weights, WeightTensor
from tripos.plan.lora import places


def random_adapter(
    plan: Plan, weights: Weights, seed: int, *, rank: int = 4, dtype: str = "f32",
    targets: Callable[[str], bool] = lambda name: True, size: float = 1.0,
) -> Adapter:  # fmt: skip
    """An adapter whose parts are about as large as what they are added to."""
    rng = np.random.default_rng(seed)

    def tensor(name: str, *shape: int) -> WeightTensor:
        values = (size * rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        return WeightTensor(name, dtype, shape, float32_to_bf16(values) if dtype == "bf16" else values)

    return {
        name: LowRank(tensor("a", rank, place.shape[1]), tensor("b", place.shape[0], rank), scale=0.5 + seed / 7)
        for name, place in places(plan, weights).items()
        if targets(name)
    }
