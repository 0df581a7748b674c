"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, in vLLM's shapes."""

from __future__ import annotations

import msgspec

from tripos.wire.fields import Field, read_json, table
from tripos.wire.generation import MAX_MODEL_NAME

MAX_PATH_BYTES = 4096

NAME = Field("lora_name", "string", "Name of the adapter, as a model.", max_bytes=MAX_MODEL_NAME, required=True)
LOAD = table(
    NAME,
    Field("lora_path", "string", "Directory with the adapter.", max_bytes=MAX_PATH_BYTES, required=True),
    Field("load_inplace", "boolean", "Take the place of a loaded adapter of that name."),
    Field(
        "base_model_name",
        "string",
        "Model that it adapts; may be left out when one takes adapters.",
        max_bytes=MAX_MODEL_NAME,
    ),
)
UNLOAD = table(NAME, Field("lora_int_id", "integer", "Of another server's bookkeeping.", use="ignored"))


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Which adapter to load from where."""

    name: str
    path: str
    base: str
    in_place: bool


def decode_load(body: bytes) -> Load:
    """Raises InvalidRequest."""
    found = read_json(body, LOAD)
    found.refuse_unknown()
    return Load(
        name=found["lora_name"],
        path=found["lora_path"],
        base=found.get("base_model_name", ""),
        in_place=found.get("load_inplace", False),
    )


def decode_unload(body: bytes) -> str:
    """The adapter's name. Raises InvalidRequest."""
    found = read_json(body, UNLOAD)
    found.refuse_unknown()
    return str(found["lora_name"])
