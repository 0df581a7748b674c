"""Bodies of the admin endpoints."""

from __future__ import annotations

from typing import Any

from tripos.errors import InvalidRequest
from tripos.wire.fields import Field, Found, Table, read_json, table

_NAME = Field("name", "string", "Name of the model, as clients ask for it.", max_bytes=512)
_SOURCE = Field("source", "string", "What to load: a directory below model_roots, a .gguf file there, demo:NAME, or "
                "what the configuration names.", max_bytes=4096)  # fmt: skip
_OPTIONS = Field("options", "object", "Settings of the model as in tripos.toml.", max_items=64)
NAMED = Field("name", "string", _NAME.doc, max_bytes=512, required=True)

LOAD = table(_NAME, _SOURCE, _OPTIONS)
RELOAD = table(NAMED, _SOURCE, _OPTIONS)
UNLOAD = table(NAMED)
REREAD = table()


def decode_load(body: bytes) -> tuple[str, str, dict[str, Any]]:
    """Name, source and options; what is not given is empty. Raises InvalidRequest."""
    name, source, options = _model(_read(body, LOAD))
    if not name and not source:
        message = "say what to load: the name of a model that the configuration knows, or a source"
        raise InvalidRequest(message, code="missing_field", param="source")
    return name, source, options


def decode_reload(body: bytes) -> tuple[str, str, dict[str, Any]]:
    return _model(_read(body, RELOAD))


def decode_unload(body: bytes) -> str:
    name: str = _read(body, UNLOAD)["name"]
    return name


def decode_reread(body: bytes) -> None:
    _read(body, REREAD)


def _read(body: bytes, fields: Table) -> Found:
    """Whoever changes a server must not be misunderstood: raises for unknown fields, too."""
    found = read_json(body, fields)
    found.refuse_unknown()
    return found


def _model(given: dict[str, Any]) -> tuple[str, str, dict[str, Any]]:
    return given.get("name", ""), given.get("source", ""), given.get("options", {})
