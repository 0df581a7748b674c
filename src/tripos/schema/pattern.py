"""Regular expressions: a quantifier must have something to repeat.

JSON Schema's dialect (ECMA-262, 22.2.1) says so; the compiler repeats also what has no width, `^+` or `\\b*`, and would
match something else than whoever wrote that meant.
"""

from __future__ import annotations

import re

_PIECE = re.compile(
    r"""(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])
    |(?P<nothing>\^|\$|\\[bBAzZG]|\||\((?:\?(?:P?<[^>=!][^>]*>|<?[=!]|[a-zA-Z-]*:|[a-zA-Z-]+\)))?)
    |(?P<quantifier>[*+?]|\{\d+(?:,\d*)?\})
    |(?P<something>\\[xuU]\{[0-9A-Fa-f]+\}|\\.|.)""",
    re.VERBOSE | re.DOTALL,
)


def dangling_quantifier(pattern: str) -> tuple[int, str] | None:
    """The position and text of the first quantifier that follows nothing, an assertion or another quantifier.

    One `?` behind a quantifier makes it lazy.
    """
    can_repeat, may_be_lazy = False, False
    for match in _PIECE.finditer(pattern):
        if match.lastgroup != "quantifier":
            can_repeat, may_be_lazy = match.lastgroup != "nothing", False
        elif can_repeat:
            can_repeat, may_be_lazy = False, True
        elif may_be_lazy and match[0] == "?":
            may_be_lazy = False
        else:
            return match.start(), match[0]
    return None
