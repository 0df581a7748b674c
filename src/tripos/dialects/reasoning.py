"""How families mark reasoning, how a template says so, and how many tokens an effort stands for."""

from __future__ import annotations

import re

from tripos.types import ReasoningMarks

# Tokens of reasoning for models whose template takes no effort; more than medium: no limit.
EFFORT_TOKENS: dict[str, int] = {"none": 0, "minimal": 512, "low": 1024, "medium": 4096}
REASONING = {
    "think": ReasoningMarks(start="<think>", end="</think>"),
    "mistral": ReasoningMarks(start="[THINK]", end="[/THINK]"),
}
_SWITCHES = ("enable_thinking", "thinking")  # arguments of templates that turn reasoning on and off


def detect_reasoning(template: str | None) -> str:
    """The name of the marks that a model with this chat template puts around its reasoning; "": it does not reason."""
    return next((name for name, marks in REASONING.items() if marks.end in (template or "")), "")


def detect_switch(template: str | None) -> str:
    """The template's argument that turns reasoning off, "" for none."""
    names = names_in(template)
    return next((name for name in _SWITCHES if name in names), "")


def names_in(template: str | None) -> set[str]:
    """The names that a template's code uses, without attributes and what stands in quotes."""
    code = " ".join(re.findall(r"\{[{%].*?[%}]\}", template or "", re.DOTALL))
    bare = re.sub(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", "''", code)
    return set(re.findall(r"(?<![\w.])[A-Za-z_]\w*", bare))
