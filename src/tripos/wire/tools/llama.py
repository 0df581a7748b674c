"""Llama 3.x: the whole answer is {"name": …, "parameters": …}, behind <|python_tag|> or not.

Several calls, separated by semicolons, are read; the family's templates take one at a time, so only one is asked for.
"""

from __future__ import annotations

from tripos.wire.tools.dialect import ARGUMENTS, NAME, Dialect, Form, Frame
from tripos.wire.tools.parser import CALL_KEYS, Reading, Source

TAG = "<|python_tag|>"


def _is_used_by(template: str) -> bool:
    return '"parameters"' in template and ('{"name"' in template or TAG in template)


def _read(source: Source) -> Reading[bool]:
    while True:
        text = yield from source.value(CALL_KEYS)
        if not source.add_objects(text):
            return False
        yield from source.word(";")
        if (yield from source.peek()) != "{":
            return True


LLAMA = Dialect(
    name="llama3",
    form=Form(call=('{"name": "', NAME, '", "parameters": ', ARGUMENTS, "}"), frames=(Frame(""), Frame(TAG))),
    is_used_by=_is_used_by,
    read=_read,
    triggers=(TAG,),
    first="{",
    markers=(TAG,),
)
