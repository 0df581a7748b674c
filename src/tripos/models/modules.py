"""What a sentence-transformers directory says beside config.json: pooling, dense layers, normalisation, prompts, the
longest input.

Read once into one plain dict, which rides in the config under MODULES (so that it is part of the digest and of packed
copies), and parsed from there. The files are those that sentence-transformers' documentation calls custom models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tripos.errors import ModelRefused
from tripos.models.config import Family, Fields, parse_json
from tripos.models.files import is_there, read_bytes
from tripos.models.weights import Checkpoint, open_checkpoint

MODULES = "tripos_modules"  # the key in the config
MAX_MODULES_BYTES = 1 << 20
Pooling = Literal["mean", "cls", "last"]
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_OLDER = {  # a flag per mode, before pooling_mode
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max", "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}  # fmt: skip
_ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "GELU": "gelu", "ReLU": "relu", "SiLU": "silu"}  # torch's classes
_FOLDERS = {"Pooling": re.compile("[A-Za-z0-9_-]*"), "Dense": re.compile("[A-Za-z0-9_-]+")}
_UNBOUNDED = 10**9  # tokenizers write a huge number for "no limit"


@dataclass(frozen=True, kw_only=True)
class Dense:
    """A linear layer over the pooled vector, and what is applied to its output (None: nothing)."""

    name: str  # its tensors are name.linear.weight [out_features, in_features] and perhaps name.linear.bias
    in_features: int
    out_features: int
    has_bias: bool
    act: str | None


@dataclass(frozen=True, kw_only=True)
class Modules:
    """How token vectors become the vector of a text."""

    pooling: Pooling = "mean"
    dense: tuple[Dense, ...] = ()  # in order, after pooling
    normalize: bool = False
    max_length: int = 0  # tokens, special ones included; 0: what the model takes
    lower_case: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)  # name -> what is put before a text
    default_prompt: str | None = None


def read_modules(folder: Path) -> dict[str, Any] | None:
    """The files as one dict, or None where there is no modules.json. Raises ModelRefused naming the file."""
    if not is_there(folder / "modules.json"):
        return None
    listed = _read(folder, "modules.json", b'{"modules": %s}').get("modules")
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise ModelRefused("modules.json: expected a list of objects")
    kinds = [str(each.get("type", "")).rpartition(".")[2] for each in listed]
    found: dict[str, Any] = {"kinds": kinds}
    for kind, each in zip(kinds, listed, strict=True):
        path = str(each.get("path", ""))
        if kind in _FOLDERS and _FOLDERS[kind].fullmatch(path) is None:
            raise ModelRefused(f"modules.json: path of {kind} is {path[:60]!a}; expected a folder's name")
        if kind == "Pooling":
            found["pooling"] = _read(folder, f"{path}/config.json" if path else "config.json")
        if kind == "Dense":
            found.setdefault("dense", []).append({**_read(folder, f"{path}/config.json"), "path": path})
    for key, name in (("transformer", "sentence_bert_config.json"), ("prompts", "config_sentence_transformers.json")):
        found[key] = _read(folder, name) if is_there(folder / name) else {}
    settings = _read(folder, "tokenizer_config.json") if is_there(folder / "tokenizer_config.json") else {}
    length = settings.get("model_max_length")
    if type(length) is int and length < _UNBOUNDED:
        found["model_max_length"] = length
    return found


def with_module_weights(weights: Checkpoint, folder: Path, modules: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint and the tensors of the dense layers, each behind its folder's name. Raises ModelRefused."""
    tensors = dict(weights)
    for each in modules.get("dense", ()):
        try:
            found = open_checkpoint(folder / each["path"])
        except ModelRefused as refused:  # several folders have files of the same names
            raise ModelRefused(f"{each['path']}/{refused.message}") from refused
        for name, tensor in found.items():
            full = f"{each['path']}.{name}"
            tensors[full] = replace(tensor, name=full)
    return Checkpoint(tensors)


def parse_modules(config: Mapping[str, Any]) -> Modules:
    """From the config of read_modules; without one, what sentence-transformers does with a bare encoder: the mean.

    Raises ModelRefused for modules that are not supported, naming the file and the field.
    """
    raw = config.get(MODULES)
    if raw is None:
        return Modules()
    kinds = raw["kinds"]
    dense = tuple(_dense(each) for each in raw.get("dense", ()))
    supported = ["Transformer", "Pooling", *["Dense"] * len(dense)]
    if kinds not in (supported, [*supported, "Normalize"]):
        raise ModelRefused(
            f"modules.json: {', '.join(map(str, kinds))[:80]} is not supported; supported: Transformer, Pooling, any "
            "number of Dense and perhaps Normalize"
        )
    transformer = Fields(raw["transformer"], "sentence_bert_config.json", Family())
    length = transformer.integer("max_seq_length", 1, 1 << 24, raw.get("model_max_length", 0) or 1 << 24)
    return Modules(
        pooling=_pooling(raw.get("pooling", {})),
        dense=dense,
        normalize="Normalize" in kinds,
        max_length=0 if length == 1 << 24 else length,
        lower_case=transformer.flag("do_lower_case", False),
        **_prompts(raw["prompts"]),
    )


def _pooling(raw: Mapping[str, Any]) -> Pooling:
    mode = raw.get("pooling_mode")
    if mode is None:
        modes = [name for key, name in _OLDER.items() if raw.get(key)] or ["mean"]
        mode = modes[0] if len(modes) == 1 else modes
    if not isinstance(mode, str) or mode not in _POOLINGS:
        raise ModelRefused(
            f"1_Pooling/config.json: pooling {mode!a} is not supported; supported: {', '.join(_POOLINGS)}"
        )
    if raw.get("include_prompt") is False:
        raise ModelRefused("1_Pooling/config.json: include_prompt false is not supported")
    return _POOLINGS[mode]


def _dense(raw: Mapping[str, Any]) -> Dense:
    file = f"{raw['path']}/config.json"
    fields = Fields(raw, file, Family())
    kind = str(raw.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
    if kind not in _ACTIVATIONS:
        raise ModelRefused(
            f"{file}: activation_function {kind[:60]!a} is not supported; supported: {', '.join(_ACTIVATIONS)}"
        )
    names = (
        raw.get("module_input_name") or "sentence_embedding",
        raw.get("module_output_name") or "sentence_embedding",
    )
    if names != ("sentence_embedding", "sentence_embedding") or fields.flag("use_residual", False):
        raise ModelRefused(f"{file}: only a Dense from sentence_embedding to itself, without a residual, is supported")
    return Dense(
        name=raw["path"],
        in_features=fields.integer("in_features", 1, 1 << 17),
        out_features=fields.integer("out_features", 1, 1 << 17),
        has_bias=fields.flag("bias", True),
        act=_ACTIVATIONS[kind],
    )


def _prompts(raw: Mapping[str, Any]) -> dict[str, Any]:
    file = "config_sentence_transformers.json"
    prompts = raw.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in prompts.values()):
        raise ModelRefused(f"{file}: prompts must map names to texts")
    default = raw.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ModelRefused(f"{file}: default_prompt_name is {ascii(default)[:60]}, which prompts do not name")
    return {"prompts": dict(prompts), "default_prompt": default}


def _read(folder: Path, name: str, form: bytes = b"%s") -> dict[str, Any]:
    return parse_json(form % read_bytes(folder / name, MAX_MODULES_BYTES, name), name)
