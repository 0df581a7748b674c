"""The tools of a request and which of them may be called, whatever the protocol → Tool and ToolChoice.

Owns the rules for names and parameters.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from tripos.errors import InvalidRequest, shown
from tripos.schema.parameters import check_parameters
from tripos.types import Tool, ToolChoice
from tripos.wire.fields import kind_of, name_of
from tripos.wire.ignored import Ignored

MAX_TOOLS = 128
MAX_NAME = 64  # characters
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME}}}")

Mode = Literal["none", "auto", "required"]
Tools = tuple[tuple[Tool, ...], ToolChoice]
NO_TOOLS: Tools = ((), ToolChoice(mode="none"))


def read_tool(
    name: Any, description: Any, parameters: Any, path: str, parameters_path: str, *, is_strict: bool = False
) -> Tool:
    """Raises InvalidRequest: invalid_value for the name, invalid_schema for the parameters, naming the path."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or (name[:2] == "__" == name[-2:]):
        given = shown(name) if isinstance(name, str) else "missing or no string"
        message = f"{path} is {given}: 1 to 64 letters, digits, _ and -, not __like_this__"
        raise InvalidRequest(message, code="invalid_value", param=path)
    if parameters is not None:
        check_parameters(parameters, parameters_path)
        if parameters.get("type", "object") != "object":
            message = f"{parameters_path}.type must be object: a call has named arguments"
            raise InvalidRequest(message, code="invalid_schema", param=f"{parameters_path}.type")
    return Tool(
        name=name,
        description=description or "",
        parameters=parameters or {},
        path=parameters_path,
        is_strict=is_strict,
    )


def own_tools(
    values: Sequence[Any], is_own: Callable[[str], bool], path: str, ignored: list[Ignored]
) -> list[tuple[str, Any]]:
    """(path, tool) of the tools that a client runs, by their type. The others, which only another server could run or
    which take no JSON, are left out and named in `ignored`.

    Raises InvalidRequest (invalid_value) when no tool is left.
    """
    kinds = [value.get("type") if isinstance(value, dict) else None for value in values]
    is_retained = [kind is None or (isinstance(kind, str) and is_own(kind)) for kind in kinds]
    for i, kind in enumerate(kinds):
        if is_retained[i]:
            continue
        if not any(is_retained) or not isinstance(kind, str):
            given = shown(kind) if isinstance(kind, str) else kind_of(kind)
            message = f"{path}[{i}].type is {given}: only tools that the client runs can be called"
            raise InvalidRequest(message, code="invalid_value", param=f"{path}[{i}].type")
        ignored.append(Ignored(".".join((name_of(f"{path}[{i}]", kind), *_own_names(values[i], kind))), "tool"))
    return [(f"{path}[{i}]", value) for i, value in enumerate(values) if is_retained[i]]


def _own_names(tool: dict[str, Any], kind: str) -> list[str]:
    """What a tool is called, if anything; chat completions wraps it."""
    inner = tool.get(kind, tool)
    name = inner.get("name") if isinstance(inner, dict) else None
    return [name[:64]] if isinstance(name, str) else []


def make_tools(
    tools: Iterable[Tool], mode: Mode, allowed: Iterable[str] | None, is_parallel: bool, paths: tuple[str, str]
) -> Tools:
    """Tools with their choice. `allowed`: None for all. `paths`: of the tools and of the choice, for errors.

    Raises InvalidRequest: too_many_items, invalid_value.
    """
    tools_path, choice_path = paths
    tools = tuple(tools)
    names = [tool.name for tool in tools]
    if len(tools) > MAX_TOOLS:
        message = f"{tools_path} has {len(tools)} items, at most {MAX_TOOLS} may be given"
        raise InvalidRequest(message, code="too_many_items", param=tools_path)
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise InvalidRequest(f"two of {tools_path} are named {twice}", code="invalid_value", param=tools_path)
    if mode == "required" and not tools:
        message = f"{choice_path} requires a tool call, and {tools_path} is empty"
        raise InvalidRequest(message, code="invalid_value", param=choice_path)
    allowed = tuple(names if allowed is None else allowed)
    if unknown := next((name for name in allowed if name not in names), None):
        message = f"{choice_path} names {shown(unknown)}, which is not among {tools_path}"
        raise InvalidRequest(message, code="invalid_value", param=choice_path)
    return tools, ToolChoice(mode=mode if allowed else "none", allowed=allowed, is_parallel=is_parallel)
