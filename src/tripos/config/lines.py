"""The line of each key in a TOML text that tomllib has accepted; tomllib returns only values."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Key = tuple[str, ...]

_TOKEN = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'{3}.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|\#[^\n]*|.''', re.DOTALL
)


def key_lines(text: str) -> dict[Key, int]:
    """Dotted key → line, 1 for the first. Keys of inline tables count as their table's own. The tables of an array
    have their number in the key: ("routes", "x", "stages", "0")."""
    found: dict[Key, int] = {}
    counts: dict[Key, int] = {}
    table: Key = ()
    for line, statement in _statements(text):
        if statement.startswith("["):
            is_array = statement.startswith("[[")
            table = _split(statement.strip("[] \t"))
            if is_array:
                counts[table] = counts.get(table, -1) + 1
                table = (*table, str(counts[table]))
            key = table
        else:
            key = (*table, *_split(_before_equals(statement)))
        for length in range(1, len(key) + 1):
            found.setdefault(key[:length], line)
    return found


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """(line, text without comments) of each header and each key with its value."""
    line, depth = 1, 0
    began, parts = 1, [""]
    for match in _TOKEN.finditer(text + "\n"):
        token = match[0]
        if token == "\n" and depth == 0:
            statement = "".join(parts).strip()
            if statement:
                yield began, statement
            began, parts = line + 1, []
        elif not token.startswith("#"):
            depth += (token in ("[", "{")) - (token in ("]", "}"))
            parts.append(token)
        line += token.count("\n")


def _before_equals(statement: str) -> str:
    """The key of `key = value`; quoted parts may hold an equals sign."""
    end = 0
    for match in _TOKEN.finditer(statement):
        if match[0] == "=":
            break
        end = match.end()
    return statement[:end]


def _split(key: str) -> Key:
    """A dotted key in its parts, unquoted."""
    import tomllib

    parts = []
    value: Any = tomllib.loads(f"{key} = 0")
    while isinstance(value, dict):
        ((name, value),) = value.items()
        parts.append(name)
    return tuple(parts)
