"""A model's text, as it comes, parsed into text and tool calls.

A dialect says what begins a call and reads on from there, as a generator that yields when it needs more text. Owns
what is held back: what may still become a call, and white space that may stand before one. What turns out to be no
call is text again. Calls leave whole, with arguments that are a JSON object, or not at all. Time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import msgspec

from tripos.dialects.scan import Scan

if TYPE_CHECKING:
    from tripos.dialects.dialect import Dialect

T = TypeVar("T")
Reading = Generator[None, None, T]  # yields when it needs more text

MAX_NAME = 64  # characters
CALL_KEYS = ("name", "arguments", "parameters", "type", "id")
FIRST_KEYS = ("name", "type")  # of a call that no marker announces
SPACE = " \t\r\n"
# As regexes: white space, and how a call begins that no marker announces, up to its name.
SOME_SPACE = r"[ \t\r\n]*"
CALL_KEY = r'\{S("type"S:S"function"S,S)?"name"S:S"'.replace("S", SOME_SPACE)
_MOST_CHARS = 4096  # taken in at once: what is unread stays short, and cutting it cheap


@dataclass(frozen=True)
class ToolText:
    """A call as a model wrote it. `arguments` is the text of a JSON object."""

    name: str
    arguments: str


Part = str | ToolText


class Source:
    """The text behind a trigger. What is read is `taken`, and text again unless it becomes a call."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        self._beginning = re.compile(rf'(\[{SOME_SPACE})?{CALL_KEY}({"|".join(map(re.escape, self.names))})"')
        self.rest = ""  # unread
        self.is_over = False  # nothing follows `rest`
        self.taken: list[str] = []
        self.calls: list[ToolText] = []

    def take(self, num_chars: int) -> str:
        text, self.rest = self.rest[:num_chars], self.rest[num_chars:]
        self.taken.append(text)
        return text

    def put_back(self, text: str) -> None:
        """Undo the last `take`, which took `text`."""
        self.taken.pop()
        self.rest = text + self.rest

    def add(self, name: str | None, arguments: str) -> bool:
        """A call is complete. False when there is no such tool or the arguments are no object."""
        if name not in self.names or not _is_object(arguments):
            return False
        self.calls.append(ToolText(str(name), arguments))
        self.taken = []
        return True

    def begins_call(self, text: str) -> bool:
        """Whether an object, or the first of a list, begins as calls do that no marker announces. A grammar lets no
        text begin so, and so no call that it did not see to."""
        return self._beginning.match(text) is not None

    def add_objects(self, text: str) -> bool:
        """As `add`, for {name, arguments} (or parameters), or a list of such objects."""
        try:
            value = msgspec.json.decode(text, type=_Called | list[_Called])
        except msgspec.MsgspecError:
            return False
        calls = value if isinstance(value, list) else [value]
        pairs = [(each.name, (bytes(each.arguments) or bytes(each.parameters)).decode()) for each in calls]
        if not pairs or any(name not in self.names or not _is_object(arguments) for name, arguments in pairs):
            return False
        for pair in pairs:
            self.add(*pair)
        return True

    def peek(self) -> Reading[str]:
        """The next character that is no white space, "" at the end. White space before it is taken."""
        while True:
            num_spaces = len(self.rest) - len(self.rest.lstrip(SPACE))
            if num_spaces:
                self.take(num_spaces)
            if self.rest or self.is_over:
                return self.rest[:1]
            yield

    def word(self, *words: str) -> Reading[str]:
        """Take the one of `words` that comes next behind white space; "" (and only white space taken): none does."""
        yield from self.peek()
        while True:
            for word in words:  # the longest first
                if self.rest.startswith(word):
                    return self.take(len(word))
                if word.startswith(self.rest) and not self.is_over:
                    break
            else:
                return ""
            yield

    def name(self, *ends: str) -> Reading[tuple[str, str]]:
        """A name and the one of `ends` behind it, both taken; ("", "") when it is too long or never ends."""
        yield from self.peek()
        while True:
            found = sorted((at, end) for end in ends if (at := self.rest.find(end)) >= 0)
            if found and found[0][0] <= MAX_NAME:
                name = self.take(found[0][0]).strip()
                return name, self.take(len(found[0][1]))
            if self.is_over or len(self.rest) > MAX_NAME + max(map(len, ends)):
                return "", ""
            yield

    def value(self, first_keys: Sequence[str] | None = None) -> Reading[str]:
        """A whole JSON object or array; "" when what comes is none."""
        yield from self.peek()
        scan, pieces = Scan(first_keys), []
        while True:
            pieces.append(self.take(scan.push(self.rest)))
            if scan.is_complete:
                return "".join(pieces)
            if scan.is_broken or self.is_over:
                return ""
            yield


