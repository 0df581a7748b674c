"""Linears in every weight format: the values that the format's definition gives, and the same bits in any batch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from tests.ops.executors import assert_close, logits_of, native
from tests.ops.steps import Batch, random_blocks, random_weights
from tests.ops.test_ops import VOCAB, plan_of
from tripos.plan.formats import FORMATS as STORED
from tripos.plan.formats import bf16_to_float32, float32_to_bf16, to_float32
from tripos.plan.ir import Plan, Weights, WeightTensor
from tripos.runtime.native import NativeExecutor, about

F32 = npt.NDArray[np.float32]
FORMATS = ("fp32", "bf16", "fp16", "int8", "int4", "fp8")
SHAPES = pytest.mark.parametrize(("k", "n"), [(1, 1), (33, 31), (32, 32), (96, 65), (172, 64), (576, 100)])
ROWS = 18  # more than a tile register holds
TILES = ("amx", "tiles")  # multiply bf16 by bf16 where weights have 16 bits or fp8


def model(k: int, n: int) -> tuple[Plan, Weights, F32, F32]:
    """A linear of random weights [n, k], and the rows [ROWS, k] that it is given."""
    plan = plan_of(k, lambda t, x: t.linear(x, "w", n))
    weights = random_weights(plan, np.random.default_rng(1))
    x = weights["table"].data[Batch((ROWS,), VOCAB).tokens[0]]
    return plan, weights, weights["w"].data, x


def run(executor: NativeExecutor, rows: int = ROWS) -> F32:
    return logits_of(executor, Batch((ROWS,), VOCAB).step({0: rows}))


def int8_rows(values: F32) -> tuple[npt.NDArray[np.int64], F32]:
    """Levels -127..127 and the scale of each row: symmetric, by the largest value."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    inverse = np.float32(127) / largest
    return np.rint(values * inverse).astype(np.int64), largest / np.float32(127)


def fp8_values() -> F32:
    """All finite e4m3 values, in order."""
    positive = [f / 8 * 2.0**-6 if e == 0 else (1 + f / 8) * 2.0 ** (e - 7) for e in range(16) for f in range(8)][:-1]
    return np.array(sorted({-v for v in positive} | set(positive)), np.float32)


