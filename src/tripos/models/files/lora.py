"""Low-rank adapters as PEFT stores them: a directory with adapter_config.json and adapter_model.safetensors.

Owns the format's rules (https://huggingface.co/docs/peft) and what of it is supported: plain LoRA on linears, with
rank and alpha patterns. What would change the answer and is not computed is refused, never left out. Everything is
read into memory, of bounded size, before a byte is believed: the files may change while we look.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tripos.errors import ModelRefused, shown
from tripos.models.files.digest import hash_fields
from tripos.models.files.opening import name_of, open_regular, unreadable
from tripos.models.files.safetensors import PICKLE_SUFFIXES, check_finite, parse_safetensors
from tripos.models.files.strict_json import parse_json
from tripos.plan.formats import float32_to_bf16, to_float32
from tripos.plan.ir import Adapter, LowRank, WeightTensor
from tripos.plan.lora import Place

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
MAX_CONFIG_BYTES = 1 << 20
MAX_TARGETS, MAX_NAME_CHARS = 4096, 512

_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_PLAIN = re.compile(r"\^?[A-Za-z0-9_.-]+")
# Fields that say how the adapter was trained or where it came from: nothing here changes what it computes.
_NEUTRAL = frozenset({
    "arrow_config", "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "fan_in_fan_out", "inference_mode", "layer_replication", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size",
    "revision", "runtime_config", "target_modules",
})  # fmt: skip
_READ = frozenset({
    "alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "rank_pattern", "task_type",
    "use_rslora",
})  # fmt: skip
# Ways to begin training that change the base model's own weights.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_NEXT = {
    "use_dora": "DoRA is not supported: train with use_dora = false, or merge the adapter into the model",
    "modules_to_save": "whole modules beside the adapter are not supported: merge the adapter into the model",
    "trainable_token_indices": "trained tokens are not supported: merge the adapter into the model",
    "layer_replication": "replicated layers are not supported: merge the adapter into the model",
}


@dataclass(frozen=True)
class ReadAdapter:
    """An adapter's matrices by the model's own names, and who it is."""

    digest: str  # SHA-256 over both files
    rank: int  # the largest
    num_parameters: int
    modules: Adapter


def read_adapter(folder: Path, places: Mapping[str, Place], *, max_rank: int, dtype: str) -> ReadAdapter:
    """The adapter in a directory, for a model whose linears are `places`; its matrices rounded to `dtype` (f32, bf16).

    Raises ModelRefused naming the file, the field or tensor, and the next step.
    """
    if not folder.is_dir():
        raise ModelRefused(
            f"{name_of(folder)}: no such adapter; expected a directory with {CONFIG_FILE} and {WEIGHTS_FILE}"
        )
    config_bytes = _read(folder / CONFIG_FILE, MAX_CONFIG_BYTES)
    config = _Config(parse_json(config_bytes, CONFIG_FILE), places, max_rank)
    data = _read(folder / WEIGHTS_FILE, _most_bytes(places, max_rank))
    pairs = _pairs(parse_safetensors(memoryview(data), WEIGHTS_FILE))
    config.check_modules(set(pairs))
    modules = {f"{module}.weight": config.low_rank(module, *pair, dtype) for module, pair in sorted(pairs.items())}
    check_finite({each.name: each for low in modules.values() for each in (low.a, low.b)})
    return ReadAdapter(
        digest=hash_fields((config_bytes, data), b"tripos adapter 1"),
        rank=max(low.rank for low in modules.values()),
        num_parameters=sum(low.a.data.size + low.b.data.size for low in modules.values()),
        modules=modules,
    )


def _read(path: Path, most: int) -> bytes:
    """A regular file of at most `most` bytes."""
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        raise ModelRefused(_missing(path)) from None
    except (OSError, ValueError) as problem:
        raise unreadable(path.name, problem) from None
    if len(data) > most:
        raise ModelRefused(
            f"{path.name}: larger than {most:,} bytes, the most that an adapter of this model and rank can need"
        )
    return data


def _missing(path: Path) -> str:
    pickles = sorted(each.name for each in path.parent.glob("adapter_model.*") if each.suffix in PICKLE_SUFFIXES)
    if path.name == WEIGHTS_FILE and pickles:
        return f"{pickles[0]}: pickled weights can run code when opened and are never read; convert to {WEIGHTS_FILE}"
    return f"{path.name}: is not in the directory; an adapter has {CONFIG_FILE} and {WEIGHTS_FILE}"


def _most_bytes(places: Mapping[str, Place], max_rank: int) -> int:
    """Float32 matrices of the largest rank for every linear, and a header of two names for each."""
    values = sum(max_rank * sum(place.shape) for place in places.values())
    return 4 * values + 2048 * len(places) + (1 << 16)


def _pairs(tensors: Mapping[str, WeightTensor]) -> dict[str, tuple[WeightTensor, WeightTensor]]:
    """Module -> its lora_A and lora_B."""
    found: dict[str, dict[str, WeightTensor]] = {}
    for name, tensor in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise ModelRefused(f"{WEIGHTS_FILE}: tensor {name}: {_unlike(name)}")
        if tensor.dtype not in ("f32", "f16", "bf16") or len(tensor.shape) != 2:
            shape = list(tensor.shape)
            raise ModelRefused(f"{WEIGHTS_FILE}: tensor {name} is {tensor.dtype} {shape}; expected a float matrix")
        found.setdefault(match[1], {})[match[2]] = tensor
    if not found:
        raise ModelRefused(
            f"{WEIGHTS_FILE}: holds no tensor; expected base_model.model.<module>.lora_A.weight and lora_B"
        )
    for module, pair in found.items():
        if len(pair) != 2:
            raise ModelRefused(f"{WEIGHTS_FILE}: {module} has lora_{''.join(pair)} only; save the adapter again")
    return {module: (pair["A"], pair["B"]) for module, pair in found.items()}


def _unlike(name: str) -> str:
    for part, reason in (
        ("lora_embedding_", "adapters of embeddings are not supported"),
        ("lora_magnitude_vector", "DoRA is not supported"),
        ("lora_B.bias", "biases of adapters are not supported"),
        ("modules_to_save", "whole modules beside the adapter are not supported"),
    ):
        if part in name:
            return f"{reason}: merge the adapter into the model"
    return "expected base_model.model.<module>.lora_A.weight or lora_B.weight, as PEFT saves them"


class _Config:
    """An adapter_config.json, checked when made: rank and scale of each module."""

    def __init__(self, raw: Mapping[str, Any], places: Mapping[str, Place], max_rank: int) -> None:
        self._raw = raw
        self._modules = {name.removesuffix(".weight") for name in places}
        self._places = places
        self._max_rank = max_rank
        self._check_kind()
        self._rank = self._integer("r", raw.get("r"))
        self._alpha = self._number("lora_alpha", raw.get("lora_alpha"))
        self._ranks = {
            key: self._integer("rank_pattern", value) for key, value in self._pattern("rank_pattern").items()
        }
        self._alphas = {
            key: self._number("alpha_pattern", value) for key, value in self._pattern("alpha_pattern").items()
        }
        self._targets = self._read_targets()

    def _refuse(self, field: str, reason: str) -> ModelRefused:
        return ModelRefused(f"{CONFIG_FILE}: {field} {reason}")

    def _check_kind(self) -> None:
        raw = self._raw
        if raw.get("peft_type") != "LORA":
            raise self._refuse("peft_type", f"is {shown(raw.get('peft_type'))}; only LORA is supported")
        if raw.get("task_type") not in (None, "CAUSAL_LM"):
            raise self._refuse("task_type", f"is {shown(raw['task_type'])}; only CAUSAL_LM is supported")
        if raw.get("bias", "none") != "none":
            raise self._refuse("bias", f"is {shown(raw['bias'])}; train with none, or merge the adapter into the model")
        start = raw.get("init_lora_weights")
        if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
            reason = f"is {shown(start)}, which changed the base model too: convert the adapter to plain LoRA (PEFT's "
            raise self._refuse("init_lora_weights", reason + "path_initial_model_for_weight_conversion)")
        if type(raw.get("use_rslora", False)) is not bool:
            raise self._refuse("use_rslora", "is not true or false")
        for field, value in raw.items():
            if (field not in _NEUTRAL | _READ or field in _NEXT) and value not in (None, False, [], {}, ""):
                default = "is not supported and may change what the adapter computes: merge the adapter into the model"
                raise self._refuse(shown(field)[1:-1], f"is set: {_NEXT[field]}" if field in _NEXT else default)

    def _integer(self, field: str, value: Any) -> int:
        if type(value) is not int or not 1 <= value <= self._max_rank:
            reason = f"is {shown(value)}, must be a whole number from 1 to {self._max_rank} (--max-adapter-rank)"
            raise self._refuse(field, reason)
        return value

    def _number(self, field: str, value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or abs(value) > 1e6:
            raise self._refuse(field, f"is {shown(value)}, must be a number within 1e6")
        return float(value)

    def _pattern(self, field: str) -> dict[str, Any]:
        """Module names -> values. PEFT takes expressions here; we take the names that nearly everyone writes."""
        patterns = self._raw.get(field) or {}
        if not isinstance(patterns, dict) or len(patterns) > MAX_TARGETS:
            raise self._refuse(field, f"must be an object of at most {MAX_TARGETS} entries")
        for key in patterns:
            if len(key) > MAX_NAME_CHARS or not _PLAIN.fullmatch(key):
                raise self._refuse(field, f"has the key {shown(key)}, an expression: write the module names out")
        return patterns

    def _read_targets(self) -> tuple[str, ...] | None:
        """The names listed; None: whatever has tensors, where the field is "all-linear" or an expression, which is not
        evaluated: it could take for ever, and the tensors say the same."""
        targets = self._raw.get("target_modules")
        if targets is None or isinstance(targets, str):
            return None
        if not isinstance(targets, list) or not 1 <= len(targets) <= MAX_TARGETS:
            raise self._refuse("target_modules", f"must be a string or a list of 1 to {MAX_TARGETS} names")
        for target in targets:
            if not isinstance(target, str) or len(target) > MAX_NAME_CHARS:
                raise self._refuse("target_modules", f"holds {shown(target)}, which is no module name")
            if not any(_names(target, module) for module in self._modules):
                raise self._refuse("target_modules", f"names {shown(target)}: {self._no_such(target)}")
        return tuple(targets)

    def _no_such(self, module: str) -> str:
        last = module.rpartition(".")[2]
        if last in ("lm_head", "embed_tokens", "wte", "wpe"):
            return "adapters of embeddings and of the head are not supported: merge the adapter into the model"
        known = sorted({each.rpartition(".")[2] for each in self._modules})
        near = difflib.get_close_matches(last[:64], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
        return f"the model has no such linear ({hint}); was the adapter trained on another model?"

    def check_modules(self, given: set[str]) -> None:
        """What has tensors against the model's linears and what the config names."""
        for module in sorted(given):
            if module not in self._modules:
                raise ModelRefused(f"{WEIGHTS_FILE}: {module[:120]}: {self._no_such(module)}")
        if self._targets is None:
            return
        named = {module for module in self._modules if any(_names(target, module) for target in self._targets)}
        if extra := sorted(given - named):
            raise ModelRefused(
                f"{WEIGHTS_FILE}: {extra[0]} has tensors, but target_modules of {CONFIG_FILE} leave it out"
            )
        is_partial = any(self._raw.get(field) is not None for field in ("layers_to_transform", "exclude_modules"))
        if not is_partial and (missing := sorted(named - given)):
            raise ModelRefused(
                f"{WEIGHTS_FILE}: {missing[0]} has no tensors, but target_modules of {CONFIG_FILE} name it"
            )

    def low_rank(self, module: str, a: WeightTensor, b: WeightTensor, dtype: str) -> LowRank:
        """The module's matrices as `dtype`, with its scale."""
        rank = next((value for key, value in self._ranks.items() if _names(key, module)), self._rank)
        alpha = next((value for key, value in self._alphas.items() if _names(key, module)), self._alpha)
        outputs, inputs = self._places[f"{module}.weight"].shape
        for tensor, letter, shape in ((a, "A", (rank, inputs)), (b, "B", (outputs, rank))):
            if tensor.shape != shape:
                raise ModelRefused(
                    f"{WEIGHTS_FILE}: {module}.lora_{letter} has shape {list(tensor.shape)}; its rank and this model "
                    f"ask for {list(shape)}: was the adapter trained on another model?"
                )
        scale = alpha / (math.sqrt(rank) if self._raw.get("use_rslora") else rank)
        return LowRank(_stored(a, f"{module}.lora_A", dtype), _stored(b, f"{module}.lora_B", dtype), scale)


def _names(key: str, module: str) -> bool:
    """Whether a config's name means a module: the whole of it, or its end after a dot."""
    return module == key.removeprefix("^") or (not key.startswith("^") and module.endswith("." + key))


def _stored(tensor: WeightTensor, name: str, dtype: str) -> WeightTensor:
    values = to_float32(tensor)
    with np.errstate(over="ignore"):
        return WeightTensor(name, dtype, tensor.shape, float32_to_bf16(values) if dtype == "bf16" else values)
