"""Llama 3.x: the answer is {"name": …, "parameters": …}, behind <|python_tag|> or not; several have semicolons between.

The family's templates take one at a time, so the grammar asks for one, and more are read when the model writes them.
"""

from __future__ import annotations

from tripos.dialects.dialect import ARGUMENTS, NAME, Dialect, Form, Frame
from tripos.dialects.parser import FIRST_KEYS, Reading, Source

TAG, CHAIN = "<|python_tag|>", ";"


def _is_used_by(template: str) -> bool:
    return '"parameters"' in template and ('{"name"' in template or TAG in template)


def _read(source: Source) -> Reading[bool]:
    while True:
        text = yield from source.value(FIRST_KEYS)
        if not (source.begins_call(text) and source.add_objects(text)):
            return False
        if not (yield from source.word(CHAIN)) or (yield from source.peek()) != "{":
            return False


LLAMA = Dialect(
    name="llama3",
    form=Form(
        call=('{"name": "', NAME, '", "parameters": ', ARGUMENTS, "}"), frames=(Frame(""), Frame(TAG)), chain=CHAIN
    ),
    is_used_by=_is_used_by,
    read=_read,
    triggers=(TAG,),
    first="{",
    markers=(TAG,),
)
