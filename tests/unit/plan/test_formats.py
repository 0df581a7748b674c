"""The block formats mean what their published layouts say; values worked out by hand."""

from __future__ import annotations

import numpy as np

from tripos.plan.formats import FORMATS, bf16_to_float32, float32_to_bf16, to_float32
from tripos.plan.ir import WeightTensor


def block(dtype: str, **fields: tuple[int, object]) -> WeightTensor:
    values, size = FORMATS[dtype]
    raw = np.zeros(size, np.uint8)
    for at, data in fields.values():
        part = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else np.array(data, np.uint8).ravel()
        raw[at : at + len(part)] = part
    return WeightTensor("w", dtype, (values,), raw)


def half(value: float) -> bytes:
    return np.float16(value).tobytes()


def test_q8_0_is_scale_times_signed_byte() -> None:
    got = to_float32(block("q8_0", d=(0, half(0.5)), q=(2, np.arange(-16, 16, dtype=np.int8).tobytes())))
    np.testing.assert_array_equal(got, np.arange(-16, 16) * 0.5)


def test_q4_0_holds_low_nibbles_first_and_is_centred_on_eight() -> None:
    got = to_float32(block("q4_0", d=(0, half(2)), q=(2, [0x1F] * 16)))
    np.testing.assert_array_equal(got, [14.0] * 16 + [-14.0] * 16)


def test_q4_k_groups_have_their_own_scale_and_minimum() -> None:
    # group 0: scale 3, minimum 5; group 4 uses the split six bits: scale 0b100001, minimum 0b010010
    scales = np.zeros(12, np.uint8)
    scales[0], scales[4], scales[8] = 3 | 0b10 << 6, 5 | 0b01 << 6, 0b0001 | 0b0010 << 4
    got = to_float32(block("q4_k", d=(0, half(1)), m=(2, half(0.5)), s=(4, scales), q=(16, [0x21] * 128)))
    np.testing.assert_array_equal(got[:32], [3 * 1 - 0.5 * 5] * 32)
    np.testing.assert_array_equal(got[32:64], [0.0] * 32)
    np.testing.assert_array_equal(got[128:160], [0b100001 * 1 - 0.5 * 0b010010] * 32)


def test_q5_k_takes_its_fifth_bit_from_the_high_plane() -> None:
    scales = np.full(12, 1, np.uint8)
    got = to_float32(block("q5_k", d=(0, half(1)), s=(4, scales), h=(16, [0b10] * 32), q=(48, [0x43] * 128)))
    np.testing.assert_array_equal(got[:32], [3.0] * 32)
    np.testing.assert_array_equal(got[32:64], [4.0 + 16.0] * 32)


def test_q6_k_joins_four_low_and_two_high_bits() -> None:
    scales = np.arange(1, 17, dtype=np.int8).tobytes()
    got = to_float32(
        block("q6_k", d=(208, half(1)), s=(192, scales), l=(0, [0x21] * 128), h=(128, [0b11_10_01_00] * 64))
    )
    np.testing.assert_array_equal(got[:16], [(1 - 32) * 1.0] * 16)  # high bits 0, scale 1
    np.testing.assert_array_equal(got[32:48], [(1 + 16 - 32) * 3.0] * 16)  # high bits 1, scale 3
    np.testing.assert_array_equal(got[64:80], [(2 + 32 - 32) * 5.0] * 16)
    np.testing.assert_array_equal(got[96:112], [(2 + 48 - 32) * 7.0] * 16)


def test_bf16_rounds_to_nearest_even_and_back() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -3.1415927, 0.0, np.inf], np.float32)
    back = bf16_to_float32(float32_to_bf16(x))
    np.testing.assert_array_equal(back, np.array([1.0, 1.0, 1.015625, -3.140625, 0.0, np.inf], np.float32))
    assert np.isnan(bf16_to_float32(float32_to_bf16(np.array([np.nan], np.float32)))).all()
