"""GET /v1/models and /v1/models/{id}."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tripos.types import ModelCard


def encode_model(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "tripos",
        "max_model_len": card.max_model_len,
        "digest": card.digest,
        "task": card.task,
        "architecture": card.architecture,
        "weights": card.weights,
        "num_parameters": card.num_parameters,
        "vocab_size": card.vocab_size,
    }


def encode_models(cards: Iterable[ModelCard]) -> dict[str, Any]:
    return {"object": "list", "data": [encode_model(card) for card in cards]}
