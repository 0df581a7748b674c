"""A request in the dialect of its model: tools for the template, marks of the reasoning, special tokens that are part
of the text, what the output must match; and how that output is to be read.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from tripos.dialects.arguments import MAX_BYTES, enforceable
from tripos.dialects.dialect import Dialect
from tripos.dialects.families import DIALECTS
from tripos.dialects.generic import GENERIC, describe_in_words, describe_tool, spell_out
from tripos.dialects.grammar import constrain
from tripos.dialects.output import CallOutput, OutputFormat
from tripos.dialects.reasoning import EFFORT_TOKENS, REASONING
from tripos.errors import InvalidRequest
from tripos.schema.reading import read_schema
from tripos.types import Constraint, Generate, Message, ModelCard, Tool, ToolChoice


@dataclass(frozen=True)
class Lowered:
    """`request` as the engine reads it. `format`: how its output is to be read; None: as the engine gives it."""

    request: Generate
    format: OutputFormat | None = None

    def output(self) -> CallOutput | None:
        """A reader of one run's events; None: they are right as they come."""
        return None if self.format is None else CallOutput(self.format, self.request.n)


def lower(request: Generate, card: ModelCard) -> Lowered:
    """The request for a model. Only a chat is changed. Raises InvalidRequest."""
    if not _is_chat(request):
        return Lowered(request)
    dialect = DIALECTS.get(card.tool_dialect, GENERIC)
    tools = request.tools if may_call(request) else ()
    lowered = _show_tools(_lower_reasoning(request, card), tools, dialect, card.has_tool_prompt)
    hides = request.reasoning.is_hidden and lowered.reasoning_marks is not None
    if not tools:
        return Lowered(lowered, OutputFormat(hides_reasoning=True) if hides else None)
    names = tuple(tool.name for tool in tools)
    arguments = enforceable(tools, _allowed(names, request.tool_choice))
    format = OutputFormat(
        dialect=dialect,
        tool_names=names,
        arguments=arguments,
        answer_schema=_answer_schema(request.constraint) if request.tool_choice.mode == "auto" else True,
        hides_reasoning=hides,
        call_salt=secrets.token_hex(16),
    )
    constraint = constrain(arguments, request.tool_choice, dialect, card.marker_ids, request.constraint)
    shown = tuple(marker for marker in dialect.markers if marker in card.marker_ids)
    return Lowered(replace(lowered, constraint=constraint, shown_tokens=shown), format)


def unenforced(request: Generate) -> tuple[str, ...]:
    """Paths in the client's body of what of the tools' schemas is not enforced
    (`tools[0].function.parameters.properties.p.uniqueItems`). Raises InvalidRequest as `lower`.
    """
    if not (may_call(request) and _is_chat(request)):
        return ()
    arguments = enforceable(request.tools, _allowed((tool.name for tool in request.tools), request.tool_choice))
    return tuple(path for each in arguments.values() for path in each.unenforced)


def may_call(request: Generate) -> bool:
    """Whether the answer may call anything."""
    return bool(request.tools) and request.tool_choice.mode != "none"


def _is_chat(request: Generate) -> bool:
    return bool(request.prompt) and isinstance(request.prompt[0], Message)


def _allowed(names: Iterable[str], choice: ToolChoice) -> Collection[str]:
    return tuple(names) if choice.allowed is None else choice.allowed


def _answer_schema(constraint: Constraint | None) -> Any:
    """What an answer that calls nothing must follow. Raises InvalidRequest."""
    if constraint is None or constraint.kind not in ("json_object", "json_schema"):
        return True
    if len(constraint.source) > MAX_BYTES:
        message = f"a schema of more than {MAX_BYTES >> 10} KiB beside tools is too complex"
        raise InvalidRequest(message, code="grammar_too_complex", param=constraint.param)
    try:
        return read_schema(constraint.source or '{"type": "object"}')
    except InvalidRequest as problem:
        raise InvalidRequest(problem.message, code=problem.code, param=constraint.param) from None


def _show_tools(request: Generate, tools: tuple[Tool, ...], dialect: Dialect, has_prompt: bool) -> Generate:
    """The tools in the prompt: through the template, or in words for a template that shows none."""
    messages: tuple[Message, ...] = request.prompt  # type: ignore[assignment]
    if not tools and not any(message.tool_calls or message.role == "tool" for message in messages):
        return request
    if not has_prompt:
        described = describe_in_words(spell_out(messages) if dialect is GENERIC else messages, tools, dialect)
        return request if described is messages else replace(request, prompt=described)
    return replace(request, template_tools=tuple(map(_for_template, tools))) if tools else request


def _for_template(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": describe_tool(tool, _with_type(tool.parameters))}


def _with_type(parameters: dict[str, Any]) -> dict[str, Any]:
    return parameters if "type" in parameters else {"type": "object", "properties": {}, **parameters}


def _lower_reasoning(request: Generate, card: ModelCard) -> Generate:
    """With the marks around the model's reasoning, its budget, and the template's switch."""
    options, marks = request.reasoning, REASONING.get(card.reasoning_dialect)
    if marks is None:
        if options.required_by:
            message = f"{options.required_by}: {card.name} does not reason"
            raise InvalidRequest(message, code="invalid_value", param=options.required_by)
        return request
    is_off = options.is_on is False or options.effort == "none"
    max_tokens = options.max_tokens
    if is_off:
        max_tokens = 0
    elif max_tokens is None:
        max_tokens = EFFORT_TOKENS.get(options.effort or "")
    args = request.template_args
    if card.reasoning_switch and (is_off or options.is_on):
        args = {card.reasoning_switch: not is_off, **args}
    return replace(request, reasoning_marks=replace(marks, max_tokens=max_tokens), template_args=args)
