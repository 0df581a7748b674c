"""Checkpoints of AWQ, GPTQ and compressed-tensors: the values that their definitions give, one number at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.models.files.writing import LLAMA_CONFIG, model_folder, safetensors_bytes
from tripos import LLM
from tripos.errors import ModelRefused
from tripos.models.files.quantized import read_quantized
from tripos.models.files.quantized.compressed import fp8_to_float32
from tripos.models.files.source import open_source
from tripos.plan.formats import float32_to_bf16, to_float32
from tripos.plan.ir import Weights, WeightTensor

DTYPES = {"int32": "i32", "int64": "i64", "int8": "i8", "float16": "f16", "float32": "f32", "uint16": "bf16"}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
Tensors = dict[str, np.ndarray]


def weights_of(arrays: Tensors) -> Weights:
    return {name: WeightTensor(name, DTYPES[str(a.dtype)], a.shape, a) for name, a in arrays.items()}


def drawn(rows: int, cols: int, group: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """levels [rows, cols], scales and zero points [rows, cols / group]."""
    rng = np.random.default_rng(seed)
    groups = cols // group
    scales = rng.uniform(0.001, 0.1, (rows, groups)).astype(np.float16)
    return rng.integers(0, 16, (rows, cols)), scales, rng.integers(0, 16, (rows, groups))


def expected(levels: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """scale * (level - zero), number by number."""
    rows, cols = levels.shape
    group = cols // scales.shape[1]
    out = np.zeros((rows, cols), np.float32)
    for i in range(rows):
        for j in range(cols):
            out[i, j] = float(scales[i, j // group]) * (int(levels[i, j]) - int(zeros[i, j // group]))
    return out


def words(values: np.ndarray, axis: int, order: tuple[int, ...] = tuple(range(8))) -> np.ndarray:
    """Eight 4-bit values per int32 along `axis`, the lowest nibble holding the value at order[0]."""
    values = np.moveaxis(values, axis, -1)
    out = np.zeros((values.shape[0], -(-values.shape[1] // 8)), np.uint32)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            out[i, j // 8] |= np.uint32(int(values[i, j]) << 4 * order.index(j % 8))
    return np.ascontiguousarray(np.moveaxis(out.view(np.int32), -1, axis))


def awq(levels: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> tuple[dict[str, Any], Tensors]:
    settings = {"quant_method": "awq", "bits": 4, "group_size": levels.shape[1] // scales.shape[1], "version": "gemm"}
    return settings, {
        "a.qweight": words(levels.T, 1, AWQ_ORDER),
        "a.qzeros": words(zeros.T, 1, AWQ_ORDER),
        "a.scales": np.ascontiguousarray(scales.T),
    }


def gptq(levels: np.ndarray, scales: np.ndarray, zeros: np.ndarray, v2: bool = False) -> tuple[dict[str, Any], Tensors]:
    group = levels.shape[1] // scales.shape[1]
    settings = {"quant_method": "gptq", "bits": 4, "group_size": group, "desc_act": False}
    if v2:
        settings["checkpoint_format"] = "gptq_v2"
    return settings, {
        "a.qweight": words(levels.T, 0),
        "a.qzeros": words((zeros.T - (0 if v2 else 1)) % 16, 1),
        "a.scales": np.ascontiguousarray(scales.T),
        "a.g_idx": (np.arange(levels.shape[1]) // group).astype(np.int32),
    }


def autoround(levels: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> tuple[dict[str, Any], Tensors]:
    settings, arrays = gptq(levels, scales, zeros)
    own = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq", "data_type": "int", "sym": True}
    del arrays["a.g_idx"]  # it writes none
    return settings | own | {"extra_config": {"lm_head": {"bits": 16, "data_type": "float"}}}, arrays


def autoround_awq(levels: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> tuple[dict[str, Any], Tensors]:
    settings, arrays = awq(levels, scales, zeros)
    own = {"quant_method": "auto-round", "packing_format": "auto_round:auto_awq"}
    return {key: value for key, value in settings.items() if key != "version"} | own, arrays


def gptq_v2(levels: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> tuple[dict[str, Any], Tensors]:
    return gptq(levels, scales, zeros, v2=True)


def compressed_settings(form: str, **scheme: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"type": "int", "symmetric": True} | scheme}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"group_0": group}}


def packed(levels: np.ndarray, scales: np.ndarray, zeros: np.ndarray) -> tuple[dict[str, Any], Tensors]:
    group = levels.shape[1] // scales.shape[1]
    return compressed_settings("pack-quantized", num_bits=4, group_size=group, symmetric=False, strategy="group"), {
        "a.weight_packed": words(levels, 1),
        "a.weight_scale": scales,
        "a.weight_zero_point": words(zeros, 0),
        "a.weight_shape": np.array(levels.shape, np.int64),
    }


Writer = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[dict[str, Any], Tensors]]
WRITERS = pytest.mark.parametrize("writer", [awq, gptq, gptq_v2, packed, autoround, autoround_awq])


@WRITERS
@pytest.mark.parametrize(("rows", "cols", "group"), [(16, 128, 128), (8, 256, 64), (24, 64, 32), (8, 96, 96)])
def test_levels_are_kept_and_scales_are_halves(writer: Writer, rows: int, cols: int, group: int) -> None:
    levels, scales, zeros = drawn(rows, cols, group)
    settings, arrays = writer(levels, scales, zeros)
    read = read_quantized(settings, weights_of(arrays | {"norm.weight": np.ones(4, np.float32)}))
    assert sorted(read) == ["a.weight", "norm.weight"]
    tensor = read["a.weight"]
    assert (tensor.dtype, tensor.shape) == ("q4_1", (rows, cols))
    want = expected(levels, scales, zeros)
    # q * scale is exact; scale * zero is rounded to a half, by at most 2^-11 of itself
    rounding = np.repeat(scales.astype(np.float32) * zeros, group, axis=1) * 2.0**-11
    assert (np.abs(to_float32(tensor) - want) <= rounding + 1e-6 * np.abs(want)).all()
    assert read.notes[0].startswith("1 tensors of ")


@WRITERS
def test_symmetric_checkpoints_are_exact(writer: Writer) -> None:
    levels, scales, zeros = drawn(8, 128, 64, seed=3)
    zeros[:] = 8
    settings, arrays = writer(levels, scales, zeros)
    got = to_float32(read_quantized(settings, weights_of(arrays))["a.weight"])
    np.testing.assert_array_equal(got, expected(levels, scales, zeros))


@WRITERS
@pytest.mark.parametrize(("cols", "group"), [(48, 16), (48, 48)])
def test_groups_that_no_block_holds_become_float32_and_say_so(writer: Writer, cols: int, group: int) -> None:
    levels, scales, zeros = drawn(8, cols, group)
    settings, arrays = writer(levels, scales, zeros)
    read = read_quantized(settings, weights_of(arrays))
    assert read["a.weight"].dtype == "f32"
    np.testing.assert_allclose(to_float32(read["a.weight"]), expected(levels, scales, zeros), rtol=1e-6)
    assert "become float32, among them a.weight" in read.notes[-1]


def test_one_group_for_all_inputs() -> None:
    levels, scales, zeros = drawn(8, 64, 64)
    zeros[:] = 8
    settings, arrays = gptq(levels, scales, zeros)
    got = read_quantized(settings | {"group_size": -1}, weights_of(arrays))["a.weight"]
    np.testing.assert_array_equal(to_float32(got), expected(levels, scales, zeros))


@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_int8_keeps_its_levels(per: str) -> None:
    rng = np.random.default_rng(1)
    levels = rng.integers(-128, 128, (8, 64)).astype(np.int8)
    scales = rng.uniform(0.01, 0.02, (8, 1) if per == "channel" else (1,)).astype(np.float16)
    settings = compressed_settings("int-quantized", num_bits=8, strategy=per)
    read = read_quantized(settings, weights_of({"a.weight": levels, "a.weight_scale": scales}))
    assert read["a.weight"].dtype == "q8_0"
    want = np.array([[float(scales[i % len(scales), 0] if per == "channel" else scales[0]) * int(q) for q in row]
                     for i, row in enumerate(levels)], np.float32)  # fmt: skip
    np.testing.assert_array_equal(to_float32(read["a.weight"]), want)


def test_bf16_scales_are_read() -> None:
    levels = np.full((8, 32), 3, np.int8)
    scales = float32_to_bf16(np.full((8, 1), 0.0123, np.float32))
    settings = compressed_settings("int-quantized", num_bits=8, strategy="channel")
    got = to_float32(read_quantized(settings, weights_of({"a.weight": levels, "a.weight_scale": scales}))["a.weight"])
    np.testing.assert_allclose(got, 3 * 0.0123, rtol=2.0**-8)


def test_fp8_becomes_float32_exactly() -> None:
    codes = np.arange(256, dtype=np.uint8).reshape(8, 32)
    codes[codes & 127 == 127] = 0
    scales = np.linspace(0.5, 2, 8, dtype=np.float32).reshape(8, 1)
    arrays = weights_of({"a.weight_scale": scales})
    weights = {**arrays, "a.weight": WeightTensor("a.weight", "f8_e4m3", codes.shape, codes)}
    settings = compressed_settings("float-quantized", num_bits=8, type="float", strategy="channel")
    got = to_float32(read_quantized(settings, weights)["a.weight"])
    for i in range(8):
        for j in range(32):
            sign, exponent, fraction = codes[i, j] >> 7, codes[i, j] >> 3 & 15, codes[i, j] & 7
            size = fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (int(exponent) - 7)
            assert got[i, j] == np.float32((-size if sign else size) * scales[i, 0])


def test_fp8_has_448_and_no_infinity() -> None:
    values = fp8_to_float32(np.array([0x7E, 0xFE, 0x01, 0x7F], np.uint8))
    np.testing.assert_array_equal(values, np.array([448, -448, 2.0**-9, np.nan], np.float32))


# -- what is refused ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quant_method": "bitsandbytes"}, "'bitsandbytes'; read are awq, gptq, compressed-tensors"),
        ({"bits": 3}, "3 bits"),
        ({"bits": None}, "None bits"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'"),
        ({"group_size": 0}, "group_size 0"),
        ({"group_size": 48}, "group_size 48 does not divide the 128 inputs"),
        ({"group_size": "many"}, "group_size 'many'"),
    ],
)
def test_settings_that_are_not_supported_are_named(changes: dict[str, Any], reason: str) -> None:
    settings, arrays = gptq(*drawn(8, 128, 64))
    with pytest.raises(ModelRefused, match=reason):
        read_quantized(settings | changes, weights_of(arrays))


@pytest.mark.parametrize("settings", ["awq", 7, [], {}])
def test_settings_of_the_wrong_kind_are_refused(settings: Any) -> None:
    with pytest.raises(ModelRefused, match="quantization_config"):
        read_quantized(settings, {})


@pytest.mark.parametrize("version", ["gemv", "marlin"])
def test_other_awq_layouts_are_refused(version: str) -> None:
    settings, arrays = awq(*drawn(8, 64, 32))
    with pytest.raises(ModelRefused, match=version):
        read_quantized(settings | {"version": version}, weights_of(arrays))


def test_inputs_in_another_order_are_refused_by_name() -> None:
    settings, arrays = gptq(*drawn(8, 64, 32))
    arrays["a.g_idx"] = arrays["a.g_idx"][::-1].copy()
    with pytest.raises(ModelRefused, match=r"a\.g_idx: .*desc_act"):
        read_quantized(settings | {"desc_act": True}, weights_of(arrays))


def test_desc_act_in_plain_order_is_read() -> None:
    settings, arrays = gptq(*drawn(8, 64, 32))
    assert read_quantized(settings | {"desc_act": True}, weights_of(arrays))["a.weight"].shape == (8, 64)


@WRITERS
@pytest.mark.parametrize("fault", ["missing", "shape", "type"])
def test_a_wrong_tensor_is_refused_by_name(writer: Writer, fault: str) -> None:
    settings, arrays = writer(*drawn(8, 64, 32))
    name = next(each for each in arrays if each.endswith(("scales", "weight_scale")))
    if fault == "missing":
        del arrays[name]
    else:
        arrays[name] = arrays[name][:, :-1].copy() if fault == "shape" else arrays[name].astype(np.int32)
    with pytest.raises(ModelRefused, match=name.replace(".", r"\.")):
        read_quantized(settings, weights_of(arrays))


@WRITERS
def test_scales_that_are_not_finite_are_refused(writer: Writer) -> None:
    settings, arrays = writer(*drawn(8, 64, 32))
    name = next(each for each in arrays if each.endswith(("scales", "weight_scale")))
    arrays[name][0, 0] = np.nan
    with pytest.raises(ModelRefused, match="NaN"):
        read_quantized(settings, weights_of(arrays))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (compressed_settings("marlin-24", num_bits=4), "'marlin-24'"),
        (compressed_settings("pack-quantized", num_bits=2), "2 bits"),
        (compressed_settings("pack-quantized", num_bits=4) | {"config_groups": {}}, "config_groups"),
        (compressed_settings("pack-quantized", num_bits=4, group_size=32, symmetric=True), "ends in .weight_packed"),
    ],
)
def test_compressed_forms_that_are_not_supported_are_named(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelRefused, match=reason):
        read_quantized(settings, weights_of({"a.weight": np.ones((8, 32), np.float32)}))


# -- from the folder to the answer ----------------------------------------------------------------------------------
CONFIG = LLAMA_CONFIG | {"hidden_size": 64, "intermediate_size": 128}
LINEARS = {
    "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64), "mlp.gate_proj": (128, 64), "mlp.up_proj": (128, 64), "mlp.down_proj": (64, 128),
}  # fmt: skip


@WRITERS
def test_a_checkpoint_answers_as_the_floats_it_stands_for(writer: Writer, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    floats: Tensors = {
        "model.embed_tokens.weight": rng.standard_normal((258, 64)).astype(np.float32),
        "model.norm.weight": np.ones(64, np.float32),
    }
    for norm in ("input_layernorm", "post_attention_layernorm"):
        floats[f"model.layers.0.{norm}.weight"] = np.ones(64, np.float32)
    settings: dict[str, Any] = {}
    small = dict(floats)
    for seed, (name, (rows, cols)) in enumerate(LINEARS.items()):
        parts = drawn(rows, cols, 32, seed)
        parts[2][:] = 8
        floats[f"model.layers.0.{name}.weight"] = expected(*parts)
        settings, arrays = writer(*parts)
        small |= {key.replace("a.", f"model.layers.0.{name}."): value for key, value in arrays.items()}
    folders = [tmp_path / "floats", tmp_path / "small"]
    for folder, tensors, config in zip(folders, (floats, small), (CONFIG, None), strict=True):
        folder.mkdir()
        data = safetensors_bytes(tensors)
        model_folder(folder, config__json=config or CONFIG | {"quantization_config": settings}, model__safetensors=data)
    prompt = [(72, 101, 108, 108, 111)]
    with LLM(folders[0], weights="fp32") as one, LLM(folders[1], weights="fp32") as other:
        assert one.score(prompt) == other.score(prompt)
    with LLM(folders[1]) as kept:
        assert kept.card.weights == "fp32+int4"  # the head is tied to a float32 table
    assert any("levels kept" in note for note in open_source(str(folders[1])).notes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"packing_format": "auto_round:llm_compressor"}, "packing_format 'auto_round:llm_compressor'"),
        ({"data_type": "mx_fp"}, "data_type 'mx_fp'"),
        ({"act_bits": 8}, "act_bits 8"),
        ({"bits": 2}, "2 bits"),
        ({"extra_config": {"a": {"bits": 8}}}, "extra_config gives 'a' bits 8"),
        ({"extra_config": {"a": {"group_size": 32}}}, "extra_config gives 'a' group_size 32"),
        ({"extra_config": [1]}, "extra_config is no object"),
    ],
)
def test_autoround_of_another_kind_is_refused_by_setting(changes: dict[str, Any], named: str) -> None:
    settings, arrays = autoround(*drawn(16, 128, 128))
    with pytest.raises(ModelRefused, match=re.escape(named)):
        read_quantized(settings | changes, weights_of(arrays))


def test_settings_that_change_the_result_are_refused_by_name() -> None:
    settings, arrays = packed(*drawn(16, 128, 128))
    rotation = {"config_groups": {"R1": {"type": "hadamard", "apply": [{"targets": ["Linear"]}]}}}
    with pytest.raises(ModelRefused, match="transform_config of compressed-tensors"):
        read_quantized(settings | {"transform_config": rotation}, weights_of(arrays))
    read_quantized(settings | {"transform_config": {}}, weights_of(arrays))
    settings, arrays = gptq(*drawn(16, 128, 128))
    with pytest.raises(ModelRefused, match="GPTQ with dynamic"):
        read_quantized(settings | {"dynamic": {"+:.*down.*": {"bits": 8}}}, weights_of(arrays))


def test_scales_that_are_not_used_are_told() -> None:
    settings, arrays = packed(*drawn(16, 128, 128))
    scales = {f"a.{name}": np.ones(1, np.float32) for name in ("input_scale", "k_scale")}
    read = read_quantized(settings | {"kv_cache_scheme": {"num_bits": 8}}, weights_of(arrays | scales))
    assert read.notes[-2] == "2 scales of activations and caches are not used, among them a.input_scale"
    assert "kv_cache_scheme is not used" in read.notes[-1]
