"""One memory shared by several models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ops.executors import native
from tests.ops.steps import random_blocks
from tripos.engine.memory import MemoryOptions, Need, WeightsNeed, cache_format, measure, mib
from tripos.errors import ModelRefused
from tripos.plan.formats import FORMATS, float32_to_bf16
from tripos.plan.ir import WeightTensor
from tripos.plan.ops import Tracer
from tripos.repository.budget import share


@dataclass
class Wish:
    name: str
    min_bytes: int
    max_bytes: int
    fixed_bytes: int = 0


def test_what_is_left_goes_to_those_who_can_use_it() -> None:
    assert share(1000, [Wish("a", 100, 200), Wish("b", 100, 300)]) == [200, 300]
    assert share(300, [Wish("a", 100, 200), Wish("b", 100, 400)]) == [125, 175]
    assert share(300, [Wish("a", 100, 200, fixed_bytes=150), Wish("b", 100, 400)]) == [150, 150]


def test_models_that_do_not_fit_together_are_refused_with_all_numbers() -> None:
    with pytest.raises(ModelRefused, match=r"3\.0 MiB.*a 1\.0 MiB, b 2\.0 MiB.*2\.0 MiB.*--memory"):
        share(2 << 20, [Wish("a", 1 << 20, 9 << 20), Wish("b", 1 << 20, 9 << 20, fixed_bytes=2 << 20)])


@given(
    st.integers(0, 10**13),
    st.lists(st.tuples(st.integers(1, 10**12), st.integers(0, 10**13), st.integers(0, 10**12)), min_size=1, max_size=6),
)
def test_shares_keep_to_the_total_and_to_what_each_can_use(total: int, sizes: list[tuple[int, int, int]]) -> None:
    wishes = [Wish(str(i), least, least + more, fixed) for i, (least, more, fixed) in enumerate(sizes)]
    try:
        shares = share(total, wishes)
    except ModelRefused:
        assert sum(wish.fixed_bytes or wish.min_bytes for wish in wishes) > total
        return
    assert sum(shares) <= total
    for wish, num in zip(wishes, shares, strict=True):
        assert num == wish.fixed_bytes or wish.min_bytes <= num <= wish.max_bytes


def test_a_model_takes_no_more_than_it_can_use_and_needs_one_sequence() -> None:
    need = Need("m", MemoryOptions(block_size=32, max_sequences=4), WeightsNeed("fp16", 900, 100), "fp16", 10, 64)
    assert (need.min_bytes, need.max_bytes) == (1000 + 640, 1000 + 4 * 640)
    assert need.within(10**6).held_bytes == need.max_bytes
    assert need.within(need.min_bytes).num_blocks == 2
    with pytest.raises(ModelRefused, match="--max-model-len to 32 or less"):
        need.within(need.min_bytes - 1)


@pytest.mark.parametrize("weights", ["fp32", "bf16", "fp16", "fp8", "int8", "int4"])
def test_the_cache_is_int8_only_where_weights_are_integers(weights: str) -> None:
    assert cache_format(weights) == ("int8" if weights.startswith("int") else "fp16")


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [(dtype, "auto") for dtype in ("f32", "f16", "bf16", "q8_0", "q4_0", "q5_0", "q6_k", "q3_k")]
    + [("f32", weights) for weights in ("bf16", "int8", "int4", "fp8")],
)
def test_the_table_foretells_what_the_executor_packs(dtype: str, weights: str) -> None:
    t = Tracer()
    x = t.embed("table", 300, 256)
    plan = t.plan(t.linear(t.select(t.linear(x, "w", 256)), "table", 300), vocab_size=300)
    values = np.random.default_rng(0).standard_normal((300, 256)).astype(np.float32)
    if dtype in ("f32", "f16"):
        data = values[:256] if dtype == "f32" else values[:256].astype(np.float16)
    elif dtype == "bf16":
        data = float32_to_bf16(values[:256])
    else:
        data = random_blocks(np.random.default_rng(0), dtype, 256 * 256 // FORMATS[dtype][0])
    table = float32_to_bf16(values)
    stored = {
        "table": WeightTensor("table", "bf16", (300, 256), table),
        "w": WeightTensor("w", dtype, (256, 256), data),
    }
    need = measure("m", plan, stored, 64, MemoryOptions(weights=weights))
    executor = native(plan, stored, weight_format=weights)
    info = executor.info()
    assert (need.weights.packed_bytes, need.weights.formats) == (info.weight_bytes, info.weights)
    assert need.weights.table_bytes == table.nbytes
    assert need.within(10**9).rows()[1][1].startswith(f"{mib(info.weight_bytes)} packed as {info.weights}, ")
