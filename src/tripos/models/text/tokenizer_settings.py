"""What tokenizer_config.json adds to tokenizer.json, as transformers 5 reads both: it depends on the tokenizer's class.

The class of a family builds its steps from its arguments; the generic one takes tokenizer.json as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tripos.errors import ModelRefused, shown

_CLASSES = {  # model_type -> the class where none is named
    "bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "roberta": "RobertaTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer", "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer", "gpt2": "GPT2Tokenizer", "gpt_neo": "GPT2Tokenizer",
}  # fmt: skip
_WITH_TYPES = ("BertTokenizer",)
_BYTE_LEVEL = (
    "GPT2Tokenizer",
    "RobertaTokenizer",
    "BartTokenizer",
    "Qwen2Tokenizer",
)  # without add_prefix_space they add no space
_METASPACE = ("XLMRobertaTokenizer", "CamembertTokenizer")


def feeds_token_types(settings: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Whether the model reads token types; else all tokens have the type of the first text. Raises ModelRefused."""
    names = settings.get("model_input_names")
    if names is None:
        return _class(settings, config) in _WITH_TYPES
    if not isinstance(names, list):
        raise ModelRefused(f"tokenizer_config.json: model_input_names is {shown(names)}; expected a list")
    return "token_type_ids" in names


def with_settings(data: bytes, settings: Mapping[str, Any], config: Mapping[str, Any]) -> bytes:
    """A tokenizer.json with what tokenizer_config.json says over it. Raises ModelRefused."""
    if not settings or _class(settings, config) not in (*_BYTE_LEVEL, *_METASPACE):
        return data
    try:
        definition = msgspec.json.decode(data)
        return msgspec.json.encode(definition) if _set_prefix_space(definition, settings, config) else data
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # read_definition raises the error
        return data


def _set_prefix_space(definition: Any, settings: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    """Set add_prefix_space in the steps of a tokenizer.json; returns whether that changed any. Raises ModelRefused."""
    requested, name = settings.get("add_prefix_space"), _class(settings, config)
    if requested is not None and type(requested) is not bool:
        raise ModelRefused(f"tokenizer_config.json: add_prefix_space is {shown(requested)}; expected true or false")
    if not isinstance(definition, dict):
        return False
    changed = False
    for step in _steps(definition.get("pre_tokenizer")):
        kind = step.get("type")
        if kind == "ByteLevel" and name in _BYTE_LEVEL and step.get("add_prefix_space", True) is not bool(requested):
            step["add_prefix_space"] = bool(requested)
            changed = True
        if kind == "Metaspace" and name in _METASPACE and requested is not None:
            scheme = "always" if requested else "never"
            for each in (step, *_steps(definition.get("decoder"))):
                if each.get("type") == "Metaspace" and each.get("prepend_scheme") != scheme:
                    each.pop("add_prefix_space", None)  # its older name
                    each["prepend_scheme"] = scheme
                    changed = True
    return changed


def _class(settings: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    name = settings.get("tokenizer_class") or _CLASSES.get(str(config.get("model_type")), "")
    return name.removesuffix("Fast") if isinstance(name, str) else ""


def _steps(section: Any) -> list[dict[str, Any]]:
    if not isinstance(section, dict):
        return []
    inner = section.get("pretokenizers") or section.get("decoders")
    if section.get("type") == "Sequence" and isinstance(inner, list):
        return [step for each in inner for step in _steps(each)]
    return [section]
