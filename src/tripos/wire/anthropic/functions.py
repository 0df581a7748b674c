"""Tools and thinking in Anthropic's words → Tool, ToolChoice, ReasoningOptions."""

from __future__ import annotations

from typing import Any

from tripos.errors import InvalidRequest
from tripos.types import ReasoningOptions, Tool
from tripos.wire.anthropic.client_tools import describe
from tripos.wire.fields import Field, Found, read, table
from tripos.wire.generation import MAX_TOKENS
from tripos.wire.ignored import Ignored
from tripos.wire.tools import Mode, Tools, make_tools, own_tools, read_tool

_TOOL = table(
    Field("name", "any", ""),
    Field("description", "string", "", max_bytes=64 * 1024),
    Field("input_schema", "any", "", required=True),
    Field("type", "string", "", choices=("custom",)),
    Field("strict", "boolean", "All of the schema is enforced, or refused; otherwise what can be enforced is."),
    Field("cache_control", "object", "Prefixes are always reused.", use="met"),
    Field("input_examples", "array", "", use="ignored"),
    Field("allowed_callers", "array", "", use="ignored", nothing=(["direct"],)),
    Field("defer_loading", "boolean", "", use="ignored"),
    Field("eager_input_streaming", "boolean", "", use="ignored"),
)
_KNOWN_TOOL = table(
    Field("type", "string", "", required=True),
    Field("name", "string", "", required=True),
    Field("max_characters", "integer", "The client cuts what it shows.", use="met"),
    *(_TOOL[name] for name in ("strict", "cache_control", "input_examples", "allowed_callers", "defer_loading")),
)
_CHOICE = table(
    Field("type", "string", "", choices=("auto", "any", "tool", "none"), required=True),
    Field("name", "string", "", max_bytes=256),
    Field("disable_parallel_tool_use", "boolean", ""),
)
_MODES: dict[str, Mode] = {"auto": "auto", "any": "required", "tool": "required", "none": "none"}
_THINKING = table(
    Field("type", "string", "", choices=("enabled", "disabled", "adaptive"), required=True),
    Field("budget_tokens", "integer", "", low=1, high=MAX_TOKENS),
    Field("display", "string", "", choices=("summarized", "omitted")),
)


def read_tools(found: Found) -> Tools:
    """Raises InvalidRequest naming the field."""
    own = own_tools(found.get("tools", ()), _is_own, "tools", found.ignored)
    tools = [_read_tool(value, where, found.ignored) for where, value in own]
    choice = read(found.get("tool_choice", {"type": "auto"}), _CHOICE, "tool_choice", found.ignored)
    is_named = choice["type"] == "tool"
    if is_named != ("name" in choice):
        message = "tool_choice.name goes with type tool, and only with it"
        raise InvalidRequest(message, code="invalid_value", param="tool_choice.name")
    allowed = [choice["name"]] if is_named else None
    is_parallel = not choice.get("disable_parallel_tool_use", False) and not is_named
    return make_tools(tools, _MODES[choice["type"]], allowed, is_parallel, ("tools", "tool_choice"))


def _is_own(kind: str) -> bool:
    return kind == "custom" or describe(kind) is not None


def _read_tool(value: Any, path: str, ignored: list[Ignored]) -> Tool:
    kind = value.get("type") if isinstance(value, dict) else None
    known = describe(kind) if isinstance(kind, str) else None
    if known is not None:
        found = read(value, _KNOWN_TOOL, path, ignored)
        return read_tool(found["name"], known[0], known[1], f"{path}.name", f"{path}.type")
    found = read(value, _TOOL, path, ignored)
    schema_path = f"{path}.input_schema"
    return read_tool(
        found.get("name"),
        found.get("description"),
        found["input_schema"],
        f"{path}.name",
        schema_path,
        is_strict=found.get("strict", False),
    )


def read_reasoning(body: Found, max_tokens: int | None) -> ReasoningOptions:
    """Reasoning is off unless the client turns it on: clients that do not read the first block as the text."""
    found = read(body.get("thinking") or {"type": "disabled"}, _THINKING, "thinking", body.ignored)
    budget = found.get("budget_tokens")
    path = "thinking.budget_tokens"
    if found["type"] == "enabled" and budget is None:
        raise InvalidRequest(f"{path} is required", code="missing_field", param=path)
    if budget is not None and max_tokens is not None and budget >= max_tokens:
        message = f"{path} is {budget}: it must leave something of max_tokens, which is {max_tokens}"
        raise InvalidRequest(message, code="out_of_range", param=path)
    is_on = found["type"] != "disabled"
    is_hidden = found.get("display") == "omitted"
    return ReasoningOptions(is_on=is_on, max_tokens=budget if is_on else None, is_hidden=is_hidden)
