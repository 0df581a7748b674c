"""Hermes and Qwen: <tool_call>{"name": …, "arguments": …}</tool_call>, one after the other."""

from __future__ import annotations

from tripos.dialects.dialect import ARGUMENTS, NAME, Dialect, Form, Frame
from tripos.dialects.parser import CALL_KEYS, Reading, Source

BEGIN, END = "<tool_call>", "</tool_call>"


def _is_used_by(template: str) -> bool:
    return BEGIN in template and "<function=" not in template  # which is another way to write calls


def _read(source: Source) -> Reading[bool]:
    text = yield from source.value(CALL_KEYS)
    if not source.add_objects(text):
        return False
    yield from source.word(END)
    return True


HERMES = Dialect(
    name="hermes",
    form=Form(
        call=('{"name": "', NAME, '", "arguments": ', ARGUMENTS, f"}}\n{END}"),
        frames=(Frame(f"{BEGIN}\n"),),
    ),
    is_used_by=_is_used_by,
    read=_read,
    triggers=(BEGIN,),
    markers=(BEGIN, END),
)
