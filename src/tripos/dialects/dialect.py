"""What a dialect is: how a family of models writes tool calls, as data, and the function that reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tripos.dialects.parser import Reading, Source

NAME, ARGUMENTS = object(), object()  # places in Form.call


@dataclass(frozen=True)
class Frame:
    """What stands around a call; `separator`: what stands between several in one frame, "" when it holds one."""

    opening: str
    closing: str = ""
    separator: str = ""


@dataclass(frozen=True)
class Form:
    """Calls as the family was trained to write them, in any of `frames`. More calls may follow, and text, but for a
    dialect whose call is the whole answer.
    """

    call: tuple[object, ...]  # texts, NAME and ARGUMENTS
    frames: tuple[Frame, ...]
    lists: tuple[Frame, ...] = ()  # that a model may choose, and is never made to begin
    around: tuple[str, ...] = ()  # markers that may stand in the text around calls
    chain: str = ""  # behind a call it announces another, without a trigger
    is_whole: bool = False


@dataclass(frozen=True)
class Dialect:
    """`read` reads on behind a trigger, or before a character of `first`; it returns whether that was a call to its
    end. It may read more than `form` has.
    """

    name: str
    form: Form
    is_used_by: Callable[[str], bool]  # by a chat template
    read: Callable[[Source], Reading[bool]]
    triggers: tuple[str, ...] = ()  # texts that begin a call anywhere
    first: str = ""  # characters that begin one at the beginning of an answer
    markers: tuple[str, ...] = ()  # texts that may be special tokens
    num_id_chars: int = 0  # that the template wants ids of calls to have; 0: it does not care
