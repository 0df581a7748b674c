"""Small models of every format, and their files changed at random, each format by its own grammar. Seeded."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.models.files import writing as write
from tests.unit.models.files.adapter_files import CONFIG, matrices
from tests.unit.models.files.test_packed import pack, small_model
from tests.unit.models.files.test_quantized import CONFIG as QUANTIZED
from tests.unit.models.files.test_quantized import LINEARS, awq, drawn, gptq, packed
from tripos.models.files.safetensors import open_checkpoint

GOLDEN = Path(__file__).parents[1] / "models" / "golden_encoders"
TEMPLATE = """{{- bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}
<|{{ message.role | trim }}|>{{ message['content'] ~ '\\n' }}{% elif loop.last and not tools %}
{{ raise_exception('no ' + message.role) }}{% else %}{{ message.content }}{% endif %}{% endfor %}
{%- macro end(x) %}{{ x | tojson }}{% endmacro %}{% set ns = namespace(n=0) %}
{% if add_generation_prompt %}<|assistant|>{{ end([1, 2][0:ns.n]) }}{% endif %}"""
TEMPLATE_PIECES = [
    "{{", "}}", "{%", "%}", "{#", "#}", "{% endfor %}", "{% endif %}", "{% for x in messages %}", "{% if x %}",
    "{% include 'x' %}", "{% import 'os' as o %}", "{{ messages.__class__ }}", "{{ x.y.z }}", "{{ 1 / 0 }}",
    "{{ range(10 ** 9) | length }}", "{{ 'x' * 10 ** 9 }}", "{% for x in range(10 ** 9) %}{{ x }}{% endfor %}",
    "{% set a = b %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ raise_exception(1) }}", "'", '"', "(",
    "[" * 200, "{{ " + "-" * 500 + "1 }}", "{{ " + "(" * 300, "\0", "\ud7ff", "{% raw %}", "{{ tools | tojson }}",
    "{{ '%s' % messages }}", "{{ messages | map(attribute='content') | join }}", "{% generation %}", "{{ 9" + "9" * 50,
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 0.5, -0.5, 1e308, -1e308, 2**31, 2**31 - 1, 2**32, 2**63, 2**64, -(2**63),
    10**30, 10**9, 65536, "", "x", "0", "1", "\0", "\ud7ff", "\U0010ffff", "a" * 300, "../../etc/passwd", "/etc/passwd",
    "a b", "I64", "F8_E4M3", "BOOL", "F32", "int8", "float16", "mean", "Sequence", "BPE", "WordPiece", "Unigram",
    "ByteLevel", "Metaspace", "Replace", "Prepend", [], {}, [None], [[]], [0], [1, 2], [2, 2], ["x"], [{}], {"a": 1},
    {"type": "x"}, {"type": "NFC"}, {"type": "Lowercase"}, {"type": "Metaspace", "replacement": "▁"},
    {"type": "Replace", "pattern": {"String": "a"}, "content": "b"}, {"type": "Prepend", "prepend": "x"},
    {"rope_type": "linear", "factor": 2.0}, ["LlamaForCausalLM"], ["BertModel"], ["Qwen3ForCausalLM"],
]  # fmt: skip
RAW = [b"NaN", b"-Infinity", b"1e999", b"01", b'"\\ud800"', b'"\\u0000"', b"[" * 100 + b"]" * 100, b"\xff", b"tru",
       b"9" * 5000, b'{"a": 1, "a": 2}', b"", b"[" * 30_000]  # fmt: skip
SIZES = [
    0,
    1,
    2,
    7,
    8,
    31,
    255,
    256,
    2**15,
    2**16,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
]

Files = dict[str, bytes]  # by path inside the directory; a lone .gguf or an adapter is one, too


@dataclass(frozen=True)
class Model:
    """An honest model; `source` is what is opened of it, "" for the directory itself."""

    name: str
    files: Files
    source: str = ""


@dataclass(frozen=True)
class Case:
    """A model of whose files one is no longer what it was. `put` makes what is there in its place, if no file is."""

    model: Model
    file: str
    how: str
    data: bytes | None = None  # None: nothing is there, or what `put` makes
    put: str = ""


def models(folder: Path) -> list[Model]:
    """One of each format and family. `folder` is for writing them."""
    small = small_model(folder / "llama")
    write.write(small / "chat_template.jinja", TEMPLATE)
    write.write(small / "generation_config.json", {"temperature": 0.7, "top_k": 20, "eos_token_id": [257]})
    sharded = folder / "sharded"
    shutil.copytree(small, sharded)
    (sharded / "model.safetensors").rename(sharded / "model-00001-of-00001.safetensors")
    shards = dict.fromkeys(open_checkpoint(small), "model-00001-of-00001.safetensors")
    write.write(sharded / "model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": shards})
    found = [_read(path) for path in (small, sharded, pack(small, folder / "packed"))]
    names = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir() and not path.name.startswith("modernbert"))
    found += [_read(GOLDEN / name) for name in names]
    found += [_read(_quantized(writer, folder / f"by-{writer.__name__}")) for writer in (awq, gptq, packed)]
    adapter = {
        "adapter_model.safetensors": write.safetensors_bytes(matrices({"model.layers.0.self_attn.q_proj": (48, 48)}))
    }
    adapter["adapter_config.json"] = json.dumps({**CONFIG, "target_modules": ["q_proj"]}).encode()
    found.append(_read(pack(GOLDEN / "bert-dense", folder / "packed-dense")))
    return [*found, Model("adapter", adapter), *ggufs()]


def gguf_parts(kind: str) -> tuple[list[bytes], list[bytes], bytes]:
    """The keys, tensor descriptions and data of a GGUF whose vocabulary is SentencePiece's ("llama") or "gpt2"."""
    pair, text, u32 = write.pair, write.text, write.u32
    if kind == "llama":
        tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "b", "ab"]
        vocabulary = [
            pair("tokenizer.ggml.scores", write.ARRAY, write.numbers(write.F32, [0.0] * 259 + [-1.0, -2.0, -0.5])),
            pair("tokenizer.ggml.token_type", write.ARRAY, write.numbers(write.I32, [2, 3, 3, *[6] * 256, 1, 1, 1])),
        ]
    else:
        tokens = ["<unk>", "<s>", "</s>", *write.ALPHABET, "ab", "abc"]
        vocabulary = [
            pair("tokenizer.ggml.pre", write.STRING, text("qwen2")),
            pair("tokenizer.ggml.merges", write.ARRAY, write.strings(["a b", "ab c"])),
            pair("tokenizer.ggml.token_type", write.ARRAY, write.numbers(write.I32, [2, 3, 3, *[1] * 258])),
        ]
    sizes = {
        "embedding_length": 32, "block_count": 1, "attention.head_count": 2, "context_length": 32,
        "feed_forward_length": 64,
    }  # fmt: skip
    pairs = [
        pair("general.architecture", write.STRING, text("llama")),
        pair("tokenizer.ggml.model", write.STRING, text(kind)),
        pair("tokenizer.ggml.tokens", write.ARRAY, write.strings(tokens)),
        *vocabulary,
        pair("tokenizer.ggml.bos_token_id", write.U32, u32(1)),
        pair("tokenizer.ggml.eos_token_id", write.U32, u32(2)),
        pair("tokenizer.chat_template", write.STRING, text(TEMPLATE)),
        *(pair(f"llama.{key}", write.U32, u32(value)) for key, value in sizes.items()),
        pair("llama.attention.layer_norm_rms_epsilon", write.F32, struct.pack("<f", 1e-5)),
    ]
    shapes = {
        "token_embd": (len(tokens), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        **{f"blk.0.attn_{name}": (32, 32) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (64, 32), "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64),
    }  # fmt: skip
    infos, data = [], b""
    for name, shape in shapes.items():
        infos.append(write.tensor_info(f"{name}.weight", list(shape[::-1]), 0, len(data)))
        data += np.full(shape, 0.125, np.float32).tobytes()
        data += bytes(-len(data) % 32)
    return pairs, infos, data


GGUF_KINDS = ("llama", "gpt2")


def ggufs() -> list[Model]:
    """One of each vocabulary."""
    return [
        Model(f"gguf-{kind}", {"small.gguf": write.gguf_bytes(*gguf_parts(kind))}, "small.gguf") for kind in GGUF_KINDS
    ]


class FileMutator:
    """Draws cases. The same seed draws the same."""

    def __init__(self, seed: int, honest: list[Model]) -> None:
        self._rng = random.Random(seed)
        self._honest = [model for model in honest if not model.source]
        self._ggufs = [model for model in honest if model.source]

    def draw(self) -> Case:
        rng = self._rng
        if rng.random() < 0.25:
            return self._gguf()
        model = rng.choice(self._honest)
        weights = [8 if name.endswith((".json", ".jinja")) else 6 for name in model.files]
        name = rng.choices(list(model.files), weights)[0]
        if rng.random() < 0.04:
            put = rng.choice(("fifo", "socket", "device", "directory", "nothing", "dangling", "loop", "full"))
            return Case(model, name, put, None, put)
        data = model.files[name]
        if name.endswith(".safetensors"):
            how, changed = rng.choices(("header", "bytes"), (7, 3))[0], b""
            changed = self._header(data) if how == "header" else self._bytes(data)
        elif name.endswith(".jinja"):
            how, changed = "template", self._template(data)
        else:
            how = rng.choices(("json", "text", "bytes"), (7, 2, 1))[0]
            changed = {"json": self._json, "text": self._text, "bytes": self._bytes}[how](data)
        return Case(model, name, how, changed)

    # -- bytes and texts ------------------------------------------------------------------------------------
    def _bytes(self, data: bytes) -> bytes:
        """Cut, longer, bits turned, another encoding, nothing, noise."""
        rng, changed = self._rng, bytearray(data)
        kind = rng.randrange(8)
        if kind == 0:
            del changed[rng.randrange(len(changed) or 1) :]
        elif kind == 1:
            changed += rng.randbytes(rng.choice((1, 8, 4096)))
        elif kind == 2:
            return data.decode("latin-1").encode(rng.choice(("utf-16", "utf-32", "utf-8")))
        elif kind == 3:
            return b"\xef\xbb\xbf" + data
        elif kind == 4:
            return rng.choice((b"", b"\0", rng.randbytes(64), bytes(4096), b"version 1\noid sha256:0"))
        else:
            for _ in range(rng.choice((1, 1, 4, 40))):
                if changed:
                    at = rng.randrange(min(len(changed), rng.choice((16, 4096, len(changed)))))
                    changed[at] ^= 1 << rng.randrange(8)
        return bytes(changed)

    def _text(self, data: bytes) -> bytes:
        rng, changed = self._rng, bytearray(data)
        colons = [at for at, byte in enumerate(data[:65536]) if byte in b":["]
        if colons:
            at = rng.choice(colons) + 1
            changed[at : at + rng.randint(0, 4)] = rng.choice(RAW)
        return bytes(changed)

    def _template(self, data: bytes) -> bytes:
        rng, text = self._rng, data.decode()
        if rng.random() < 0.1:
            return self._bytes(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(text) + 1)
            text = text[:at] + rng.choice(("", *TEMPLATE_PIECES)) + text[at + rng.choice((0, 0, 1, 5, 30)) :]
        return text.encode()

    # -- JSON, and what begins with it ----------------------------------------------------------------------
    def _json(self, data: bytes) -> bytes:
        tree = json.loads(data)
        for _ in range(self._rng.choice((1, 1, 1, 2, 4))):
            tree = self._changed(tree)
        return json.dumps(tree).encode("utf-8", "surrogatepass")

    def _changed(self, tree: Any) -> Any:
        """One value anywhere: gone, renamed, doubled, another one, or another place's."""
        rng = self._rng
        places = list(_places(tree))
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        owner, key = rng.choice(places[: rng.choice((8, 40, len(places)))])
        kind = rng.randrange(10)
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, dict):
            owner[rng.choice((key + "x", "type", "", "a" * 600, key.upper()))] = owner.pop(key)
        elif kind == 2:
            other, place = rng.choice(places)
            owner[key] = copy.deepcopy(other.get(place) if isinstance(other, dict) else other[place : place + 1])
        elif kind == 3 and type(owner[key]) in (int, float):
            owner[key] = rng.choice((owner[key] + 1, owner[key] - 1, -owner[key], owner[key] * 2, float(owner[key])))
        elif kind == 4 and isinstance(owner[key], list):
            owner[key] = owner[key] * rng.choice((0, 2, 3)) + [copy.deepcopy(rng.choice(VALUES))] * rng.randrange(2)
        elif kind == 5:
            for _ in range(rng.choice((1, 3, 70))):
                owner[key] = [owner[key]] if rng.random() < 0.5 else {"type": owner[key]}
        else:
            owner[key] = copy.deepcopy(rng.choice(VALUES))
        return tree

    def _header(self, data: bytes) -> bytes:
        """The JSON before the tensors; its length right, or not; the tensors as they were, or not."""
        rng = self._rng
        length = int.from_bytes(data[:8], "little")
        header, rest = self._json(data[8 : 8 + length]), data[8 + length :]
        if rng.random() < 0.2:
            header += b" " * rng.randrange(64)
        length = rng.choice(SIZES) if rng.random() < 0.1 else len(header)
        if rng.random() < 0.2:
            rest = self._bytes(rest)
        return struct.pack("<Q", length) + header + rest

    # -- GGUF -----------------------------------------------------------------------------------------------
    def _gguf(self) -> Case:
        rng = self._rng
        model = rng.choice(self._ggufs)
        if rng.random() < 0.03:
            put = rng.choice(("fifo", "socket", "device", "directory", "nothing", "dangling", "loop", "full"))
            return Case(model, "small.gguf", put, None, put)
        if rng.random() < 0.25:
            return Case(model, "small.gguf", "bytes", self._bytes(model.files["small.gguf"]))
        pairs, infos, data = (list(part) if isinstance(part, list) else part for part in gguf_parts(model.name[5:]))
        counts: dict[str, int] = {}
        for _ in range(rng.choice((1, 1, 2, 3))):
            kind = rng.randrange(9)
            if kind < 5:
                part = pairs if kind < 3 else infos
                at = rng.randrange(len(part) or 1)
                part[at : at + 1] = [piece for piece in map(self._piece, part[at : at + 1]) if piece]
            elif kind == 5:
                counts[rng.choice(("num_tensors", "num_pairs", "version"))] = rng.choice(
                    (0, 1, 2, 3, 4, 300, 2**31, 2**32 - 1)
                )
            elif kind == 6:
                pairs.append(write.pair("general.alignment", write.U32, write.u32(rng.choice(SIZES) % 2**32)))
            elif kind == 7:
                pairs.append(
                    write.pair(f"llama.{rng.choice(_LLAMA_KEYS)}", write.U32, write.u32(rng.choice(SIZES) % 2**32))
                )
            else:
                data = self._bytes(data)
        return Case(model, "small.gguf", "parts", write.gguf_bytes(pairs, infos, data, **counts))

    def _piece(self, piece: bytes) -> bytes:
        """A key with its value, or a tensor's description: gone, twice, or one of its numbers or bytes another."""
        rng, changed = self._rng, bytearray(piece)
        kind = rng.randrange(6)
        if kind == 0:
            return b""
        if kind == 1:
            return piece + piece
        name_end = 8 + int.from_bytes(piece[:8], "little")
        at = rng.choice(
            (0, name_end, name_end + 4, name_end + 8, name_end + 12, len(piece) - 8, rng.randrange(len(piece)))
        )
        at = max(0, min(at, len(piece) - 4))
        if kind in (2, 3):
            size = min(rng.choice((4, 8)), len(piece) - at)
            changed[at : at + size] = (rng.choice(SIZES) % 2 ** (8 * size)).to_bytes(size, "little")
        elif kind == 4:
            changed[at : at + 4] = write.u32(rng.randrange(45))  # a type
        else:
            changed[at] ^= 1 << rng.randrange(8)
        return bytes(changed)


_LLAMA_KEYS = ("rope.dimension_count", "attention.key_length", "attention.sliding_window", "rope.scaling.factor",
               "expert_count", "vocab_size", "attention.head_count_kv", "rope.freq_base", "block_count")  # fmt: skip


def lay(case: Case, honest: Path, folder: Path) -> Path:
    """Write the case into `folder`, what is unchanged as links to `honest`; returns what is to be opened."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in case.model.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name != case.file:
            (folder / name).symlink_to(honest / case.model.name / name)
        elif case.data is not None:
            (folder / name).write_bytes(case.data)
        else:
            PUTS[case.put](folder / name)
    return folder / case.model.source if case.model.source else folder


def _put_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


PUTS: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo, "socket": _put_socket, "device": lambda path: path.symlink_to("/dev/zero"),
    "directory": lambda path: path.mkdir(), "nothing": lambda path: None,
    "dangling": lambda path: path.symlink_to("gone"), "loop": lambda path: path.symlink_to(path.name),
    "full": lambda path: path.symlink_to("/dev/full"),
}  # fmt: skip


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """(owner, key) of every value inside, the outer ones first."""
    level = [tree]
    while level:
        inner = []
        for owner in level:
            keys = list(owner) if isinstance(owner, dict) else range(len(owner)) if isinstance(owner, list) else ()
            for key in keys:
                yield owner, key
                inner.append(owner[key])
        level = inner


def _quantized(writer: Callable[..., Any], folder: Path) -> Path:
    """Of one layer, its linears as another tool packs them."""
    tensors = {name: np.ones(shape, np.float32) for name, shape in {
        "model.embed_tokens.weight": (258, 64), "model.norm.weight": (64,),
        "model.layers.0.input_layernorm.weight": (64,), "model.layers.0.post_attention_layernorm.weight": (64,),
    }.items()}  # fmt: skip
    settings: dict[str, Any] = {}
    for name, (rows, cols) in LINEARS.items():
        settings, arrays = writer(*drawn(rows, cols, 32))
        tensors |= {key.replace("a.", f"model.layers.0.{name}."): value for key, value in arrays.items()}
    config = QUANTIZED | {"quantization_config": settings}
    return write.model_folder(_new(folder), config__json=config, model__safetensors=write.safetensors_bytes(tensors))


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _read(folder: Path) -> Model:
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".json", ".safetensors", ".jinja")
    }
    return Model(folder.name, files)
