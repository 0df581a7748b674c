"""POST /v1/embeddings."""

from __future__ import annotations

import base64
from typing import Any

from tripos.types import Embed
from tripos.wire import foreign
from tripos.wire.fields import Field, read_json, table
from tripos.wire.generation import INT31, MODEL, check_model
from tripos.wire.oneshot import (
    DELIVERY,
    TRUNCATE,
    TRUNCATE_TOKENS,
    OneShotAnswer,
    OneShotRequest,
    read_delivery,
    read_inputs,
    read_truncation,
    read_vector,
    total_tokens,
)

FIELDS = table(
    MODEL,
    Field("input", "any", "Text, token ids, or a list of up to 2048 of either. No empty ones.", required=True),
    Field("encoding_format", "string", "Numbers, or little-endian float32 as base64.", choices=("float", "base64")),
    Field("dimensions", "integer", "Keep the first ones only, and normalise again.", low=1, high=INT31),
    Field("prompt_name", "string", "One of the model's prompts, put before each text.", max_bytes=256),
    TRUNCATE_TOKENS,
    TRUNCATE,
    *DELIVERY,
    Field("user", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    *foreign.EMBEDDINGS,
)


def decode(body: bytes) -> tuple[OneShotRequest, bool]:
    """The request, and whether vectors are wanted as base64. Raises InvalidRequest naming the field."""
    found = read_json(body, FIELDS)
    request = Embed(
        inputs=read_inputs(found["input"], "input"),
        dimensions=found.get("dimensions"),
        truncate_to=read_truncation(found),
        prompt_name=found.get("prompt_name"),
    )
    one_shot = OneShotRequest(model=check_model(found), requests=(request,), **read_delivery(found))
    return one_shot, found.get("encoding_format") == "base64"


def encode(answer: OneShotAnswer, model: str, is_base64: bool) -> dict[str, Any]:
    def encoded(vector: bytes) -> Any:
        return base64.b64encode(vector).decode() if is_base64 else read_vector(vector)

    data = [
        {"object": "embedding", "index": i, "embedding": encoded(vector)}
        for i, vector in enumerate(answer.result.vectors)
    ]
    num_tokens = total_tokens([answer])
    return {
        "object": "list",
        "data": data,
        "model": model,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
