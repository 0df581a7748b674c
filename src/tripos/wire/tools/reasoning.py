"""Reasoning: how models mark it, what a request may ask of it, and how it is told from the answer.

Only a block at the beginning of the output counts, which the prompt may have opened already.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from tripos.wire.tools.parser import SPACE

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# Tokens of reasoning for models whose template takes no effort; more than medium: as many as it likes.
EFFORT_TOKENS: dict[str, int] = {"none": 0, "minimal": 512, "low": 1024, "medium": 4096}


@dataclass(frozen=True)
class Marks:
    """What stands around reasoning."""

    name: str
    start: str
    end: str


_ALL = (Marks("think", "<think>", "</think>"), Marks("mistral", "[THINK]", "[/THINK]"))
REASONING = {each.name: each for each in _ALL}
_SWITCHES = ("enable_thinking", "thinking")  # arguments of templates that turn reasoning on and off


def detect_reasoning(template: str | None) -> Marks | None:
    """How a model with this chat template marks its reasoning; None: it does not reason."""
    return next((marks for marks in REASONING.values() if marks.end in (template or "")), None)


def detect_switch(template: str | None) -> str:
    """The template's argument that turns reasoning off, "" for none."""
    names = names_in(template)
    return next((name for name in _SWITCHES if name in names), "")


def names_in(template: str | None) -> set[str]:
    """The names that a template's code uses, without attributes and what stands in quotes."""
    code = " ".join(re.findall(r"\{[{%].*?[%}]\}", template or "", re.DOTALL))
    bare = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "''", code)
    return set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", bare))


class ReasoningSplit:
    """One choice's text → (reasoning, answer). White space around either is nobody's."""

    def __init__(self, marks: Marks, is_open: bool) -> None:
        """`is_open`: the prompt opened the block."""
        self._marks = marks
        self._state = "reasoning" if is_open else "begin"
        self._held = ""
        self._is_fresh = True  # nothing of the part was said yet

    def push(self, text: str) -> tuple[str, str]:
        """What is certain with this text."""
        text, self._held = self._held + text, ""
        if self._state == "begin":
            text = self._begin(text)
        reasoning = ""
        if self._state == "reasoning":
            reasoning, text = self._reason(text)
        if self._state == "answer" and self._is_fresh:
            text = text.lstrip(SPACE)
        if text:
            self._is_fresh = False
        return reasoning, text

    def flush(self) -> tuple[str, str]:
        """What was held back, when nothing follows."""
        text, self._held = self._held, ""
        if self._state == "reasoning":
            return text.rstrip(SPACE), ""
        return "", text

    def _begin(self, text: str) -> str:
        """Find out whether there is a block; nothing is said until then."""
        begin, start = text.lstrip(SPACE), self._marks.start
        if begin.startswith(start):
            self._state = "reasoning"
            return begin[len(start) :]
        if start.startswith(begin):
            self._held = text
            return ""
        self._state, self._is_fresh = "answer", False  # whose white space is its own
        return text

    def _reason(self, text: str) -> tuple[str, str]:
        end = self._marks.end
        at = text.find(end)
        if at >= 0:
            self._state = "answer"
            reasoning, rest = text[:at].rstrip(SPACE), text[at + len(end) :]
        else:
            n = next((n for n in range(min(len(text), len(end) - 1), 0, -1) if end.startswith(text[-n:])), 0)
            reasoning = text[: len(text) - n].rstrip(SPACE)
            self._held, rest = text[len(reasoning) :], ""
        if self._is_fresh:
            reasoning = reasoning.lstrip(SPACE)
        self._is_fresh = at >= 0 or (self._is_fresh and not reasoning)
        return reasoning, rest
