"""Fields that several of Ollama's requests have: the model's name, how long it stays, and the options.

Its Go client sends every field of its structs, and many programs send every option at its default: such values say
nothing.
"""

from __future__ import annotations

from typing import Any

from tripos.errors import InvalidRequest
from tripos.wire.fields import Field, table
from tripos.wire.generation import INT31, INT63, MAX_MODEL_NAME, MAX_TOKENS, check_model

_MACHINE = "The server's own settings decide."

NAMES = (
    Field("model", "string", "Name of a served model; one without a tag is its `:latest`.", max_bytes=MAX_MODEL_NAME),
    Field("name", "string", "As model, and its older name.", max_bytes=MAX_MODEL_NAME, nothing=("",)),
)
KEEP_ALIVE = Field("keep_alive", "any", "Models stay loaded.", use="ignored", nothing=(-1, "-1", "5m", "5m0s", 300))
OPTIONS = table(
    Field("num_predict", "integer", "Most tokens of the answer; below 0: as it fits.", low=-2, high=MAX_TOKENS),
    Field("temperature", "number", "0: always the likeliest token. Default: the model's, else 1.", low=0, high=2),
    Field("top_k", "integer", "Draw from the k likeliest; 0: from all. Default: the model's.", low=0, high=INT31),
    Field("top_p", "number", "Draw from this much of the probability. Default: the model's.", low=1e-9, high=1),
    Field("min_p", "number", "Least probability relative to the likeliest. Default: the model's.", low=0, high=1),
    Field("repeat_penalty", "number", "Over prompt and answer. Default: the model's.", low=0.01, high=10),
    Field("presence_penalty", "number", "Subtracted once from tokens of the output.", low=-2, high=2),
    Field("frequency_penalty", "number", "Subtracted per occurrence in the output.", low=-2, high=2),
    Field(
        "repeat_last_n",
        "integer",
        "0: no penalties; else they reach over the whole text.",
        low=-1,
        high=INT31,
        nothing=(-1, 64),
    ),
    Field("seed", "integer", "Makes draws repeatable; -1: each its own.", low=0, high=INT63, nothing=(-1,)),
    Field("stop", "any", "A string or a list of up to 16, each of 1 to 256 bytes; matched exactly."),
    Field("num_ctx", "integer", "The model's window is always whole, and not larger.", low=0, high=INT31),
    *(
        Field(name, "integer", _MACHINE, use="ignored", nothing=nothing)
        for name, nothing in (
            ("num_keep", (0, 4, -1)), ("num_batch", (0, 512)), ("num_gpu", (-1,)), ("main_gpu", (0,)),
            ("num_thread", (0,)),
        )
    ),
    *(
        Field(name, "boolean", _MACHINE, use="ignored", nothing=nothing)
        for name, nothing in (
            ("numa", ()), ("low_vram", ()), ("f16_kv", (True,)), ("logits_all", ()), ("vocab_only", ()),
            ("use_mmap", (True,)), ("use_mlock", ()), ("embedding_only", ()), ("penalize_newline", (True,)),
        )
    ),
    *(
        Field(name, "number", "use temperature, top_k, top_p and min_p", use="refused", nothing=nothing)
        for name, nothing in (("mirostat", (0,)), ("tfs_z", (0, 1)), ("typical_p", (0, 1)))
    ),
    *(
        Field(name, "number", "Of mirostat, which there is not.", use="ignored", nothing=(nothing,))
        for name, nothing in (("mirostat_tau", 5), ("mirostat_eta", 0.1))
    ),
)  # fmt: skip


def check_name(found: dict[str, Any]) -> str:
    """The model's name, of either field. Raises InvalidRequest (missing_field, invalid_value)."""
    new, old = found.get("model"), found.get("name")
    if new and old and new != old:
        raise InvalidRequest("model and name differ: give one", code="invalid_value", param="name")
    return check_model({"model": new or old})
