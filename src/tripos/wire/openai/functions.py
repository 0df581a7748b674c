"""Tools and reasoning in OpenAI's words: chat completions' and responses' fields → Offer and Thinking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tripos.errors import InvalidRequest
from tripos.wire.fields import Field, Found, kind_of, read, table
from tripos.wire.generation import MAX_TOKENS
from tripos.wire.ignored import Ignored
from tripos.wire.json import shown
from tripos.wire.tools.adapt import Thinking
from tripos.wire.tools.offer import MAX_TOOLS, Choice, Offer, Tool, make_offer, read_tool
from tripos.wire.tools.reasoning import EFFORTS

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
_OFFERING, _THINKING = (frozenset(field.name for field in fields) for fields in (CALLING, REASONING))
_NOTHING, _BY_ITSELF = Offer(choice="none"), Thinking()


def read_chat_offer(found: Found) -> Offer:
    """Raises InvalidRequest naming the field."""
    return _read_offer(found, _read_chat_tool, _chat_name)


def read_offer(found: Found) -> Offer:
    """As read_chat_offer, for responses, whose tools are not wrapped."""
    return _read_offer(found, _read_tool, _name)


def read_thinking(found: Found) -> Thinking:
    """Of chat completions."""
    if _THINKING.isdisjoint(found):
        return _BY_ITSELF
    return Thinking(
        effort=found.get("reasoning_effort"),
        max_tokens=found.get("thinking_token_budget"),
        is_hidden=not found.get("include_reasoning", True),
    )


def _read_chat_tool(value: Any, path: str, ignored: list[Ignored]) -> Tool:
    _check_type(value, path)
    function = read(value, _CHAT_TOOL, path, ignored).inner("function", _CHAT_FUNCTION)
    return _tool(value["function"], function, f"{path}.function")


def _read_tool(value: Any, path: str, ignored: list[Ignored]) -> Tool:
    _check_type(value, path)
    return _tool(value, read(value, _TOOL, path, ignored), path)


def _check_type(value: Any, path: str) -> None:
    kind = value.get("type", "function") if isinstance(value, dict) else "function"
    if kind != "function":
        given = shown(kind) if isinstance(kind, str) else kind_of(kind)
        message = f"{path}.type is {given}: only functions can be called, and the client runs them"
        raise InvalidRequest(message, code="invalid_value", param=f"{path}.type")


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


def _read_offer(
    found: Found, read_one: Callable[[Any, str, list[Ignored]], Tool], name_of: Callable[[dict[str, Any]], Any]
) -> Offer:
    if _OFFERING.isdisjoint(found):
        return _NOTHING
    tools = [read_one(value, f"tools[{i}]", found.ignored) for i, value in enumerate(found.get("tools", ()))]
    given = found.get("tool_choice", "auto")
    choice, allowed = _read_choice(given, name_of)
    is_named = isinstance(given, dict) and given.get("type") == "function"  # asks for that one call
    is_parallel = found.get("parallel_tool_calls", True) and not is_named
    return make_offer(tools, choice, allowed, is_parallel, ("tools", "tool_choice"))


def _read_choice(value: Any, name_of: Callable[[dict[str, Any]], Any]) -> tuple[Choice, list[Any] | None]:
    """The mode, and the names it is bound to (None: all)."""
    if value in ("none", "auto", "required"):
        return value, None
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function" and isinstance(name := name_of(value), str):
        return "required", [name]
    if kind == "allowed_tools":
        # chat completions wraps what responses has at the top
        inner = value.get("allowed_tools", value)
        mode, tools = (inner.get("mode"), inner.get("tools")) if isinstance(inner, dict) else (None, None)
        names = [name_of(each) for each in tools if isinstance(each, dict)] if isinstance(tools, list) else []
        if mode in ("auto", "required") and names and all(isinstance(name, str) for name in names):
            return mode, names
    given = shown(value) if isinstance(value, str) else f"{kind_of(value)} of this kind"
    message = f"tool_choice is {given}: use none, auto, required, one function or allowed_tools"
    raise InvalidRequest(message, code="invalid_value", param="tool_choice")
