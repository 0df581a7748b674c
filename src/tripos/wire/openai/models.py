"""GET /v1/models and /v1/models/{id}, with what Anthropic's clients look for beside OpenAI's fields."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tripos.types import ModelCard


def encode_model(card: ModelCard) -> dict[str, Any]:
    return {
        "id": card.name,
        "object": "model",
        "created": card.created,
        "owned_by": "tripos",
        "root": card.parent or card.name,
        "parent": card.parent or None,
        "type": "model",
        "display_name": card.name,
        "created_at": datetime.fromtimestamp(card.created, UTC).isoformat().replace("+00:00", "Z"),
        "max_model_len": card.max_model_len,
        "digest": card.digest,
        "task": card.task,
        "architecture": card.architecture,
        "weights": card.weights,
        "num_parameters": card.num_parameters,
        "vocab_size": card.vocab_size,
        "dimensions": card.dimensions or None,
    }


def encode_models(cards: Iterable[ModelCard]) -> dict[str, Any]:
    data = [encode_model(card) for card in cards]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, "has_more": False, **ends}
