"""A grammar (Lark as llguidance reads it) for answers that call tools: whatever is called has arguments of its schema.

With a free choice any text may come until a call begins. Descriptions never get here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from tripos.errors import InvalidRequest
from tripos.types import Constraint
from tripos.wire.tools.arguments import with_arguments
from tripos.wire.tools.dialect import ARGUMENTS, NAME, Dialect, Frame
from tripos.wire.tools.offer import Offer, Tool
from tripos.wire.tools.parser import CALL_KEYS

MAX_CALLS = 32  # in one answer
_ANYTHING = "/(?s:.*)/"


def constrain(
    offer: Offer, dialect: Dialect, marker_ids: Mapping[str, int], answer: Constraint | None = None
) -> Constraint:
    """The constraint of an answer that may, or must, call what is offered.

    `marker_ids`: those of the dialect's markers that are special tokens, which no text spells. `answer`: what must be
    matched where nothing is called. Raises InvalidRequest for an answer that cannot be told from a call.
    """
    writer = _Writer(dialect, marker_ids)
    tools = [tool for tool in offer.tools if tool.name in offer.allowed]
    frames = dialect.form.frames
    if not offer.is_parallel:
        frames = tuple(Frame(frame.opening, frame.closing) for frame in frames)
    lines = []
    if offer.choice == "required":
        lines.append(f"start: {' | '.join(writer.frame(frame) for frame in frames)}")
    elif answer is not None:
        frames = tuple(frame for frame in frames if writer.is_told(frame))
        lines += [f"start: {' | '.join(['answer', *map(writer.frame, frames)])}", _answer_rule(answer, frames)]
    else:
        lines += writer.free(frames)
    lines.append(f"call: {' | '.join(f'call_{i}' for i in range(len(tools)))}")
    for i, tool in enumerate(tools):
        lines += [f"call_{i}: {writer.call(tool, i)}", f"arguments_{i}: %json {_schema_text(tool)}"]
    return Constraint(kind="lark", source="\n".join(lines) + "\n", param="tools")


def _answer_rule(answer: Constraint, frames: tuple[Frame, ...]) -> str:
    if answer.kind not in ("json_object", "json_schema") or not frames:
        message = (
            f"tools and an answer that must match a {answer.kind} cannot be told apart in this model's dialect: "
            "ask for one of them, or set tool_choice to none or required"
        )
        raise InvalidRequest(message, code="invalid_value", param="tools")
    schema = answer.source or json.dumps({"type": "object"})
    return f"answer: %json {schema}"


def _schema_text(tool: Tool) -> str:
    """With its path as a comment, by which a refusal tells which tool it is about."""
    if tool.arguments is None:
        tool, _ = with_arguments(tool)
    return json.dumps({"$comment": tool.path, **tool.arguments}, ensure_ascii=False)


class _Writer:
    def __init__(self, dialect: Dialect, marker_ids: Mapping[str, int]) -> None:
        self._dialect = dialect
        self._ids = marker_ids
        self._marker = re.compile("|".join(f"({re.escape(marker)})" for marker in marker_ids) or r"(?!)")

    def frame(self, frame: Frame, skip: str = "") -> str:
        """A frame with its calls; `skip`: the beginning of it that is out already."""
        more = "" if frame.between is None else f"({self.text(frame.between)} call){{0,{MAX_CALLS - 1}}}"
        parts = [self.text(frame.opening.removeprefix(skip)), "call", more, self.text(frame.closing)]
        return " ".join(part for part in parts if part)

    def call(self, tool: Tool, index: int) -> str:
        parts = []
        for part in self._dialect.form.call:
            if part is NAME:
                parts.append(self.text(tool.name))
            else:
                parts.append(f"arguments_{index}" if part is ARGUMENTS else self.text(str(part)))
        return " ".join(parts)

    def free(self, frames: tuple[Frame, ...]) -> list[str]:
        """Rules for text, or a call behind any text (at the beginning, where only that begins one)."""
        first = self._dialect.first
        not_first = f" & ~/{_call_beginning(first)}(?s:.*)/" if first else ""
        never = not_first + "".join(f" & ~/(?s:.*){_regex(each)}(?s:.*)/" for each in self._dialect.triggers)
        ways, lines = ["TEXT"], []
        for i, frame in enumerate(frames):
            head = self._head(frame)
            if not head:
                ways.append(self.frame(frame))
                continue
            if head in self._ids:
                ways.append(f"TEXT {self.frame(frame)}")
            else:
                ways.append(f"head_{i} {self.frame(frame, skip=head)}")
                lines += [f"head_{i}[lazy]: HEAD_{i}", f"HEAD_{i}: /(?s:.*){_regex(head)}/{not_first}"]
        return [f"start: {' | '.join(ways)}", *lines, f"TEXT: {_ANYTHING}{never}"]

    def is_told(self, frame: Frame) -> bool:
        """Whether a frame begins as no JSON does."""
        return self._head(frame) in self._ids or frame.opening[:1] == "<"

    def _head(self, frame: Frame) -> str:
        """The trigger that a frame begins with."""
        return next((each for each in self._dialect.triggers if frame.opening.startswith(each)), "")

    def text(self, text: str) -> str:
        """Terminals for a text, special tokens by their ids."""
        parts = [part for part in self._marker.split(text) if part]
        return " ".join(f"<[{self._ids[part]}]>" if part in self._ids else _quoted(part) for part in parts)


def _call_beginning(first: str) -> str:
    """A regex of how answers begin that are a call as a whole, which no text may."""
    space = r"[ \t\r\n]*"
    bracket = rf"(\[{space})?" if "[" in first else ""
    return rf'{space}{bracket}\{{{space}"({"|".join(CALL_KEYS)})"'


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _regex(text: str) -> str:
    return re.escape(text).replace("/", r"\/")
