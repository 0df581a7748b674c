"""What a sentence-transformers directory says beside config.json: which modules, pooling, dense layers, normalisation,
prompts, activation, lengths.

Read once into one plain dict, which rides in the config under MODULES (so that it is part of the digest and of packed
copies), and parsed from there. The files are those that sentence-transformers' documentation calls custom models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tripos.errors import ModelRefused, shown
from tripos.models.fields import Family, Fields
from tripos.models.files.opening import is_there, read_bytes
from tripos.models.files.safetensors import Checkpoint, open_checkpoint
from tripos.models.files.strict_json import parse_json
from tripos.models.task import MODULES
from tripos.models.text.tokenizer_settings import feeds_token_types

MAX_MODULES_BYTES = 1 << 20
Pooling = Literal["mean", "cls", "last"]
_POOLINGS: dict[str, Pooling] = {"mean": "mean", "cls": "cls", "lasttoken": "last"}
_OLDER = {  # a flag per mode, before pooling_mode
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max", "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}  # fmt: skip
_ACTIVATIONS = {"Identity": None, "Tanh": "tanh", "GELU": "gelu", "ReLU": "relu", "SiLU": "silu"}  # torch's classes
_FIRST = ("Transformer", "StaticEmbedding")
_KNOWN = (*_FIRST, "Pooling", "Dense", "Normalize", "Dropout")  # dropout does nothing to a model that answers
_FOLDER = re.compile("[A-Za-z0-9_-]*")
_LIBRARY = "sentence_transformers."  # any other class is code that comes with the model
_UNBOUNDED = 10**9  # tokenizers write a huge number for "no limit"
_SETTINGS, _PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"


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
    """How token vectors become the vector of a text, or its score."""

    first: str = "Transformer"
    pooling: Pooling | None = "mean"  # None: there is no pooling, the transformer gives a score
    dense: tuple[Dense, ...] = ()  # in order, after pooling
    normalize: bool = False
    truncate_dim: int | None = None  # numbers of a vector that are kept, whatever its length then is
    max_length: int = 0  # tokens, special ones included; 0: what the model takes
    lower_case: bool = False
    feeds_token_types: bool = True
    activation: str | None = None  # of the score: the path of torch's class
    prompts: Mapping[str, str] = field(default_factory=dict)  # name -> what is put before a text
    default_prompt: str | None = None


def read_modules(folder: Path) -> dict[str, Any] | None:
    """The files as one dict, or None where there is no modules.json. Raises ModelRefused naming the file."""
    if not is_there(folder / "modules.json"):
        return None
    listed = _read(folder, "modules.json", b'{"modules": %s}').get("modules")
    if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
        raise ModelRefused("modules.json: expected a list of objects")
    kinds = [_kind(each.get("type")) for each in listed]
    _check_order(kinds)
    paths = [_path(kind, each.get("path")) for kind, each in zip(kinds, listed, strict=True)]
    found: dict[str, Any] = {"kinds": kinds, "path": paths[0]}
    for kind, path in zip(kinds, paths, strict=True):
        if kind == "Pooling":
            found["pooling"] = {**_read(folder, _inside(path, "config.json")), "path": path}
        if kind == "Normalize" and is_there(folder / path / "config.json"):
            _check_names(_read(folder, _inside(path, "config.json")), _inside(path, "config.json"))
        if kind == "Dense":
            found.setdefault("dense", []).append({**_read(folder, _inside(path, "config.json")), "path": path})
    for key, name in (("transformer", _inside(paths[0], _SETTINGS)), ("prompts", _PROMPTS)):
        found[key] = _read(folder, name) if is_there(folder / name) else {}
    return found


def with_tokenizer_facts(
    modules: Mapping[str, Any], settings: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """The same with what tokenizer_config.json says of the model's input: its length, where no other is given, and
    whether texts of a pair are told apart."""
    found = {**modules, "feeds_token_types": feeds_token_types(settings, config)}
    length = settings.get("model_max_length")
    return {**found, "model_max_length": length} if type(length) is int and length < _UNBOUNDED else found


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
    if not isinstance(raw, Mapping):
        raise ModelRefused(f"config.json: {MODULES} is {shown(raw)}; expected an object")
    kinds = raw.get("kinds", ["Transformer", "Pooling"])
    if not isinstance(kinds, list):
        raise ModelRefused(f"config.json: {MODULES}.kinds is {shown(kinds)}; expected a list")
    _check_order(kinds)
    dense = tuple(map(_dense, _inner(raw, "dense", list)))
    settings, prompts = _inner(raw, "transformer", dict), _inner(raw, "prompts", dict)
    _check_settings(settings, prompts)
    transformer, others = Fields(settings, _SETTINGS, Family()), Fields(prompts, _PROMPTS, Family())
    tokenizer = Fields(raw, "tokenizer_config.json", Family())
    longest = tokenizer.integer("model_max_length", 1, _UNBOUNDED, _UNBOUNDED)
    length = transformer.integer("max_seq_length", 1, _UNBOUNDED, longest)
    width = others.integer("truncate_dim", 1, 1 << 17) if prompts.get("truncate_dim") is not None else None
    return Modules(
        first=kinds[0],
        pooling=_pooling(_inner(raw, "pooling", dict)) if "Pooling" in kinds else None,
        dense=dense,
        normalize="Normalize" in kinds,
        truncate_dim=width,
        max_length=0 if length == _UNBOUNDED else length,
        lower_case=transformer.flag("do_lower_case", False),
        feeds_token_types=Fields(raw, "config.json", Family()).flag("feeds_token_types", True),
        activation=_activation(prompts),
        **_prompts(prompts),
    )


def _kind(path: Any) -> str:
    """The class of a module; only the library's own are known, whatever another one is called."""
    if not isinstance(path, str) or not path.startswith(_LIBRARY):
        raise ModelRefused(f"modules.json: type is {shown(path)}; only classes of sentence_transformers are known")
    return path.rpartition(".")[2]


