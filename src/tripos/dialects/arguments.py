"""The schema that the arguments of a tool's calls follow: all of a strict tool's, or a refusal; of any other tool's
what can be enforced.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from tripos.errors import InvalidRequest
from tripos.schema.parameters import bare, check_parameters
from tripos.schema.reading import check_schema, relax
from tripos.types import Tool

MAX_BYTES = 48 << 10  # of all arguments' schemas: a grammar's source has 64 KiB
MAX_CACHED, MAX_CACHED_BYTES = 256, 16 << 10  # schemas that are cached, and the size of each


@dataclass(frozen=True)
class Arguments:
    """What is enforced of the arguments of a tool's calls. `source`: the schema as a grammar takes it, with the tool's
    path as a comment, by which a refusal says which tool it is about. `unenforced`: paths in the request of what is
    left out.
    """

    schema: Any
    source: str
    num_bytes: int  # of the schema as JSON
    unenforced: tuple[str, ...] = ()


def enforceable(tools: Sequence[Tool], allowed: Collection[str]) -> dict[str, Arguments]:
    """Name of each allowed tool → what is enforced of its arguments.

    Where all schemas together are too large, the largest are not enforced, but for strict ones. Raises as arguments_of.
    """
    callable_tools = {tool.name: tool for tool in tools if tool.name in allowed}
    found = {name: arguments_of(tool) for name, tool in callable_tools.items()}
    num_bytes = sum(each.num_bytes for each in found.values())
    loose = sorted((each.num_bytes, name) for name, each in found.items() if not callable_tools[name].is_strict)
    while loose and num_bytes > MAX_BYTES:
        size, name = loose.pop()
        num_bytes -= size
        found[name] = _unchecked(callable_tools[name].path)
    return found


def arguments_of(tool: Tool) -> Arguments:
    """Raises InvalidRequest: invalid_schema; for a strict tool unsupported_schema and grammar_too_complex as well."""
    parameters = msgspec.json.encode(tool.parameters)
    read = _read_again if len(parameters) <= MAX_CACHED_BYTES else _read
    try:
        return read(parameters, tool.path, tool.is_strict)
    except InvalidRequest as problem:
        if problem.code == "invalid_schema":
            raise
        if not tool.is_strict:  # it is too large
            return _unchecked(tool.path)
        message = f"the tool {tool.name!r}: {problem.message}"
        raise InvalidRequest(message, code=problem.code, param=tool.path) from None


def _read(parameters: bytes, path: str, is_strict: bool) -> Arguments:
    given = msgspec.json.decode(parameters)
    check_parameters(given, path)
    schema = bare({"properties": {}, **given, "type": "object"})
    if is_strict:
        return _arguments(check_schema(schema, path), path)
    schema, unenforced = relax(schema, path)
    return _arguments(schema, path, unenforced)


_read_again = lru_cache(MAX_CACHED)(_read)  # a conversation sends its tools with every turn


def _unchecked(path: str) -> Arguments:
    return _arguments({"type": "object"}, path, (path,))


def _arguments(schema: Any, path: str, unenforced: tuple[str, ...] = ()) -> Arguments:
    source = json.dumps({"$comment": path, **schema}, ensure_ascii=False)
    return Arguments(schema, source, len(json.dumps(schema)), unenforced)
