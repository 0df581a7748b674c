"""Writers of small model files, honest or lying: the tests say what is in them byte by byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

U8, U32, I32, F32, BOOL, STRING, ARRAY, U64 = 0, 4, 5, 6, 7, 8, 9, 10  # GGUF value types
GGML_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 8, "bf16": 30}


def safetensors_bytes(tensors: dict[str, np.ndarray], metadata: dict[str, Any] | None = None) -> bytes:
    names = {"float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "uint8": "U8"}
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    data = b""
    for name, array in tensors.items():
        raw = array.tobytes()
        header[name] = {
            "dtype": names[str(array.dtype)],
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return with_header(json.dumps(header).encode(), data)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def entry(**changes: Any) -> bytes:
    """A safetensors file of one tensor `t`, 2 × 2 float32, with parts of its header entry replaced."""
    fields = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes
    return with_header(json.dumps({"t": fields}).encode(), bytes(16))


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def pair(key: str | bytes, type_id: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", type_id) + raw


def strings(values: list[str]) -> bytes:
    return struct.pack("<IQ", STRING, len(values)) + b"".join(map(text, values))


def numbers(type_id: int, values: list[float]) -> bytes:
    codes = {I32: "<i", F32: "<f", U8: "<B", BOOL: "<B"}
    return struct.pack("<IQ", type_id, len(values)) + b"".join(struct.pack(codes[type_id], v) for v in values)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def tensor_info(name: str | bytes, dims: list[int], type_id: int = 0, offset: int = 0) -> bytes:
    """`dims` as the file has them: the fastest axis first."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_id, offset)


def gguf_bytes(
    pairs: list[bytes],
    infos: list[bytes] | None = None,
    data: bytes = b"",
    *,
    version: int = 3,
    num_tensors: int | None = None,
    num_pairs: int | None = None,
) -> bytes:
    infos = infos or []
    counts = (len(infos) if num_tensors is None else num_tensors, len(pairs) if num_pairs is None else num_pairs)
    head = b"GGUF" + struct.pack("<IQQ", version, *counts) + b"".join(pairs) + b"".join(infos)
    return head + bytes(-len(head) % 32) + data


def gguf_model(arch: str, pairs: list[bytes], tensors: dict[str, np.ndarray]) -> bytes:
    """A whole GGUF of float32 tensors."""
    infos, data = [], b""
    for name, array in tensors.items():
        infos.append(tensor_info(name, list(array.shape[::-1]), GGML_TYPES["f32"], len(data)))
        data += array.astype(np.float32).tobytes()
        data += bytes(-len(data) % 32)
    return gguf_bytes([pair("general.architecture", STRING, text(arch)), *pairs], infos, data)


def write(path: Path, data: bytes | str | dict[str, Any]) -> Path:
    if isinstance(data, dict):
        data = json.dumps(data)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


ALPHABET = [chr(c) for c in [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]] + [
    chr(256 + i) for i in range(68)
]  # GPT-2's byte-level alphabet


def tokenizer_definition(special: tuple[str, ...] = ("<s>", "</s>"), **sections: Any) -> dict[str, Any]:
    """A byte-level tokenizer.json without merges: one token per byte, and the special tokens behind them."""
    vocab = {char: id for id, char in enumerate(ALPHABET)}
    step = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    definition: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "added_tokens": [
            {
                "id": len(vocab) + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True,
            }
            for i, token in enumerate(special)
        ],
        "pre_tokenizer": step, "post_processor": None, "decoder": step,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": [],
        },
    }  # fmt: skip
    return definition | sections


LLAMA_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4, "intermediate_size": 8,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 258,
    "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": True, "bos_token_id": 256, "eos_token_id": 257,
}  # fmt: skip


def model_folder(folder: Path, **files: bytes | str | dict[str, Any]) -> Path:
    """A directory with everything open_source wants; `files` replace by name with dots as double underscores."""
    content: dict[str, bytes | str | dict[str, Any]] = {
        "config.json": LLAMA_CONFIG,
        "tokenizer.json": tokenizer_definition(),
        "tokenizer_config.json": {"bos_token": "<s>", "eos_token": "</s>"},
        "model.safetensors": safetensors_bytes({"model.embed_tokens.weight": np.ones((258, 4), np.float32)}),
    }
    content |= {name.replace("__", "."): data for name, data in files.items()}
    for name, data in content.items():
        write(folder / name, data)
    return folder
