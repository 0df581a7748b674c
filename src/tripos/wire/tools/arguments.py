"""The schema that a tool's arguments follow: all of a strict one, or a refusal; of any other what can be enforced."""

from __future__ import annotations

from msgspec.structs import replace

from tripos.errors import InvalidRequest
from tripos.schema.reading import check_schema, relax
from tripos.wire.ignored import Ignored
from tripos.wire.tools.offer import Tool
from tripos.wire.tools.schema import bare


def with_arguments(tool: Tool) -> tuple[Tool, tuple[Ignored, ...]]:
    """The tool with its `arguments`, and where in the request stands what is not enforced.

    Raises InvalidRequest: unsupported_schema for a strict tool, grammar_too_complex.
    """
    schema = bare({"properties": {}, **tool.parameters, "type": "object"})
    try:
        if tool.is_strict:
            return replace(tool, arguments=check_schema(schema, tool.path)), ()
        schema, ignored = relax(schema, tool.path)
    except InvalidRequest as problem:
        message = f"the tool {tool.name!r}: {problem.message}"
        raise InvalidRequest(message, code=problem.code, param=tool.path) from None
    return replace(tool, arguments=schema), tuple(Ignored(name, "schema") for name in ignored)
