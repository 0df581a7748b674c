"""What a client sent and nobody heeds: a name and a group of each, and the header that tells the client.

Whoever prepares a request may add to the names: they travel with it as a tuple (Asked.ignored).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args
from urllib.parse import quote

import msgspec

Group = Literal["unknown", "advisory", "schema", "tool"]
GROUPS: tuple[str, ...] = get_args(Group)
MAX_HEADER_BYTES = 1024
_ROOM = len(", +1000000")
_PLAIN = "[]$./:@"  # of names and paths; everything else that is no letter, digit, _, - or ~ gets percent signs


class Ignored(msgspec.Struct, frozen=True):
    """`unknown`: a field that no table has. `advisory`: a known one that this server does nothing about, or not as far
    as was asked. `schema`: a keyword that is not enforced. `tool`: one that was not offered to the model.
    """

    name: str  # path of the field; [] stands for any place in an array
    group: Group = "unknown"


def header_value(ignored: Iterable[Ignored]) -> str:
    """Each name once, in their order, with commas between; `+N` for those without room. ASCII only."""
    names = dict.fromkeys(each.name for each in ignored)
    kept: list[str] = []
    room = MAX_HEADER_BYTES - _ROOM
    for name in names:
        written = quote(name, safe=_PLAIN)
        room -= len(written) + 2
        if room < 0:
            break
        kept.append(written)
    left = len(names) - len(kept)
    return ", ".join([*kept, f"+{left}"] if left else kept)
