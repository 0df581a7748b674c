"""The checkpoint as GGUF for llama.cpp: bf16 through the `gguf` package, then whatever type llama.cpp makes of it.

Usage: python -m benchmarks.peers.write_gguf CHECKPOINT FILE bf16|q8_0|q4_0. Rows of Llama's q and k are reordered as
that format wants them (its rotary embedding pairs neighbours).
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import gguf
import llama_cpp as llama
import numpy as np
import numpy.typing as npt

from benchmarks.peers import stored

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
TYPES = {"q8_0": llama.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama.LLAMA_FTYPE_MOSTLY_Q4_0}
PRE_TOKENIZERS = {"llama": "smollm", "qwen3": "qwen2"}


def name_in_gguf(name: str) -> str:
    if name in OUTSIDE:
        return OUTSIDE[name]
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.weight", name)
    if found is None:
        raise ValueError(f"{name}: not a tensor of the shapes measured here")
    return f"blk.{found[1]}.{NAMES[found[2]]}.weight"


def neighbours(values: npt.NDArray[Any], num_heads: int) -> npt.NDArray[Any]:
    """Rows of each head from halves (0..d/2, d/2..d) to pairs."""
    rows, cols = values.shape
    return values.reshape(num_heads, 2, rows // num_heads // 2, cols).swapaxes(1, 2).reshape(rows, cols)


def write_bf16(checkpoint: Path, path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    kind = config["model_type"]
    writer = gguf.GGUFWriter(str(path), kind)
    describe(writer, config)
    add_tokenizer(writer, json.loads((checkpoint / "tokenizer.json").read_text()), config)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, (stored_as, values) in stored.read(checkpoint / "model.safetensors").items():
        projection = name.split(".")[-2]
        if kind == "llama" and projection in heads:
            values = neighbours(values, heads[projection])
        if values.ndim == 1:
            writer.add_tensor(name_in_gguf(name), stored.float32(stored_as, values))
        else:
            bits = np.ascontiguousarray(values).view(np.uint8)
            writer.add_tensor(name_in_gguf(name), bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    vocab = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZERS[config["model_type"]])
    writer.add_token_list(sorted(vocab, key=vocab.__getitem__))
    writer.add_token_types(
        [gguf.TokenType.CONTROL if id in special else gguf.TokenType.NORMAL for id in range(len(vocab))]
    )
    writer.add_token_merges(tokenizer["model"]["merges"])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def quantize(source: Path, path: Path, weights: str) -> None:
    params = llama.llama_model_quantize_default_params()
    params.ftype = TYPES[weights]
    status = llama.llama_model_quantize(str(source).encode(), str(path).encode(), params)
    if status:
        raise RuntimeError(f"llama_model_quantize: {status}")


def main() -> None:
    checkpoint, path, weights = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if weights == "bf16":
        write_bf16(checkpoint, path)
        return
    source = path.with_suffix(".source.gguf")
    write_bf16(checkpoint, source)
    quantize(source, path, weights)
    source.unlink()


if __name__ == "__main__":
    main()
