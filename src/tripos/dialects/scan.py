"""Where a JSON object or array ends, found as its text comes, in time linear in its length.

Fails at the first character with which no JSON can go on, so that nothing is held back in vain. It does not judge
numbers and escapes; whoever reads the whole value does.
"""

from __future__ import annotations

import re
from collections.abc import Collection

MAX_DEPTH = 64

_SPACE = re.compile(r"[ \t\r\n]*")
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')  # of a string
_SCALAR = re.compile(r"[0-9a-zA-Z+.\-]*")  # of a number or literal
_LITERALS = ("true", "false", "null")


class Scan:
    """Feed text with `push` until `is_complete` or `is_broken`. `first_keys`: what the first key of an outermost
    object may be; None: anything.
    """

    def __init__(self, first_keys: Collection[str] | None = None) -> None:
        self.is_complete = False
        self.is_broken = False
        self._first_keys = first_keys
        self._open: list[str] = []  # the brackets that will close what is open
        self._state = "begin"
        self._word = ""  # of the first key, or a scalar
        self._is_key = False  # whether the string is one

    def push(self, text: str) -> int:
        """How many characters of `text` belong to the value."""
        at = 0
        while at < len(text) and not (self.is_complete or self.is_broken):
            if self._state == "string":
                at = self._read_string(text, at)
            elif self._state == "escape":
                self._state, at = "string", at + 1
            elif self._state == "scalar":
                at = self._read_scalar(text, at)
            else:
                at = _end(_SPACE, text, at)
                if at < len(text):
                    self._read_sign(text[at])
                    at += not self.is_broken and self._state != "scalar"
        return at

    def _read_string(self, text: str, at: int) -> int:
        end = _end(_PLAIN, text, at)
        if self._first_keys is not None and self._is_key:
            self._word += text[at:end]
        if end == len(text):
            return end
        if text[end] == '"':
            self._end_string()
        elif text[end] == "\\":
            self._state = "escape"
        else:
            self.is_broken = True
        return end + 1

    def _end_string(self) -> None:
        if not self._is_key:
            self._state = "after"
            return
        self._state = "colon"
        if self._first_keys is not None:
            self.is_broken = self._word not in self._first_keys
            self._first_keys = None

    def _read_scalar(self, text: str, at: int) -> int:
        end = _end(_SCALAR, text, at)
        self._word += text[at : min(end, at + 6)] if len(self._word) < 6 else ""
        is_literal = self._word[0].isalpha()
        self.is_broken = is_literal and not any(word.startswith(self._word) for word in _LITERALS)
        if end < len(text):
            self._state = "after"
            self.is_broken = self.is_broken or (is_literal and self._word not in _LITERALS)
        return end

    def _read_sign(self, char: str) -> None:
        """One character between strings and scalars."""
        state = self._state
        if char in "]}" and self._open and self._open[-1] == char and state in ("after", "first key", "first item"):
            self._open.pop()
            self._state = "after"
            self.is_complete = not self._open
        elif state == "begin" and char in "[{":
            self._enter(char)
        elif state in ("value", "first item"):
            self._read_value(char)
        elif state in ("key", "first key") and char == '"':
            self._state, self._is_key, self._word = "string", True, ""
        elif state == "colon" and char == ":":
            self._state = "value"
        elif state == "after" and char == ",":
            self._state = "key" if self._open[-1] == "}" else "value"
        else:
            self.is_broken = True

    def _read_value(self, char: str) -> None:
        if char in "[{":
            self._enter(char)
        elif char == '"':
            self._state, self._is_key = "string", False
        elif char in "-0123456789tfn":
            self._state, self._word = "scalar", ""
        else:
            self.is_broken = True

    def _enter(self, char: str) -> None:
        self._open.append("}" if char == "{" else "]")
        self._state = "first key" if char == "{" else "first item"
        self.is_broken = len(self._open) > MAX_DEPTH


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where a pattern that always matches ends."""
    match = pattern.match(text, at)
    return at if match is None else match.end()
