"""Tools that Anthropic's clients run and its API knows by a type alone: shell, text editor, memory.

A model here was not trained on them, so it is told in words what Anthropic's documentation says of their input.
"""

from __future__ import annotations

import re
from typing import Any

_TYPE = re.compile(r"(bash|text_editor|memory)_(20\d{6})")
_FIRST_INSERT_TEXT = "20250728"  # before, the text of an insertion was called new_str
_FIRST_WITHOUT_UNDO = "20250429"
_PATH = {"type": "string", "description": "Absolute path."}
_TEXT_FIELDS = {
    "file_text": {"type": "string", "description": "create: the whole text of the file."},
    "view_range": {
        "type": "array",
        "items": {"type": "integer"},
        "minItems": 2,
        "maxItems": 2,
        "description": "view: first and last line, counted from 1; -1 as the last is the end.",
    },
    "old_str": {"type": "string", "description": "str_replace: the text to replace, which must occur exactly once."},
    "new_str": {"type": "string", "description": "str_replace: what takes its place."},
    "insert_line": {"type": "integer", "description": "insert: the line after which to insert; 0: at the beginning."},
    "insert_text": {"type": "string", "description": "insert: the text."},
}


def describe(kind: str) -> tuple[str, dict[str, Any]] | None:
    """Description and schema of the tool of this type; None: clients run no such tool."""
    match = _TYPE.fullmatch(kind)
    if match is None:
        return None
    name, version = match.groups()
    if name == "bash":
        return "Run a command in a shell that stays open between calls.", _schema(
            {
                "command": {"type": "string", "description": "The command; not needed with restart."},
                "restart": {"type": "boolean", "description": "Start the shell anew."},
            },
            (),
        )
    if name == "memory":
        return "Keep notes between conversations as files below /memories.", _schema(
            {
                "command": _commands("view", "create", "str_replace", "insert", "delete", "rename"),
                "path": _PATH,
                **_TEXT_FIELDS,
                "old_path": {"type": "string", "description": "rename: the path now."},
                "new_path": {"type": "string", "description": "rename: the path then."},
            },
            ("command",),
        )
    is_old = version < _FIRST_INSERT_TEXT
    fields = dict(_TEXT_FIELDS)
    if is_old:
        del fields["insert_text"]
        fields["new_str"] = {"type": "string", "description": "str_replace: what takes its place; insert: the text."}
    has_undo = version < _FIRST_WITHOUT_UNDO
    commands = ("view", "create", "str_replace", "insert", *(("undo_edit",) if has_undo else ()))
    schema = _schema({"command": _commands(*commands), "path": _PATH, **fields}, ("command", "path"))
    return "View, create and edit text files; view lists a directory.", schema


def _commands(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(names)}


def _schema(properties: dict[str, Any], required: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(required), "additionalProperties": False
    }  # fmt: skip