def int4_matrix(panels: npt.NDArray[np.uint8], n: int, k: int) -> F32:
    """The values in panels of 32 outputs, byte by byte as kernels/ops/linear_layout.h describes them (layout 1)."""
    out = np.zeros((n, k), np.float32)
    groups = -(-k // 32)
    for row in range(n):
        panel, column = divmod(row, 32)
        for group in range(groups):
            at = (panel * groups + group) * 640
            halves = panels[at : at + 128].view(np.float16).astype(np.float32)
            scale, minimum = halves[column], halves[32 + column]
            for j in range(min(32, k - 32 * group)):
                byte = panels[at + 128 + j // 8 * 128 + 4 * column + j % 4]
                level = byte >> 4 if j % 8 >= 4 else byte & 15
                out[row, 32 * group + j] = scale * np.float32(level) + minimum
    return out


def to_bf16(values: F32) -> F32:
    return bf16_to_float32(float32_to_bf16(values))


def multiplied(isa: str, values: F32) -> F32:
    """The values as linears of bf16, fp16 and fp8 multiply them: tiles round to bf16."""
    return to_bf16(values) if isa in TILES else values


@SHAPES
def test_bf16_and_fp16_round_the_weights_and_tiles_the_rows(isa: str, k: int, n: int) -> None:
    plan, weights, w, x = model(k, n)
    rows = multiplied(isa, x)
    assert_close(run(native(plan, weights, isa=isa, weight_format="bf16")), rows @ to_bf16(w).T, terms=k)
    fp16 = multiplied(isa, w.astype(np.float16).astype(np.float32))
    assert_close(run(native(plan, weights, isa=isa, weight_format="fp16")), rows @ fp16.T, terms=k)


@SHAPES
def test_int8_is_exact_in_the_levels(isa: str, k: int, n: int) -> None:
    plan, weights, w, x = model(k, n)
    levels, scales = int8_rows(w)
    row_levels, row_scales = int8_rows(x)
    want = (row_levels @ levels.T).astype(np.float32) * row_scales * scales.T
    assert_close(run(native(plan, weights, isa=isa, weight_format="int8")), want)


@SHAPES
def test_fp8_takes_the_nearest_value(isa: str, k: int, n: int) -> None:
    plan, weights, w, x = model(k, n)
    scales = np.abs(w).max(axis=1, keepdims=True) / np.float32(448)
    values = fp8_values()
    nearest = values[np.abs((w / scales)[..., None] - values).argmin(-1)]
    got = run(native(plan, weights, isa=isa, weight_format="fp8"))
    assert_close(got, multiplied(isa, x) @ (nearest * scales).T, terms=k)


@SHAPES
def test_int4_is_near_and_multiplies_what_its_panels_hold(isa: str, k: int, n: int) -> None:
    plan, weights, w, x = model(k, n)
    executor = native(plan, weights, isa=isa, weight_format="int4")
    held = int4_matrix(executor.panels()[0].data, n, k)
    for start in range(0, k, 32):
        group = w[:, start : start + 32]
        spread = np.ptp(np.concatenate([group, np.zeros((n, 1))], 1) if group.shape[1] < 32 else group, axis=1)
        worst = np.abs(held[:, start : start + 32] - group).max(axis=1)
        # the range may be cut by a tenth at each end; then half a step of fifteen, and halves
        assert (worst <= spread * (0.1 + 0.5 / 15) + np.abs(group).max(axis=1) * 2.0**-9).all()
    row_levels, row_scales = int8_rows(x)
    assert_close(run(executor), row_levels.astype(np.float32) @ held.T * row_scales, terms=k)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_same_bits_in_any_batch_and_on_any_number_of_threads(isa: str, weight_format: str) -> None:
    plan, weights, _, _ = model(172, 100)
    together = run(native(plan, weights, isa=isa, weight_format=weight_format, threads=2))
    for threads in (1, 2, 3):
        executor = native(plan, weights, isa=isa, weight_format=weight_format, threads=threads)
        for rows in (1, 3, 9):  # few and many: kernels take them in other tiles
            batch = Batch((ROWS,), VOCAB)
            parts = [logits_of(executor, batch.step({0: rows})).copy() for _ in range(ROWS // rows)]
            np.testing.assert_array_equal(np.concatenate(parts), together)


@SHAPES
@pytest.mark.parametrize("weight_format", ["bf16", "fp16", "fp8", "int8"])
def test_emulated_tiles_give_the_bits_of_amx(weight_format: str, k: int, n: int) -> None:
    if "amx" not in about()["isas"].split(","):
        pytest.skip("this CPU has no amx")
    plan, weights, _, _ = model(k, n)
    amx, tiles = (run(native(plan, weights, isa=isa, weight_format=weight_format)) for isa in TILES)
    np.testing.assert_array_equal(amx, tiles)


@pytest.mark.parametrize("weight_format", FORMATS)
def test_panels_are_the_same_bytes_for_every_instruction_set(isa: str, weight_format: str) -> None:
    plan, weights, _, _ = model(172, 70)
    mine = native(plan, weights, isa=isa, weight_format=weight_format, threads=2).panels()[0]
    scalar = native(plan, weights, isa="scalar", weight_format=weight_format).panels()[0]
    assert mine.format == weight_format
    np.testing.assert_array_equal(mine.data, scalar.data)


def block_linear(dtype: str, k: int, n: int) -> tuple[Plan, Weights, F32, F32]:
    """A linear stored in blocks of any bits, its values [n, k], and the rows [ROWS, k] that it is given."""
    plan, weights, _, x = model(k, n)
    blocks = random_blocks(np.random.default_rng(3), dtype, n * k // STORED[dtype][0])
    tensor = WeightTensor("w", dtype, (n, k), blocks)
    return plan, {**weights, "w": tensor}, to_float32(tensor), x


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0", "q4_1", "q5_0", "q3_k"])
def test_blocks_that_fit_keep_their_levels_and_scales(isa: str, dtype: str) -> None:
    plan, weights, w, x = block_linear(dtype, 256, 65)
    if dtype == "q3_k":  # scale -32 times level -4 does not fit into a byte
        weights["w"].data[:, 104:108] |= 0xAA
        w = to_float32(weights["w"])
    row_levels, row_scales = int8_rows(x)
    want = row_levels.astype(np.float32) @ w.T * row_scales
    assert_close(run(native(plan, weights, isa=isa, weight_format="auto")), want, terms=256)


@pytest.mark.parametrize("dtype", ["q5_1", "q5_k", "q6_k", "q2_k", "q3_k"])
def test_other_blocks_are_taken_to_the_nearest_of_255_levels(isa: str, dtype: str) -> None:
    plan, weights, w, x = block_linear(dtype, 256, 65)
    row_levels, row_scales = int8_rows(x)
    step = np.abs(w.reshape(65, 8, 32)).max(-1) / 127 * (1 + 2.0**-10)  # the scale is a half
    worst = (np.abs(row_levels).reshape(ROWS, 8, 32).sum(-1) @ step.T) / 2 * row_scales
    got = run(native(plan, weights, isa=isa, weight_format="auto"))
    want = row_levels.astype(np.float32) @ w.T * row_scales
    assert (np.abs(got - want) <= worst * 1.01).all()