class CallParser:
    """One choice's text → text and calls. `names`: of the tools that may be called."""

    def __init__(self, dialect: Dialect, names: Iterable[str]) -> None:
        self._dialect = dialect
        self._source = Source(names)
        self._reading: Reading[bool] | None = None
        self._parts: list[Part] = []
        self._space = ""  # at the end of the text so far
        self._is_first = True  # nothing but white space came yet
        self._has_called = False
        self._is_behind_call = False

    def push(self, text: str) -> list[Part]:
        """What is certain with this text."""
        for at in range(0, len(text), _MOST_CHARS):
            self._source.rest += text[at : at + _MOST_CHARS]
            self._advance()
        parts, self._parts = self._parts, []
        return parts

    def flush(self) -> list[Part]:
        """What was held back, when nothing follows."""
        self._source.is_over = True
        self._advance()
        if self._space and not self._has_called:
            self._parts.append(self._space)
        return self.push("")

    def _advance(self) -> None:
        while self._reading is not None or self._find():
            if self._reading is None:
                self._reading = self._dialect.read(self._source)
            try:
                next(self._reading)
            except StopIteration as end:
                self._reading = None
                self._collect()
                if not end.value:
                    self._emit("".join(self._source.taken))
                self._source.taken = []
            else:
                self._collect()
                return

    def _collect(self) -> None:
        if self._source.calls:
            self._parts += self._source.calls
            self._source.calls = []
            self._space, self._has_called, self._is_behind_call = "", True, True
            self._is_first = False

    def _find(self) -> bool:
        """Emit what comes before a call and take its trigger; False: none is there yet."""
        source, dialect = self._source, self._dialect
        if self._is_first and dialect.first:
            begin = source.rest.lstrip(SPACE)
            if begin and begin[0] in dialect.first:
                self._is_first = False
                self._emit(source.rest[: -len(begin)])
                source.rest = begin
                return True
        found = [(at, -len(trigger)) for trigger in dialect.triggers if (at := source.rest.find(trigger)) >= 0]
        if found:
            at, length = min(found)
            self._emit_next(at)
            source.take(-length)
            return True
        self._emit_next(len(source.rest) - (0 if source.is_over else _num_begun(source.rest, dialect.triggers)))
        return False

    def _emit_next(self, num_chars: int) -> None:
        source = self._source
        text, source.rest = source.rest[:num_chars], source.rest[num_chars:]
        self._emit(text)

    def _emit(self, text: str) -> None:
        """Text for the reader, but for white space at its end, which nobody wants before a call or behind one."""
        text = self._space + text
        if self._is_behind_call:
            text = text.lstrip(SPACE)
        certain = text.rstrip(SPACE)
        self._space = text[len(certain) :]
        if certain:
            self._is_first = self._is_behind_call = False
            self._parts.append(certain)


class _Called(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"")
    parameters: msgspec.Raw = msgspec.Raw(b"{}")


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.MsgspecError, RecursionError):
        return False


def _num_begun(text: str, words: Iterable[str]) -> int:
    """Characters at the end of `text` that may be the beginning of one of `words`."""
    longest = min(len(text), max(map(len, words), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(word.startswith(text[-n:]) for word in words)), 0)
