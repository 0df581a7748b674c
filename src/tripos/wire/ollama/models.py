"""GET /api/tags and /api/ps, POST /api/show: models in Ollama's words."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tripos.types import ModelCard, Sampling
from tripos.wire.fields import Field, read_json, table
from tripos.wire.ignored import Ignored
from tripos.wire.ollama.fields import NAMES, check_name

SHOW = table(
    *NAMES,
    Field("verbose", "boolean", "Nothing more is known.", use="ignored"),
    Field("system", "string", "The model's own is shown.", use="ignored"),
    Field("template", "string", "The model's own is shown.", use="ignored"),
    Field("options", "object", "The model's own are shown.", use="ignored"),
)
NEVER = "9999-12-31T23:59:59Z"  # models stay until the server ends
_CAPABILITIES = {"generate": "completion", "embed": "embedding"}
_PARAMETERS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}


def decode_show(body: bytes) -> tuple[str, tuple[Ignored, ...]]:
    """The model's name, and what is not heeded. Raises InvalidRequest."""
    found = read_json(body, SHOW)
    return check_name(found), tuple(found.ignored)


def encode_tags(cards: Iterable[ModelCard]) -> dict[str, Any]:
    return {"models": [{**_identity(card), "modified_at": iso(card.created)} for card in cards]}


def encode_ps(cards: Iterable[ModelCard]) -> dict[str, Any]:
    """Every served model is loaded, and none in a GPU's memory."""
    return {
        "models": [
            {**_identity(card), "expires_at": NEVER, "size_vram": 0, "context_length": card.max_model_len}
            for card in cards
        ]
    }


def encode_show(card: ModelCard) -> dict[str, Any]:
    family = card.architecture or "unknown"
    return {
        "parameters": _parameters(card.sampling),
        "details": _details(card),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": card.num_parameters,
            f"{family}.context_length": card.max_model_len,
            f"{family}.vocab_size": card.vocab_size,
        },
        "capabilities": [
            _CAPABILITIES.get(card.task, card.task),
            *(["tools"] if card.tool_dialect else []),
            *(["thinking"] if card.reasoning_dialect else []),
        ],
        "modified_at": iso(card.created),
    }


def iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _identity(card: ModelCard) -> dict[str, Any]:
    return {"name": card.name, "model": card.name, "digest": card.digest, "details": _details(card)}


def _details(card: ModelCard) -> dict[str, Any]:
    millions = card.num_parameters / 1e6
    return {
        "parent_model": "",
        "family": card.architecture,
        "families": [card.architecture],
        "parameter_size": f"{millions / 1e3:.1f}B" if millions >= 1000 else f"{millions:.1f}M",
        "quantization_level": card.weights.upper(),
    }


def _parameters(sampling: Sampling) -> str:
    """What the model's makers recommend, as lines of a modelfile."""
    given = {theirs: getattr(sampling, ours) for ours, theirs in _PARAMETERS.items()}
    neutral = {theirs: getattr(Sampling(), ours) for ours, theirs in _PARAMETERS.items()}
    return "\n".join(f"{name} {value:g}" for name, value in given.items() if value != neutral[name])
