"""Checkpoints of named shapes with random bf16 weights in safetensors, for ours alone or for every engine.

The benchmarks speak in token ids. For ours alone a tokenizer of one token will do; other engines want one of the right
size, so for all of them a byte-level BPE is made whose merges append one byte to an earlier token.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

TOKENIZER: dict[str, Any] = {  # one token, never used: the benchmarks speak in token ids
    "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
    "pre_tokenizer": None, "post_processor": None, "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"},
}  # fmt: skip
STORED = {"f32": "F32", "bf16": "BF16", "f16": "F16"}


def write_checkpoint(shape: str, directory: Path) -> None:
    """config.json and model.safetensors of a named shape with random bf16 weights."""
    from benchmarks import shapes
    from tripos.models import config, registry

    special = ("bos_token_id", "eos_token_id", "pad_token_id")  # which this tokenizer does not have
    raw = {key: value for key, value in shapes.SHAPES[shape].items() if key not in special}
    weights = shapes.random_weights(registry.trace(config.parse_config(raw)))
    header, offset = {}, 0
    for name, tensor in weights.items():
        end = offset + tensor.data.nbytes
        header[name] = {"dtype": STORED[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in weights.values():
            file.write(tensor.data.tobytes())
    (directory / "config.json").write_text(json.dumps(raw))
    (directory / "tokenizer.json").write_text(json.dumps(TOKENIZER))


def write(shape: str, directory: Path) -> None:
    """What every engine reads: the published keys of config.json, and a tokenizer that fills the vocabulary."""
    from benchmarks.shapes import SHAPES

    raw = SHAPES[shape]
    write_checkpoint(shape, directory)
    (directory / "config.json").write_text(json.dumps(as_published(raw), indent=1))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer(raw["vocab_size"], special_tokens(raw))))
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(raw)))
    generation = {"bos_token_id": raw["bos_token_id"], "eos_token_id": raw["eos_token_id"], "do_sample": False}
    (directory / "generation_config.json").write_text(json.dumps(generation))


def as_published(raw: dict[str, Any]) -> dict[str, Any]:
    """Keys that every reader of config.json finds, old and new spellings."""
    head_dim = raw.get("head_dim", raw["hidden_size"] // raw["num_attention_heads"])
    return raw | {"head_dim": head_dim, "initializer_range": 0.02, "use_cache": True, "attention_dropout": 0.0}


def special_tokens(raw: dict[str, Any]) -> dict[int, str]:
    return {raw["eos_token_id"]: "<|end|>"} | {raw["bos_token_id"]: "<|begin|>"}


def byte_characters() -> list[str]:
    """The printable stand-in of each byte, as GPT-2's tokenizer defines them."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in plain]
    return [chr(byte) if byte in plain else chr(256 + others.index(byte)) for byte in range(256)]


def vocabulary(size: int, special: dict[int, str]) -> tuple[list[str], list[str]]:
    """Tokens by id, and merges ("left right") in order."""
    alphabet = byte_characters()
    made, merges = list(alphabet), []
    for k in range(size - 256 - len(special)):
        left, right = made[k // 256], alphabet[k % 256]
        made.append(left + right)
        merges.append(f"{left} {right}")
    pieces = iter(made)
    return [special[id] if id in special else next(pieces) for id in range(size)], merges


def tokenizer(size: int, special: dict[int, str]) -> dict[str, Any]:
    tokens, merges = vocabulary(size, special)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": id, "content": special[id], **flags} for id in sorted(special)],
        "normalizer": None, "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "vocab": {token: id for id, token in enumerate(tokens)}, "merges": merges,
        },
    }  # fmt: skip


def tokenizer_config(raw: dict[str, Any]) -> dict[str, Any]:
    special = special_tokens(raw)
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "add_bos_token": False, "clean_up_tokenization_spaces": False,
        "bos_token": special[raw["bos_token_id"]], "eos_token": special[raw["eos_token_id"]],
        "pad_token": special[raw["eos_token_id"]], "model_max_length": raw["max_position_embeddings"],
    }  # fmt: skip
