"""Patterns of JSON Schema, which are ECMA 262's, rewritten in the compiler's dialect of regular expressions.

Every class and escape is spelled out, so that the two dialects cannot differ on it. What a finite
automaton cannot do (look-around, back-references, edges inside a pattern) is refused by name.
"""

from __future__ import annotations

import re

MAX_DEPTH = 64  # of groups
_MAX_COUNT_DIGITS = 9  # of a repetition
_LAST = 0x10FFFF
_FLAG = "(?i)"
_DIGITS = ((0x30, 0x39),)
_WORD = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_LINE_ENDS = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_SPACE = (  # WhiteSpace and LineTerminator, 12.2 and 12.3
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
)  # fmt: skip
_CLASSES = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r"}
_QUANTIFIER = re.compile(r"[*+?]|\{\d+(?:,\d*)?\}")
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,8})\}|c([A-Za-z])|(0)(?!\d)")
_PROPERTY = re.compile(r"[pP]\{\w+(?:=\w+)?\}")
_GROUP = re.compile(r"\((?:\?(?::|P?<[A-Za-z_$][\w$]*>|(?P<flags>[a-z]*)[:)]|(?P<look><?[=!])))?")

Ranges = tuple[tuple[int, int], ...]


class PatternProblem(ValueError):
    """A pattern that is refused. `is_unsupported`: it is valid and cannot be enforced; `is_deep`: it is nested too
    deeply."""

    def __init__(self, cause: str, *, is_unsupported: bool = False, is_deep: bool = False) -> None:
        super().__init__(cause)
        self.is_unsupported = is_unsupported
        self.is_deep = is_deep


def translated(pattern: str) -> str:
    """The pattern for the compiler. Raises PatternProblem."""
    return _Translator(pattern).translated()


class _Part:
    """A piece of the result, and whether it is, begins with or ends with an edge of the text."""

    def __init__(self, text: str, *, begins: bool = False, ends: bool = False) -> None:
        self.text = text
        self.begins = begins
        self.ends = ends


