#!/usr/bin/env bash
# llama.cpp reads yarn_beta_fast, yarn_beta_slow and yarn_ext_factor of a GGUF for a few architectures only. For "llama"
# it ignores them without a word, though the gguf package writes them for any architecture and attn_factor beside them
# holds: a model whose YaRN was trained with betas of its own answers with others.
# Versions: llama-cpp-python 0.3.36 (which brings llama.cpp), gguf 0.19.0. Needs a C++ compiler where there is no wheel.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==2.4.6 gguf==0.19.0 llama-cpp-python==0.3.36
cat >"$folder/compare.py" <<'PYTHON'
import sys

import gguf
import numpy as np
from llama_cpp import Llama

HIDDEN, INNER, HEADS, VOCAB = 64, 128, 2, 300
folder = sys.argv[1]


def logits(name, **changes):
    """Of 40 tokens, by a random llama of one layer whose rope is stretched 4 times by YaRN."""
    rng = np.random.default_rng(3)
    w = gguf.GGUFWriter(f"{folder}/{name}.gguf", "llama")
    w.add_context_length(256)
    w.add_embedding_length(HIDDEN)
    w.add_block_count(1)
    w.add_feed_forward_length(INNER)
    w.add_head_count(HEADS)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(HIDDEN // HEADS)
    w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    w.add_rope_scaling_factor(4.0)
    w.add_rope_scaling_orig_ctx_len(64)
    for key, value in changes.items():
        w.add_float32(f"llama.rope.scaling.{key}", value)
    w.add_tokenizer_model("llama")
    w.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *(f"t{i}" for i in range(41))])
    w.add_token_scores([0.0] * VOCAB)
    w.add_token_types([2, 3, 3] + [6] * 256 + [1] * 41)
    shapes = {"token_embd": (VOCAB, HIDDEN), "output": (VOCAB, HIDDEN), "blk.0.ffn_down": (HIDDEN, INNER)}
    shapes |= {f"blk.0.attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.ffn_{part}": (INNER, HIDDEN) for part in ("gate", "up")}
    for tensor, shape in shapes.items():
        w.add_tensor(f"{tensor}.weight", (rng.standard_normal(shape) * 0.3).astype(np.float32))
    for tensor in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        w.add_tensor(f"{tensor}.weight", np.ones(HIDDEN, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    model = Llama(f"{folder}/{name}.gguf", n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    tokens = [1] + [(7 * i * i + 3 * i) % 290 + 3 for i in range(39)]
    model.eval(tokens)
    return np.array(model.scores[: len(tokens)])


plain = logits("plain")
seen = {
    "attn_factor 0.7": logits("attn", attn_factor=0.7),
    "yarn_beta_fast 8, yarn_beta_slow 2": logits("beta", yarn_beta_fast=8.0, yarn_beta_slow=2.0),
    "yarn_ext_factor 0 (no YaRN at all)": logits("ext", yarn_ext_factor=0.0),
}
changes = {name: float(np.abs(found - plain).max()) for name, found in seen.items()}
for name, change in changes.items():
    print(f"{name}: logits change by at most {change:.3f}")
attn, beta, ext = changes.values()
sys.exit(not (attn > 0.1 and beta == 0.0 and ext == 0.0))
PYTHON
"$folder/venv/bin/python" "$folder/compare.py" "$folder"
