"""POST /api/embed, and the older /api/embeddings."""

from __future__ import annotations

from typing import Any

from tripos.types import Embed
from tripos.wire.fields import Field, read_json, table
from tripos.wire.generation import INT31
from tripos.wire.ollama.fields import KEEP_ALIVE, NAMES, check_name
from tripos.wire.oneshot import OneShotAnswer, OneShotRequest, read_delivery, read_inputs, read_truncation, read_vector

_OPTIONS = Field("options", "object", "An encoder has none.", use="ignored")
EMBED = table(
    *NAMES,
    Field("input", "any", "Text, or a list of up to 2048 texts. No empty ones.", required=True),
    Field("truncate", "boolean", "Cut a longer input to what the model takes; false: refuse it. Default true."),
    Field("dimensions", "integer", "Keep the first ones only, and normalise again.", low=1, high=INT31, nothing=(0,)),
    _OPTIONS,
    KEEP_ALIVE,
)
EMBEDDINGS = table(*NAMES, Field("prompt", "string", "Text. No empty one.", required=True), _OPTIONS, KEEP_ALIVE)


def decode_embed(body: bytes) -> OneShotRequest:
    """Raises InvalidRequest naming the field."""
    found = read_json(body, EMBED)
    request = Embed(
        inputs=read_inputs(found["input"], "input"),
        dimensions=found.get("dimensions"),
        truncate_to=read_truncation(found, default=True),
    )
    return OneShotRequest(model=check_name(found), requests=(request,), **read_delivery(found))


def decode_embeddings(body: bytes) -> OneShotRequest:
    """Raises InvalidRequest naming the field. Ollama cuts here, without asking."""
    found = read_json(body, EMBEDDINGS)
    request = Embed(inputs=read_inputs(found["prompt"], "prompt"), truncate_to=0)
    return OneShotRequest(model=check_name(found), requests=(request,), **read_delivery(found))


def encode_embed(answer: OneShotAnswer, model: str, elapsed_s: float) -> dict[str, Any]:
    """Durations in nanoseconds."""
    return {
        "model": model,
        "embeddings": [read_vector(vector) for vector in answer.result.vectors],
        "total_duration": round(elapsed_s * 1e9),
        "load_duration": 0,
        "prompt_eval_count": answer.usage.prompt_tokens,
    }


def encode_embeddings(answer: OneShotAnswer) -> dict[str, Any]:
    return {"embedding": read_vector(answer.result.vectors[0])}
