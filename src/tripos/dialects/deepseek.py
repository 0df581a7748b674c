"""DeepSeek: calls between markers with full-width bars; R1 and V3 have the arguments in a code block, V3.1 has not.

Both are read, whichever a model writes.
"""

from __future__ import annotations

from tripos.dialects.dialect import ARGUMENTS, NAME, Dialect, Form, Frame
from tripos.dialects.parser import Reading, Source

BEGIN, END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEP, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_CODE = "```"
_MARKERS = (BEGIN, END, CALL, SEP, CALL_END)


def _read(source: Source) -> Reading[bool]:
    if source.taken[-1] == END:  # behind text that stood between it and the last call
        return True
    if source.taken[-1] == BEGIN and not (yield from source.word(CALL)):
        return False
    while True:
        name, _ = yield from source.name(SEP)
        if (yield from source.peek()) != "{":  # what stood before was the kind: function
            name, _ = yield from source.name("\n")
            yield from source.word(_CODE + "json", _CODE)
        text = yield from source.value()
        if not source.add(name, text):
            return False
        yield from source.word(_CODE)
        yield from source.word(CALL_END)
        if not (yield from source.word(CALL)):
            yield from source.word(END)
            return True


DEEPSEEK_R1 = Dialect(
    name="deepseek_r1",
    form=Form(
        call=(f"function{SEP}", NAME, f"\n{_CODE}json\n", ARGUMENTS, f"\n{_CODE}{CALL_END}"),
        frames=(Frame(BEGIN + CALL),),
        around=(BEGIN, END),
    ),
    is_used_by=lambda template: BEGIN in template and _CODE in template,
    read=_read,
    triggers=(BEGIN, CALL, END),
    markers=_MARKERS,
)
DEEPSEEK_V31 = Dialect(
    name="deepseek_v31",
    form=Form(call=(NAME, SEP, ARGUMENTS, CALL_END), frames=(Frame(BEGIN + CALL),), around=(BEGIN, END)),
    is_used_by=lambda template: BEGIN in template and _CODE not in template,
    read=_read,
    triggers=(BEGIN, CALL, END),
    markers=_MARKERS,
)