class _Translator:
    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def translated(self) -> str:
        whole = self._alternatives(0)
        if self._at < len(self._pattern):
            raise PatternProblem(f"the ) at position {self._at} closes no group")
        return whole.text

    def _alternatives(self, depth: int) -> _Part:
        if depth > MAX_DEPTH:
            raise PatternProblem(f"groups are nested deeper than {MAX_DEPTH} levels", is_deep=True)
        parts = [self._sequence(depth)]
        while self._next() == "|":
            self._at += 1
            parts.append(self._sequence(depth))
        text = "|".join(part.text for part in parts)
        return _Part(text, begins=any(part.begins for part in parts), ends=any(part.ends for part in parts))

    def _sequence(self, depth: int) -> _Part:
        parts: list[_Part] = []
        while (char := self._next()) and char not in "|)":
            start = self._at
            part = self._atom(char, depth)
            if (part.begins and any(each.text != _FLAG for each in parts)) or (parts and parts[-1].ends):
                raise _edge(start)
            parts.append(self._repeated(part, start))
        text = "".join(part.text for part in parts)
        return _Part(text, begins=any(part.begins for part in parts), ends=bool(parts) and parts[-1].ends)

    def _repeated(self, part: _Part, start: int) -> _Part:
        found = _QUANTIFIER.match(self._pattern, self._at)
        if found is None:
            return part
        if part.text in "^$":
            raise _nothing_to_repeat(self._at, found[0], self._pattern)
        if part.begins or part.ends:
            raise _edge(start)
        low, _, high = found[0][1:-1].partition(",")
        if max(len(low), len(high)) > _MAX_COUNT_DIGITS:
            raise PatternProblem(f"the repetition at position {self._at} is too long", is_unsupported=True)
        if high and int(high) < int(low):
            raise PatternProblem(f"the repetition {found[0]} has a maximum below its minimum")
        self._at = found.end()
        if self._next() == "?":  # lazy: the set of matching texts is the same
            self._at += 1
        return _Part(part.text + found[0])

    def _atom(self, char: str, depth: int) -> _Part:
        if char == "(":
            return self._group(depth)
        if (found := _QUANTIFIER.match(self._pattern, self._at)) is not None:
            raise _nothing_to_repeat(self._at, found[0], self._pattern)
        self._at += 1
        if char == "^":
            return _Part("^", begins=True)
        if char == "$":
            return _Part("$", ends=True)
        if char == ".":
            return _Part(_set(_complement(_LINE_ENDS)))
        if char == "[":
            return _Part(self._class())
        return _Part(self._escape() if char == "\\" else _char(ord(char)))

    def _group(self, depth: int) -> _Part:
        start = self._at
        found = _GROUP.match(self._pattern, start)
        assert found is not None
        if found["look"] is not None:
            raise PatternProblem(f"the look-around at position {start} cannot be enforced", is_unsupported=True)
        flags = found["flags"]
        if flags not in (None, "", "i") or (self._pattern.startswith("(?", start) and found[0] == "("):
            raise PatternProblem(f"{self._pattern[start : start + 4]!r} at position {start} begins no group")
        self._at = found.end()
        if flags and found[0].endswith(")"):
            return _Part(_FLAG)  # an inline flag; not ECMA 262, but common
        inner = self._alternatives(depth + 1)
        if self._next() != ")":
            raise PatternProblem(f"the group at position {start} is not closed")
        self._at += 1
        return _Part(f"(?{flags or ''}:{inner.text})", begins=inner.begins, ends=inner.ends)

    def _class(self) -> str:
        """A class, from behind its `[`. A `[` inside is a character; the first `]` ends the class."""
        start, is_negated = self._at - 1, self._next() == "^"
        self._at += is_negated
        ranges: list[tuple[int, int]] = []
        properties: list[str] = []
        while self._next() != "]":
            low = self._member(start)
            if self._pattern.startswith("-", self._at) and not self._pattern.startswith("-]", self._at):
                self._at += 1
                high = self._member(start)
                if not isinstance(low, int) or not isinstance(high, int):
                    ranges.append((0x2D, 0x2D))  # a - next to a class is a character
                    _add(ranges, properties, low)
                    _add(ranges, properties, high)
                elif high < low:
                    raise PatternProblem(f"a range of the class at position {start} ends before it begins")
                else:
                    ranges.append((low, high))
            else:
                _add(ranges, properties, low)
        self._at += 1
        if not ranges and not properties:
            return _set(((0, _LAST),)) if is_negated else _set(())
        text = "".join(map(_range, ranges)) + "".join(properties)
        return f"[{'^' if is_negated else ''}{text}]"

    def _member(self, start: int) -> int | Ranges | str:
        """A code point, a class, or a Unicode property."""
        char = self._next()
        if not char:
            raise PatternProblem(f"the class at position {start} is not closed")
        self._at += 1
        if char != "\\":
            return ord(char)
        kind = self._next()
        if kind.lower() in _CLASSES and kind:
            self._at += 1
            ranges: Ranges = _CLASSES[kind.lower()]
            return ranges if kind.islower() else _complement(ranges)
        if (found := _PROPERTY.match(self._pattern, self._at)) is not None:
            self._at = found.end()
            return f"\\{found[0]}"
        if kind in ("b", "-"):
            self._at += 1
            return 0x08 if kind == "b" else 0x2D
        return self._code()

    def _escape(self) -> str:
        kind = self._next()
        if kind and kind.lower() in _CLASSES:
            self._at += 1
            ranges = _CLASSES[kind.lower()]
            return _set(ranges if kind.islower() else _complement(ranges))
        if (found := _PROPERTY.match(self._pattern, self._at)) is not None:
            self._at = found.end()
            return f"\\{found[0]}"
        if kind in ("b", "B"):
            cause = f"the edge of a word at position {self._at - 1} cannot be enforced"
            raise PatternProblem(cause, is_unsupported=True)
        if kind == "k" or (kind.isdecimal() and kind != "0"):
            raise PatternProblem(
                f"the back-reference at position {self._at - 1} cannot be enforced", is_unsupported=True
            )
        return _char(self._code())

    def _code(self) -> int:
        """The code point of an escape, behind its backslash."""
        start, kind = self._at - 1, self._next()
        found = _CODE.match(self._pattern, self._at)
        if found is not None:
            self._at = found.end()
            if found[4]:
                return ord(found[4]) % 32
            code = int(next(part for part in found.groups() if part is not None), 16)
            return self._joined(code, start)
        if kind in _CONTROLS and kind:
            self._at += 1
            return ord(_CONTROLS[kind])
        if not kind or (kind.isascii() and kind.isalnum()):
            shown = f"\\{kind}"
            raise PatternProblem(f"{shown!r} at position {start} is not an escape of ECMA 262")
        self._at += 1
        return ord(kind)

    def _joined(self, code: int, start: int) -> int:
        """The character of two escapes that form a surrogate pair."""
        if 0xD800 <= code < 0xDC00:
            found = re.compile(r"\\u([dD][c-fC-F][0-9A-Fa-f]{2})").match(self._pattern, self._at)
            if found is not None:
                self._at = found.end()
                return 0x10000 + ((code - 0xD800) << 10) + int(found[1], 16) - 0xDC00
        if code > _LAST or 0xD800 <= code < 0xE000:
            raise PatternProblem(f"the escape at position {start} is not a Unicode character")
        return code

    def _next(self) -> str:
        return self._pattern[self._at : self._at + 1]


def _edge(place: int) -> PatternProblem:
    cause = f"at position {place}, ^ or $ stands where no text can begin or end, or where it may be left out"
    return PatternProblem(cause, is_unsupported=True)


def _nothing_to_repeat(place: int, quantifier: str, pattern: str) -> PatternProblem:
    return PatternProblem(f"{quantifier!r} at position {place} of {pattern[:80]!r} has nothing to repeat")


def _add(ranges: list[tuple[int, int]], properties: list[str], member: int | Ranges | str) -> None:
    if isinstance(member, int):
        ranges.append((member, member))
    elif isinstance(member, str):
        properties.append(member)
    else:
        ranges += member


def _complement(ranges: Ranges) -> Ranges:
    found, at = [], 0
    for low, high in ranges:
        if at < low:
            found.append((at, low - 1))
        at = high + 1
    return (*found, (at, _LAST))


def _set(ranges: Ranges) -> str:
    return f"[{''.join(map(_range, ranges))}]" if ranges else r"[^\x{0}-\x{10ffff}]"


def _range(ends: tuple[int, int]) -> str:
    low, high = ends
    return _char(low) if low == high else f"{_char(low)}-{_char(high)}"


def _char(code: int) -> str:
    char = chr(code)
    return char if char.isascii() and char.isalnum() else f"\\x{{{code:x}}}"
