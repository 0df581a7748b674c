"""Content parts of chat messages: text, and what an assistant refused. What else there is has a word of its own."""

from __future__ import annotations

from typing import Any

from tripos.errors import InvalidRequest, shown
from tripos.wire.fields import Field, read, table

_TYPE = Field("type", "string", "", required=True)
_PARTS = {
    "text": table(
        _TYPE,
        Field("text", "string", "", required=True),
        Field("prompt_cache_breakpoint", "object", "Prefixes are always reused.", use="met"),
    ),
    "refusal": table(_TYPE, Field("refusal", "string", "", required=True)),
}
_INSTEAD = {
    "image_url": "images are not read; describe the image as text",
    "input_audio": "audio is not read; send its transcript as text",
    "file": "files are not read; send what it says as text",
}

_CONTENT = frozenset({*_PARTS, *_INSTEAD})  # keys that would say something beside the part's own


def read_parts(content: Any, path: str) -> tuple[str, ...]:
    """The texts of parts. Raises InvalidRequest."""
    if not isinstance(content, list) or not content:
        message = f"{path} must be text or a list of parts that is not empty"
        raise InvalidRequest(message, code="invalid_type", param=path)
    texts = []
    for i, part in enumerate(content):
        where = f"{path}[{i}]"
        if not isinstance(part, dict):
            raise InvalidRequest(f"{where} must be an object", code="invalid_type", param=where)
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in _PARTS:
            given = shown(kind) if isinstance(kind, str) else "missing or not a string"
            instead = _INSTEAD.get(str(kind), 'this server reads {"type": "text", "text": …}')
            raise InvalidRequest(f"{where}.type is {given}: {instead}", code="invalid_value", param=f"{where}.type")
        for name in sorted(part.keys() & _CONTENT - _PARTS[kind].keys()):
            message = f"{where} is of type {kind} and holds {shown(name)} too: send a part for each"
            raise InvalidRequest(message, code="invalid_value", param=where)
        found = read(part, _PARTS[kind], where)
        texts.append(found["text"] if kind == "text" else found["refusal"])
    return tuple(texts)
