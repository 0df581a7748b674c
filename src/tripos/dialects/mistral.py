"""Mistral: [TOOL_CALLS] and a list of {"name": …, "arguments": …}; later models [TOOL_CALLS]name[ARGS]{…} for each.

Both are read, whichever a model writes.
"""

from __future__ import annotations

from tripos.dialects.dialect import ARGUMENTS, NAME, Dialect, Form, Frame
from tripos.dialects.parser import Reading, Source

BEGIN, ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NUM_ID_CHARS = 9  # the templates refuse other ids


def _read(source: Source) -> Reading[bool]:
    if (yield from source.peek()) == "[":
        text = yield from source.value()
        return source.add_objects(text)
    name, end = yield from source.name(ID, ARGS, "{")
    if end == ID:
        _, end = yield from source.name(ARGS, "{")
    if end == "{":
        source.put_back(end)
    text = yield from source.value()
    return source.add(name, text)


MISTRAL_LIST = Dialect(
    name="mistral_list",
    form=Form(
        call=('{"name": "', NAME, '", "arguments": ', ARGUMENTS, "}"),
        frames=(Frame(f"{BEGIN}[", closing="]", separator=","),),
    ),
    is_used_by=lambda template: BEGIN in template and ARGS not in template,
    read=_read,
    triggers=(BEGIN,),
    markers=(BEGIN,),
    num_id_chars=_NUM_ID_CHARS,
)
MISTRAL = Dialect(
    name="mistral",
    form=Form(call=(NAME, ARGS, ARGUMENTS), frames=(Frame(BEGIN),)),
    is_used_by=lambda template: BEGIN in template and ARGS in template,
    read=_read,
    triggers=(BEGIN,),
    markers=(BEGIN, ID, ARGS),
    num_id_chars=_NUM_ID_CHARS,
)
