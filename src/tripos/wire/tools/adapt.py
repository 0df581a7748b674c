"""A request in the dialects of its model: tools for the template, marks that must be seen, what the answer must match,
and what its reasoning may cost.
"""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from msgspec.structs import replace

from tripos.errors import InvalidRequest
from tripos.schema.reading import read_schema
from tripos.types import Constraint, Generate, Message, ModelCard, Reasoning
from tripos.wire.ignored import Ignored
from tripos.wire.tools.arguments import MAX_BYTES, enforceable
from tripos.wire.tools.dialect import Dialect
from tripos.wire.tools.dialects import DIALECTS
from tripos.wire.tools.generic import GENERIC, spell_out, tell
from tripos.wire.tools.grammar import constrain
from tripos.wire.tools.offer import Offer, Tool, describe_tool
from tripos.wire.tools.reader import PLAIN, Speech
from tripos.wire.tools.reasoning import EFFORT_TOKENS, REASONING


class Thinking(msgspec.Struct, frozen=True, kw_only=True):
    """What a client wants of the model's reasoning. Models without are left alone, unless it `must` be."""

    is_on: bool | None = None  # None: as the model does by itself
    effort: str | None = None  # one of EFFORTS
    max_tokens: int | None = None
    is_hidden: bool = False
    must: str = ""  # the field that insists on reasoning


def adapt(
    request: Generate, offer: Offer, thinking: Thinking, card: ModelCard
) -> tuple[Generate, Speech, tuple[Ignored, ...]]:
    """The request as the model gets it, how to read its answer, and what of the tools' schemas is not enforced
    (`tools[0].function.parameters.properties.p.uniqueItems`). `request` holds chat messages.

    Raises InvalidRequest.
    """
    dialect = DIALECTS.get(card.tool_dialect, GENERIC)
    if not (offer.is_open or card.reasoning_dialect or thinking.must):
        return _show_tools(request, offer, dialect, card.has_tool_prompt), PLAIN, ()
    request = _think(request, thinking, card)
    speech = Speech(
        reasoning_dialect=card.reasoning_dialect, hides_reasoning=thinking.is_hidden, call_salt=secrets.token_hex(16)
    )
    ignored: tuple[Ignored, ...] = ()
    if offer.is_open:
        offer, ignored = enforceable(offer)
        names = tuple(tool.name for tool in offer.tools)
        arguments = {tool.name: tool.arguments for tool in offer.tools if tool.name in offer.allowed}
        speech = replace(
            speech,
            tool_dialect=dialect.name,
            tool_names=names,
            arguments=arguments,
            answer=_answer_schema(request.constraint) if offer.choice == "auto" else True,
        )
        constraint = constrain(offer, dialect, card.marker_ids, request.constraint)
        request = replace(request, constraint=constraint)
    shown = [*(dialect.markers if offer.is_open else ()), *_marks(card)]
    return (
        replace(
            _show_tools(request, offer, dialect, card.has_tool_prompt),
            shown_tokens=tuple(each for each in shown if each in card.marker_ids),
        ),
        speech,
        ignored,
    )


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


def _show_tools(request: Generate, offer: Offer, dialect: Dialect, has_prompt: bool) -> Generate:
    """The tools in the prompt: through the template, or told in words for one that knows none."""
    messages: tuple[Message, ...] = request.prompt  # type: ignore[assignment]
    tools = offer.tools if offer.is_open else ()
    if not has_prompt:
        told = tell(spell_out(messages) if dialect is GENERIC else messages, tools, dialect)
        return request if told is messages else replace(request, prompt=told)
    return replace(request, tools=tuple(map(_for_template, tools))) if tools else request


def _for_template(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": describe_tool(tool, _with_type(tool.parameters))}


def _with_type(parameters: dict[str, Any]) -> dict[str, Any]:
    return parameters if "type" in parameters else {"type": "object", "properties": {}, **parameters}


def _marks(card: ModelCard) -> tuple[str, ...]:
    marks = REASONING.get(card.reasoning_dialect)
    return (marks.start, marks.end) if marks is not None else ()


def reasoning_of(card: ModelCard, max_tokens: int | None = None) -> Reasoning | None:
    """The marks around a model's reasoning; None: it does not reason."""
    marks = REASONING.get(card.reasoning_dialect)
    return None if marks is None else Reasoning(start=marks.start, end=marks.end, max_tokens=max_tokens)


def _think(request: Generate, thinking: Thinking, card: ModelCard) -> Generate:
    if card.reasoning_dialect not in REASONING:
        if thinking.must:
            message = f"{thinking.must}: {card.name} does not reason"
            raise InvalidRequest(message, code="invalid_value", param=thinking.must)
        return request
    is_off = thinking.is_on is False or thinking.effort == "none"
    max_tokens = thinking.max_tokens
    if is_off:
        max_tokens = 0
    elif max_tokens is None:
        max_tokens = EFFORT_TOKENS.get(thinking.effort or "")
    args = request.template_args
    if card.reasoning_switch and (is_off or thinking.is_on):
        args = {card.reasoning_switch: not is_off, **args}
    return replace(request, reasoning=reasoning_of(card, max_tokens), template_args=args)
