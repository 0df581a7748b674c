"""Models of a width that 256 does not divide, in the blocks that llama.cpp mixes for them, answer as their values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.ops.executors import logits_of, native, reference
from tests.ops.steps import Batch, random_blocks
from tests.unit.models.files.test_gguf_translation import real
from tests.unit.models.files.writing import F32, STRING, U32, gguf_bytes, pair, tensor_info, text, u32, write
from tripos.errors import ModelRefused
from tripos.models.config import parse_config
from tripos.models.files.gguf import TENSOR_TYPES, read_gguf
from tripos.models.files.gguf_translation import TranslatedWeights, translated_config
from tripos.models.registry import adapt_weights, check_weights, trace
from tripos.plan.formats import FORMATS

HIDDEN, HEADS, INNER, VOCAB = 96, 4, 256, 50
TYPE_IDS = {name: id for id, name in TENSOR_TYPES.items()}
# as Q4_K_M, Q5_K_M, Q3_K_M and Q2_K store a model of this width: (matrices of the width, those that read INNER)
MIXES = [("q5_0", "q4_k"), ("q5_1", "q5_k"), ("q4_0", "q3_k"), ("q8_0", "q2_k")]


def model(folder: Path, narrow: str, wide: str) -> Path:
    """A Llama of one layer; its scales are small enough for its logits to be finite."""
    rng = np.random.default_rng(1)
    shapes = {
        "token_embd": (VOCAB, HIDDEN), "blk.0.attn_q": (HIDDEN, HIDDEN), "blk.0.attn_k": (HIDDEN, HIDDEN),
        "blk.0.attn_v": (HIDDEN, HIDDEN), "blk.0.attn_output": (HIDDEN, HIDDEN), "blk.0.ffn_gate": (INNER, HIDDEN),
        "blk.0.ffn_up": (INNER, HIDDEN), "blk.0.ffn_down": (HIDDEN, INNER),
    }  # fmt: skip
    infos, data = [], b""

    def add(name: str, shape: tuple[int, ...], dtype: str, raw: bytes) -> None:
        nonlocal data
        infos.append(tensor_info(f"{name}.weight", list(shape[::-1]), TYPE_IDS[dtype], len(data)))
        data += raw + bytes(-len(raw) % 32)

    for name, shape in shapes.items():
        dtype = wide if shape[1] == INNER else narrow
        blocks = random_blocks(rng, dtype, shape[0] * shape[1] // FORMATS[dtype][0])
        add(name, shape, dtype, blocks.tobytes())
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        add(name, (HIDDEN,), "f32", np.ones(HIDDEN, np.float32).tobytes())
    sizes = {
        "context_length": 64, "embedding_length": HIDDEN, "block_count": 1, "feed_forward_length": INNER,
        "attention.head_count": HEADS,
    }  # fmt: skip
    pairs = [pair("general.architecture", STRING, text("llama"))]
    pairs += [pair(f"llama.{key}", U32, u32(value)) for key, value in sizes.items()]
    pairs.append(pair("llama.attention.layer_norm_rms_epsilon", F32, real(1e-5)))
    return write(folder / f"{narrow}-{wide}.gguf", gguf_bytes(pairs, infos, data))


@pytest.mark.parametrize(("narrow", "wide"), MIXES)
def test_mixed_blocks_answer_as_their_values(tmp_path: Path, narrow: str, wide: str) -> None:
    gguf = read_gguf(model(tmp_path, narrow, wide))
    config = parse_config(translated_config(gguf), gguf.file)
    plan, weights = trace(config), adapt_weights(config, TranslatedWeights(gguf))
    assert check_weights(plan, weights) == ()
    step = Batch((20,), VOCAB).step({0: 20})
    want = logits_of(reference(plan, weights, num_blocks=4), step)
    exact = logits_of(native(plan, weights, num_blocks=4, weight_format="fp32"), step)
    assert np.abs(exact - want).max() < 1e-3 * np.abs(want).max()
    native_form = logits_of(native(plan, weights, num_blocks=4, weight_format="auto"), step)
    assert np.corrcoef(native_form.ravel(), want.ravel())[0, 1] > 0.98  # int8 activations, random bits as weights


def test_block_type_that_is_not_read_is_called_by_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", gguf_bytes([], [tensor_info("t", [32], 20)], bytes(32)))
    with pytest.raises(ModelRefused, match=r"m\.gguf: tensor t: type 20 \(iq4_nl\) is not supported; supported: f32"):
        read_gguf(path)
