"""The dialects of all families, and which of them a chat template, and so its model, uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tripos.dialects.deepseek import DEEPSEEK_R1, DEEPSEEK_V31
from tripos.dialects.dialect import Dialect
from tripos.dialects.generic import GENERIC
from tripos.dialects.hermes import HERMES
from tripos.dialects.llama import LLAMA
from tripos.dialects.mistral import MISTRAL, MISTRAL_LIST
from tripos.dialects.reasoning import REASONING, detect_reasoning, detect_switch, names_in

# In this order; the last takes every template.
DIALECTS = {each.name: each for each in (HERMES, MISTRAL, MISTRAL_LIST, DEEPSEEK_R1, DEEPSEEK_V31, LLAMA, GENERIC)}


def detect(template: str | None) -> Dialect:
    """The dialect of a model with this chat template (None: it has none)."""
    return next(each for each in DIALECTS.values() if each.is_used_by(template or ""))


def describe(
    template: str | None,
    special_tokens: Mapping[str, int],
    tool_dialect: str = "auto",
    tool_template: str | None = None,
) -> dict[str, Any]:
    """The fields of a ModelCard that say how its model calls tools and reasons. `special_tokens`: text → id.

    `tool_dialect`: the name of a dialect, or auto for the one that the template uses. `tool_template`: of chats with
    tools, where that is another.
    """
    source = template if tool_template is None else tool_template
    dialect = DIALECTS.get(tool_dialect) or detect(source)
    reasoning = detect_reasoning(template) or detect_reasoning(tool_template)
    marks = (REASONING[reasoning].start, REASONING[reasoning].end) if reasoning else ()
    return {
        "tool_dialect": dialect.name,
        "has_tool_prompt": dialect is not GENERIC and "tools" in names_in(source),
        "reasoning_dialect": reasoning,
        "reasoning_switch": (detect_switch(template) or detect_switch(tool_template)) if reasoning else "",
        "marker_ids": {text: special_tokens[text] for text in (*dialect.markers, *marks) if text in special_tokens},
    }