def _path(kind: str, path: Any) -> str:
    """The folder of a module, which need not exist where it has no files."""
    path = "" if path is None else path
    if not isinstance(path, str) or _FOLDER.fullmatch(path.rstrip("/")) is None or (kind == "Dense" and not path):
        raise ModelRefused(f"modules.json: path of {kind} is {shown(path)}; expected a folder's name")
    return path.rstrip("/")


def _inside(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _check_order(kinds: list[Any]) -> None:
    """A transformer that scores alone; or a first module, its pooling, dense layers and perhaps the unit length."""
    for kind in kinds:
        if kind not in _KNOWN:
            raise ModelRefused(f"modules.json: {shown(kind)} is not supported; supported: {', '.join(_KNOWN)}")
    rest = [kind for kind in kinds if kind != "Dropout"]
    first = rest[:1]
    rest = rest[1:]
    if first == ["Transformer"] and rest:
        first, rest = rest[:1], rest[1:]
        is_known = first == ["Pooling"]
    else:
        is_known = first in (["Transformer"], ["StaticEmbedding"])
    tail = rest[rest.count("Dense") :]
    if not is_known or rest != ["Dense"] * rest.count("Dense") + tail or tail not in ([], ["Normalize"]):
        raise ModelRefused(
            f"modules.json: {', '.join(map(str, kinds))[:80]} is not supported; supported: a Transformer alone (a "
            "cross-encoder), or Transformer, Pooling or StaticEmbedding, any number of Dense and perhaps Normalize"
        )


def _inner(raw: Mapping[str, Any], key: str, kind: type) -> Any:
    value = raw.get(key)
    if value is not None and not isinstance(value, kind):
        raise ModelRefused(f"config.json: {MODULES}.{key} is {shown(value)}; expected a {kind.__name__}")
    return kind() if value is None else value


def _check_settings(settings: Mapping[str, Any], prompts: Mapping[str, Any]) -> None:
    """What would make another model of the same weights."""
    task, output = settings.get("transformer_task"), settings.get("module_output_name")
    if task not in (None, "feature-extraction", "sequence-classification"):
        raise ModelRefused(f"{_SETTINGS}: transformer_task {shown(task)} is not supported")
    if output not in (None, "token_embeddings", "scores"):
        raise ModelRefused(f"{_SETTINGS}: module_output_name {shown(output)} is not supported")
    for key in ("processing_kwargs", "model_args", "config_args", "tokenizer_args"):
        if settings.get(key):
            raise ModelRefused(f"{_SETTINGS}: {key} is not supported")
    modality = settings.get("modality_config")
    if modality is not None:
        text = modality.get("text") if isinstance(modality, Mapping) else None
        usual = ("forward", ("last_hidden_state", "logits"))
        if (
            not isinstance(text, Mapping)
            or text.get("method") != usual[0]
            or text.get("method_output_name") not in usual[1]
        ):
            raise ModelRefused(f"{_SETTINGS}: modality_config {shown(text)} of text is not supported")
    kind = prompts.get("model_type")
    if kind not in (None, "SentenceTransformer", "CrossEncoder"):
        raise ModelRefused(
            f"{_PROMPTS}: model_type {shown(kind)} is not supported; supported: SentenceTransformer, CrossEncoder"
        )


def _pooling(raw: Mapping[str, Any]) -> Pooling:
    file = _inside(str(raw.get("path", "1_Pooling")), "config.json")
    mode = raw.get("pooling_mode")
    if mode is None:
        modes = [name for key, name in _OLDER.items() if raw.get(key)] or ["mean"]
        mode = modes
    if isinstance(mode, list) and len(mode) == 1:
        mode = mode[0]
    if not isinstance(mode, str) or mode not in _POOLINGS:
        raise ModelRefused(f"{file}: pooling_mode {shown(mode)} is not supported; supported: {', '.join(_POOLINGS)}")
    if raw.get("include_prompt") is False:
        raise ModelRefused(f"{file}: include_prompt false is not supported")
    return _POOLINGS[mode]


def _dense(raw: Any) -> Dense:
    path = raw.get("path") if isinstance(raw, Mapping) else None
    if not isinstance(path, str) or not path:
        raise ModelRefused(f"config.json: {MODULES}.dense holds {shown(raw)}; expected objects with a path")
    file = f"{path}/config.json"
    fields = Fields(raw, file, Family())
    kind = torch_class(raw.get("activation_function") or "torch.nn.modules.activation.Tanh")
    if kind not in _ACTIVATIONS:
        raise ModelRefused(
            f"{file}: activation_function {shown(raw['activation_function'])} is not supported; supported: "
            f"torch's {', '.join(_ACTIVATIONS)}"
        )
    _check_names(raw, file)
    if fields.flag("use_residual", False):
        raise ModelRefused(f"{file}: use_residual is not supported")
    return Dense(
        name=path,
        in_features=fields.integer("in_features", 1, 1 << 17),
        out_features=fields.integer("out_features", 1, 1 << 17),
        has_bias=fields.flag("bias", True),
        act=_ACTIVATIONS[kind],
    )


def _check_names(raw: Mapping[str, Any], file: str) -> None:
    """Every module works on the vector of the text, and leaves it there."""
    for key in ("module_input_name", "module_output_name"):
        if raw.get(key) not in (None, "sentence_embedding"):
            raise ModelRefused(f"{file}: {key} {shown(raw[key])} is not supported; supported: sentence_embedding")


def torch_class(path: Any) -> str | None:
    """The name of a class of torch; None: it is somebody's own, whatever it is called."""
    return path.rpartition(".")[2] if isinstance(path, str) and path.startswith("torch.") else None


def _activation(raw: Mapping[str, Any]) -> str | None:
    path = raw.get("activation_fn")
    if path is not None and torch_class(path) not in ("Sigmoid", "Identity"):
        raise ModelRefused(
            f"{_PROMPTS}: activation_fn {shown(path)} is not supported; supported: torch's Sigmoid, Identity"
        )
    return path


def _prompts(raw: Mapping[str, Any]) -> dict[str, Any]:
    prompts = raw.get("prompts") or {}
    if not isinstance(prompts, Mapping) or not all(isinstance(text, str) for text in prompts.values()):
        raise ModelRefused(f"{_PROMPTS}: prompts must map names to texts")
    default = raw.get("default_prompt_name")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        raise ModelRefused(f"{_PROMPTS}: default_prompt_name is {shown(default)}, which prompts do not name")
    return {"prompts": dict(prompts), "default_prompt": default}


def _read(folder: Path, name: str, form: bytes = b"%s") -> dict[str, Any]:
    return parse_json(form % read_bytes(folder / name, MAX_MODULES_BYTES, name), name)
