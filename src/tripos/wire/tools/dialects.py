"""Which dialects a chat template speaks, and so its model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tripos.wire.tools.deepseek import DEEPSEEK_R1, DEEPSEEK_V31
from tripos.wire.tools.dialect import Dialect
from tripos.wire.tools.generic import GENERIC
from tripos.wire.tools.hermes import HERMES
from tripos.wire.tools.llama import LLAMA
from tripos.wire.tools.mistral import MISTRAL, MISTRAL_LIST
from tripos.wire.tools.reasoning import detect_reasoning, detect_switch, names_in

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

    `tool_dialect`: what to believe instead of the template, unless it is auto. `tool_template`: of chats with tools,
    where that is another.
    """
    speaks = template if tool_template is None else tool_template
    dialect = DIALECTS.get(tool_dialect) or detect(speaks)
    marks = detect_reasoning(template) or detect_reasoning(tool_template)
    texts = [*dialect.markers, *((marks.start, marks.end) if marks is not None else ())]
    return {
        "tool_dialect": dialect.name,
        "has_tool_prompt": dialect is not GENERIC and "tools" in names_in(speaks),
        "reasoning_dialect": marks.name if marks is not None else "",
        "reasoning_switch": (detect_switch(template) or detect_switch(tool_template)) if marks is not None else "",
        "marker_ids": {text: special_tokens[text] for text in texts if text in special_tokens},
    }
