"""The schema that a tool's arguments follow: all of a strict one, or a refusal; of any other what can be enforced."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import msgspec
from msgspec.structs import replace

from tripos.errors import InvalidRequest
from tripos.schema.reading import check_schema, relax
from tripos.wire.ignored import Ignored
from tripos.wire.tools.offer import Offer, Tool
from tripos.wire.tools.schema import bare

MAX_BYTES = 48 << 10  # of all arguments' schemas: a grammar's source has 64 KiB
MAX_KEPT, MAX_KEPT_BYTES = 256, 16 << 10  # schemas that are known already, and the size of each
_ANY_OBJECT = {"type": "object"}


def enforceable(offer: Offer) -> tuple[Offer, tuple[Ignored, ...]]:
    """The offer with the `arguments` of each tool that may be called, and what of the parameters is not enforced.

    Where all together are too large, the largest are not, but for strict ones. Raises as with_arguments.
    """
    made = {tool.name: with_arguments(tool) for tool in offer.tools if tool.name in offer.allowed}
    sizes = {name: len(json.dumps(tool.arguments)) for name, (tool, _) in made.items()}
    loose = sorted((size, name) for name, size in sizes.items() if not made[name][0].is_strict)
    while loose and sum(sizes.values()) > MAX_BYTES:
        _, name = loose.pop()
        made[name] = _unchecked(made[name][0])
        sizes[name] = 0
    tools = tuple(made[tool.name][0] if tool.name in made else tool for tool in offer.tools)
    return replace(offer, tools=tools), tuple(each for _, ignored in made.values() for each in ignored)


def with_arguments(tool: Tool) -> tuple[Tool, tuple[Ignored, ...]]:
    """The tool with its `arguments`, and where in the request stands what is not enforced.

    Raises InvalidRequest for a strict tool: unsupported_schema, grammar_too_complex.
    """
    source = msgspec.json.encode(tool.parameters)
    read = _read_again if len(source) <= MAX_KEPT_BYTES else _read
    try:
        arguments, ignored = read(source, tool.path, tool.is_strict)
    except InvalidRequest as problem:
        if not tool.is_strict:  # it is too large
            return _unchecked(tool)
        message = f"the tool {tool.name!r}: {problem.message}"
        raise InvalidRequest(message, code=problem.code, param=tool.path) from None
    return replace(tool, arguments=arguments), ignored


def _read(source: bytes, path: str, is_strict: bool) -> tuple[Any, tuple[Ignored, ...]]:
    schema = bare({"properties": {}, **msgspec.json.decode(source), "type": "object"})
    if is_strict:
        return check_schema(schema, path), ()
    schema, ignored = relax(schema, path)
    return schema, tuple(Ignored(name, "schema") for name in ignored)


_read_again = lru_cache(MAX_KEPT)(_read)  # a conversation sends its tools with every turn


def _unchecked(tool: Tool) -> tuple[Tool, tuple[Ignored, ...]]:
    return replace(tool, arguments=_ANY_OBJECT), (Ignored(tool.path, "schema"),)
