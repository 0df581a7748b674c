"""The task of a checkpoint, from its config alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tripos.models.encoder_config import is_encoder
from tripos.types import Task

MODULES = "tripos_modules"  # the key of the config that holds the files of sentence-transformers
STATIC = "StaticEmbedding"  # the architecture of a table of vectors (families/static.py)
SCORES = "ForSequenceClassification"  # how architectures with a head end


def task_of(config: Mapping[str, Any]) -> Task:
    """generate, embed (an encoder, or a decoder with modules.json) or rerank."""
    if is_encoder(config):
        return "rerank" if str(config["architectures"][0]).endswith(SCORES) and not _is_pooled(config) else "embed"
    return "embed" if MODULES in config else "generate"


def _is_pooled(config: Mapping[str, Any]) -> bool:
    modules = config.get(MODULES)
    return isinstance(modules, Mapping) and "Pooling" in (modules.get("kinds") or ())
