"""Which dialect a chat template speaks."""

from __future__ import annotations

from tripos.wire.tools.deepseek import DEEPSEEK_R1, DEEPSEEK_V31
from tripos.wire.tools.dialect import Dialect
from tripos.wire.tools.generic import GENERIC
from tripos.wire.tools.hermes import HERMES
from tripos.wire.tools.llama import LLAMA
from tripos.wire.tools.mistral import MISTRAL, MISTRAL_LIST

# In this order; the last takes every template.
DIALECTS = {each.name: each for each in (HERMES, MISTRAL, MISTRAL_LIST, DEEPSEEK_R1, DEEPSEEK_V31, LLAMA, GENERIC)}


def detect(template: str | None) -> Dialect:
    """The dialect of a model with this chat template (None: it has none)."""
    template = template or ""
    knows_tools = "tools" in template
    return next(each for each in DIALECTS.values() if each is GENERIC or (knows_tools and each.is_used_by(template)))
