"""Tools and reasoning in OpenAI's words: fields of a body → Tool, ToolChoice, ReasoningOptions."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, get_args

from msgspec.structs import replace

from tripos.errors import InvalidRequest, shown
from tripos.types import Effort, ReasoningOptions, Tool
from tripos.wire.fields import Field, Found, kind_of, read, table
from tripos.wire.generation import MAX_TOKENS
from tripos.wire.ignored import Ignored
from tripos.wire.tools import MAX_NAME, MAX_TOOLS, NO_TOOLS, Mode, Tools, make_tools, own_tools, read_tool

EFFORTS: tuple[str, ...] = get_args(Effort)
CALLING = (
    Field("tools", "array", "Functions that the model may call.", max_items=MAX_TOOLS),
    Field("tool_choice", "any", "none, auto, required, one function, or allowed_tools. Default: auto."),
    Field("parallel_tool_calls", "boolean", "Whether one answer may hold several calls. Default true."),
)
REASONING = (
    Field(
        "reasoning_effort",
        "string",
        "none turns reasoning off; minimal, low and medium bound it to 512, 1024 and 4096 tokens.",
        choices=EFFORTS,
    ),
    Field("thinking_token_budget", "integer", "Most tokens of reasoning; ours and vLLM's.", low=0, high=MAX_TOKENS),
    Field("include_reasoning", "boolean", "false: reasoning is not sent. Default true."),
)
_CHAT_TOOL = table(
    Field("type", "string", "", choices=("function",), required=True),
    Field("function", "object", "", required=True),
    Field("cache_control", "object", "Prefixes are always reused.", use="met"),
)
_CHAT_FUNCTION = table(
    Field("name", "any", ""),
    Field("description", "string", "", max_bytes=64 * 1024),
    Field("parameters", "any", ""),
    Field("strict", "boolean", "All of the schema is enforced, or refused; otherwise what can be enforced is."),
)
_TOOL = table(
    Field("type", "string", "", choices=("function",), required=True),
    *_CHAT_FUNCTION.values(),
    Field("output_schema", "object", "", use="ignored"),
    Field("defer_loading", "boolean", "", use="ignored"),
    Field("allowed_callers", "array", "", use="ignored"),
)
_NAMESPACE = table(
    Field("type", "string", "", choices=("namespace",), required=True),
    Field("name", "string", "", max_bytes=256, required=True),
    Field("description", "string", "Each tool has its own, which is shown.", use="met"),
    Field("tools", "array", "", required=True),
)
_TOOL_FIELDS, _REASONING_FIELDS = (frozenset(field.name for field in fields) for fields in (CALLING, REASONING))
_ReadTool = Callable[[Any, str, list[Ignored]], list[Tool]]
_DEFAULT_REASONING = ReasoningOptions()


def read_chat_tools(found: Found) -> Tools:
    """Raises InvalidRequest naming the field."""
    return _read_tools(found, _read_chat_tool, ("function",), _chat_name)


def read_tools(found: Found) -> Tools:
    """As read_chat_tools, for responses, whose tools are not wrapped."""
    return _read_tools(found, _read_tool, ("function", "namespace"), _name)


def read_reasoning(found: Found) -> ReasoningOptions:
    """Of chat completions."""
    if _REASONING_FIELDS.isdisjoint(found):
        return _DEFAULT_REASONING
    return ReasoningOptions(
        effort=found.get("reasoning_effort"),
        max_tokens=found.get("thinking_token_budget"),
        is_hidden=not found.get("include_reasoning", True),
    )


def flat_name(namespace: str, name: str) -> str:
    """What a model calls a tool of a namespace; the tool's name alone where both are too long for a name."""
    joined = f"{namespace}__{name}"
    return joined if namespace and len(joined) <= MAX_NAME else name


def own_name(namespace: str, flat: str) -> str:
    """The name that `flat_name` made `flat` of."""
    return flat.removeprefix(f"{namespace}__")


def _read_chat_tool(value: Any, path: str, ignored: list[Ignored]) -> list[Tool]:
    function = read(value, _CHAT_TOOL, path, ignored).inner("function", _CHAT_FUNCTION)
    return [_tool(value["function"], function, f"{path}.function")]


def _read_tool(value: Any, path: str, ignored: list[Ignored]) -> list[Tool]:
    """A function, or the functions of a namespace."""
    if not isinstance(value, dict) or value.get("type") != "namespace":
        return [_tool(value, read(value, _TOOL, path, ignored), path)]
    found = read(value, _NAMESPACE, path, ignored)
    own = own_tools(found["tools"], lambda kind: kind == "function", f"{path}.tools", ignored)
    inner = [tool for where, each in own for tool in _read_tool(each, where, ignored)]
    return [replace(tool, name=flat_name(found["name"], tool.name), namespace=found["name"]) for tool in inner]


def _tool(given: dict[str, Any], found: dict[str, Any], path: str) -> Tool:
    parameters = given.get("parameters")  # null is absent
    return read_tool(
        found.get("name"),
        found.get("description"),
        parameters,
        f"{path}.name",
        f"{path}.parameters",
        is_strict=found.get("strict", False),
    )


def _chat_name(value: dict[str, Any]) -> Any:
    function = value.get("function")
    return function.get("name") if isinstance(function, dict) else None


def _name(value: dict[str, Any]) -> Any:
    return value.get("name")


def _read_tools(
    found: Found, read_one: _ReadTool, kinds: Collection[str], called_name: Callable[[dict[str, Any]], Any]
) -> Tools:
    if _TOOL_FIELDS.isdisjoint(found):
        return NO_TOOLS
    own = own_tools(found.get("tools", ()), lambda kind: kind in kinds, "tools", found.ignored)
    tools = [tool for where, value in own for tool in read_one(value, where, found.ignored)]
    given = found.get("tool_choice", "auto")
    mode, allowed = _read_choice(given, called_name)
    is_named = isinstance(given, dict) and given.get("type") == "function"  # asks for that one call
    is_parallel = found.get("parallel_tool_calls", True) and not is_named
    return make_tools(tools, mode, allowed, is_parallel, ("tools", "tool_choice"))


def _read_choice(value: Any, called_name: Callable[[dict[str, Any]], Any]) -> tuple[Mode, list[Any] | None]:
    """The mode, and the names it is bound to (None: all)."""
    if value in ("none", "auto", "required"):
        return value, None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function" and isinstance(name := called_name(value), str):
        return "required", [name]
    if kind == "allowed_tools":
        # chat completions wraps what responses has at the top
        inner = value.get("allowed_tools", value)
        mode, tools = (inner.get("mode"), inner.get("tools")) if isinstance(inner, dict) else (None, None)
        names = [called_name(each) for each in tools if isinstance(each, dict)] if isinstance(tools, list) else []
        if mode in ("auto", "required") and names and all(isinstance(name, str) for name in names):
            return mode, names
    given = shown(value) if isinstance(value, str) else f"{kind_of(value)} of this kind"
    message = f"tool_choice is {given}: use none, auto, required, one function or allowed_tools"
    raise InvalidRequest(message, code="invalid_value", param="tool_choice")
