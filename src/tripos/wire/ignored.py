"""What a client sent and nobody heeds: a name and a group of each, and the header that tells the client.

Whoever prepares a request may add to the names: they travel with it as a tuple (GenerationRequest.ignored).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args
from urllib.parse import quote

import msgspec

Group = Literal["unknown", "advisory", "schema", "tool"]
GROUPS: tuple[str, ...] = get_args(Group)
MAX_HEADER_BYTES = 1024
_REST_BYTES = len(", +1000000")
_PLAIN = "[]$./:@"  # of names and paths; everything else that is no letter, digit, _, - or ~ gets percent signs


class Ignored(msgspec.Struct, frozen=True):
    """`unknown`: a field that no table has. `advisory`: a known one that this server does nothing about, or not as far
    as the client wants. `schema`: a keyword that is not enforced. `tool`: one that was not offered to the model.
    """

    name: str  # path of the field; [] stands for any place in an array
    group: Group = "unknown"


def header_value(ignored: Iterable[Ignored]) -> str:
    """Each name once, in their order, with commas between; `+N` for those that do not fit. ASCII only."""
    names = dict.fromkeys(each.name for each in ignored)
    written_names: list[str] = []
    num_left = MAX_HEADER_BYTES - _REST_BYTES
    for name in names:
        written = quote(name, safe=_PLAIN)
        num_left -= len(written) + 2
        if num_left < 0:
            break
        written_names.append(written)
    left = len(names) - len(written_names)
    return ", ".join([*written_names, f"+{left}"] if left else written_names)
