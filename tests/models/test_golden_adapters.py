"""Adapters, on every executor, give what PEFT gave (see make_golden_adapters.py), and what merged weights give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.models.driver import TOLERANCE, Cache, Golden, logits_of, relative_error
from tests.models.test_golden import OPTIONS
from tests.ops.test_lora import merged
from tripos.models.files.lora import ReadAdapter, read_adapter
from tripos.models.registry import trace
from tripos.plan.formats import to_float32
from tripos.plan.ir import Plan, WeightTensor
from tripos.plan.lora import places, with_adapters
from tripos.plan.passes import optimize
from tripos.runtime.executor import Executor
from tripos.runtime.native import NativeExecutor, about
from tripos.runtime.reference import ReferenceExecutor

FOLDER = Path(__file__).parent / "golden_adapters"
BASES = {
    "llama-list": "llama-gqa-tied",
    "llama-patterns": "llama-gqa-tied",
    "qwen3-expression": "qwen3",
    "qwen2-layers": "qwen2",
    "gpt2-conv": "gpt2",
    "gpt-neo": "gpt-neo",
}
ADAPTED = replace(OPTIONS, max_adapters=2)


def plan_of(golden: Golden) -> Plan:
    return with_adapters(optimize(trace(golden.config), golden.weights), 16)


def read(name: str, golden: Golden, dtype: str = "f32") -> ReadAdapter:
    return read_adapter(FOLDER / name, places(plan_of(golden), golden.weights), max_rank=16, dtype=dtype)


def executor_of(kind: str, golden: Golden, **options: object) -> Executor:
    if kind != "reference" and kind not in about()["isas"].split(","):
        pytest.skip(f"needs a CPU with {kind}")
    chosen = replace(ADAPTED, **({} if kind == "reference" else {"isa": kind}), **options)  # type: ignore[arg-type]
    executor = ReferenceExecutor(chosen) if kind == "reference" else NativeExecutor(chosen)
    executor.load(plan_of(golden), golden.weights)
    executor.reserve(24)
    return executor


def answers(name: str) -> list[tuple[list[int], np.ndarray]]:
    with np.load(FOLDER / name / "golden.npz") as arrays:
        return [(arrays[f"prompt_{i}"].tolist(), arrays[f"logits_{i}"]) for i in range(3)]


@pytest.mark.parametrize("kind", ["reference", "scalar", "avx2", "avx512"])
@pytest.mark.parametrize(("name", "base"), BASES.items())
def test_as_peft(name: str, base: str, kind: str) -> None:
    golden = Golden(base)
    executor = executor_of(kind, golden)
    executor.load_adapter(0, read(name, golden).modules)
    for prompt, expected in answers(name):
        step = replace(Cache().step({0: prompt}), adapter_slots=np.zeros(1, np.int32))
        assert relative_error(logits_of(executor, step), expected) < TOLERANCE
        plain = logits_of(executor, Cache().step({0: prompt}))
        assert relative_error(plain, expected) > 0.05, "the adapter must matter"


@pytest.mark.parametrize(("name", "base"), BASES.items())
def test_in_bfloat16(name: str, base: str) -> None:
    """Rounded adapters of models that run in less than float32: these were made of bfloat16 numbers, so exact."""
    golden = Golden(base)
    executor = executor_of("avx2", golden)
    executor.load_adapter(1, read(name, golden, "bf16").modules)
    prompt, expected = answers(name)[2]
    step = replace(Cache().step({0: prompt}), adapter_slots=np.ones(1, np.int32))
    assert relative_error(logits_of(executor, step), expected) < TOLERANCE


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4", "fp8"])
def test_on_a_base_in_a_coarser_format(weights: str) -> None:
    """As far from the float32 answer as the base itself is, not farther."""
    golden = Golden("llama-gqa-tied")
    coarse, exact = executor_of("avx2", golden, weights=weights), executor_of("avx2", golden)
    for executor, dtype in ((coarse, "bf16"), (exact, "f32")):
        executor.load_adapter(0, read("llama-list", golden, dtype).modules)
    step = Cache().step({0: answers("llama-list")[2][0]})
    adapted = replace(step, adapter_slots=np.zeros(1, np.int32))
    base_error = relative_error(logits_of(coarse, step), logits_of(exact, step))
    assert relative_error(logits_of(coarse, adapted), logits_of(exact, adapted)) < 1.2 * base_error + TOLERANCE


@pytest.mark.parametrize(("name", "base"), BASES.items())
def test_as_merged(name: str, base: str) -> None:
    """W + scale · B A, loaded as an ordinary checkpoint."""
    golden = Golden(base)
    adapter = read(name, golden)
    executor = executor_of("avx2", golden)
    executor.load_adapter(0, adapter.modules)
    plain = {name: WeightTensor(name, "f32", t.shape, to_float32(t)) for name, t in golden.weights.items()}
    whole = NativeExecutor(OPTIONS)
    whole.load(optimize(trace(golden.config)), merged(plain, adapter.modules))
    whole.reserve(24)
    prompt, _ = answers(name)[2]
    step = Cache().step({0: prompt})
    adapted = replace(step, adapter_slots=np.zeros(1, np.int32))
    assert relative_error(logits_of(executor, adapted), logits_of(whole, step)) < TOLERANCE
