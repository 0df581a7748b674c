"""A grammar (Lark as llguidance reads it) for answers that call tools: whatever is called has arguments of its schema.

With a free choice any text may come until a call begins, and behind a call the answer may end, go on or call again, as
the model likes: nothing but a model's own mark begins a call. Descriptions never get here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from tripos.dialects.arguments import Arguments
from tripos.dialects.dialect import ARGUMENTS, NAME, Dialect, Frame
from tripos.dialects.parser import CALL_KEY, SOME_SPACE
from tripos.errors import InvalidRequest
from tripos.types import Constraint, ToolChoice

MAX_CALLS = 32  # in one answer
_ANYTHING = "/(?s:.*)/"


def constrain(
    arguments: Mapping[str, Arguments],
    choice: ToolChoice,
    dialect: Dialect,
    marker_ids: Mapping[str, int],
    answer: Constraint | None = None,
) -> Constraint:
    """The constraint of an answer that may, or must, call the tools whose arguments are given by name.

    `marker_ids`: those of the dialect's markers that are special tokens, which no text spells. `answer`: what must be
    matched where nothing is called. Raises InvalidRequest for an answer that cannot be told from a call.
    """
    writer = _Writer(dialect, marker_ids, tuple(arguments), is_parallel=choice.is_parallel)
    if choice.mode == "required":
        lines = writer.required()
    elif answer is not None:
        frames = tuple(frame for frame in dialect.form.frames if writer.is_distinct(frame))
        lines = [_answer_rule(answer, frames), *writer.answering(frames)]
    else:
        lines = writer.free()
    for i, each in enumerate(arguments.values()):
        lines.append(f"arguments_{i}: %json {each.source}")
    return Constraint(kind="lark", source="\n".join(lines) + "\n", param="tools")


def _answer_rule(answer: Constraint, frames: tuple[Frame, ...]) -> str:
    if answer.kind not in ("json_object", "json_schema") or not frames:
        message = (
            f"tools and an answer that must match a {answer.kind} cannot be told apart in this model's dialect: "
            "ask for one of them, or set tool_choice to none or required"
        )
        raise InvalidRequest(message, code="invalid_value", param="tools")
    schema = answer.source or json.dumps({"type": "object"})
    return f"answer: %json {schema}"


class _Writer:
    """Rules of one dialect for some tools. Texts between calls are lexemes that end where a call's mark does, so that
    a text and a mark are never in doubt."""

    def __init__(
        self, dialect: Dialect, marker_ids: Mapping[str, int], names: Sequence[str], *, is_parallel: bool
    ) -> None:
        self._form = dialect.form
        self._triggers = dialect.triggers
        self._first = dialect.first
        self._ids = marker_ids
        self._names = names
        self._most = MAX_CALLS if is_parallel else 1
        self._marker = re.compile("|".join(f"({re.escape(marker)})" for marker in marker_ids) or r"(?!)")

    def required(self) -> list[str]:
        """A call, and behind it what the model likes; the end where it may call no more."""
        frames = " | ".join(map(self._frame, self._form.frames))
        return [f"start: ({frames}) tail", *self._tail(ends=self._most == 1), *self._calls()]

    def answering(self, frames: Sequence[Frame]) -> list[str]:
        """The answer, or calls."""
        if not frames:
            return ["start: answer"]
        calls = " | ".join(map(self._frame, frames))
        return [f"start: answer | ({calls}) tail", *self._tail(), *self._calls()]

    def free(self) -> list[str]:
        """Text, or calls behind any text (at the beginning, where only that begins one)."""
        if not self._first:
            ways, lines = self._behind_text("text", "")
            return [f"start: {_upto(self._most, *ways)} text", *lines, *self._calls()]
        bracket = rf"(\[{SOME_SPACE})?" if self._form.lists else ""
        behind, lines = self._behind_text("text", f" & ~(/{SOME_SPACE}{bracket}/ CALL {_ANYTHING})")
        ways = ["text", *(f"{way} tail" for way in ("first", *behind))]
        for i, frame in enumerate(self._form.lists):
            ways.append(f"list{i} {self._rest(frame)}")
            lines += self._openings(f"list{i}", rf"{SOME_SPACE}{_regex(frame.opening)}{SOME_SPACE}")
        lines += self._openings("first", SOME_SPACE)
        return [f"start: {' | '.join(ways)}", *lines, *self._tail(), *self._calls()]

    def is_distinct(self, frame: Frame) -> bool:
        """Whether a frame begins as no JSON does."""
        return self._head(frame) in self._ids or frame.opening[:1] == "<"

    def _tail(self, *, ends: bool = False) -> list[str]:
        """What may follow the first call. `ends`: nothing."""
        if ends or self._form.is_whole:
            return ['tail: ""']
        never, lines, ways = "", [], []
        if self._form.chain:
            chain = f"{SOME_SPACE}{_regex(self._form.chain)}{SOME_SPACE}"
            never = f" & ~(/{chain}/ CALL {_ANYTHING})"
            ways, lines = ["chain"], self._openings("chain", chain)
        behind, rules = self._behind_text("after", never)
        return [f"tail: {_upto(self._most - 1, *ways, *behind)} after", *lines, *rules]

    def _behind_text(self, name: str, never: str) -> tuple[list[str], list[str]]:
        """Ways to call behind a text, and rules, among them one of this name for text that is no call. `never`: what
        neither begins with."""
        heads = {frame: head for frame in self._form.frames if (head := self._head(frame))}
        commits = "".join(f" & ~/(?s:.*){_regex(head)}(?s:.*)/" for head in heads.values())
        around = [f"<[{self._ids[each]}]>" for each in self._form.around if each in self._ids]
        upper, ways = name.upper(), []
        more = f" (({' | '.join(around)}) {upper})*" if around else ""
        lines = [f"{upper}: {_ANYTHING}{never}{commits}", f"{name}: {upper}{more}"]
        for i, (frame, head) in enumerate(heads.items()):
            rest = self._frame(frame, skip=frame.opening.index(head) + len(head))
            if head in self._ids:
                ways.append(f"{name} <[{self._ids[head]}]> {rest}")
                continue
            ways.append(f"{name}_{i} {rest}")
            lines += [f"{name}_{i}[lazy]: {upper}_{i}", f"{upper}_{i}: /(?s:.*){_regex(head)}/{never}"]
        return ways, lines

    def _calls(self) -> list[str]:
        """Every call, as the family writes it. Where no marker announces it, its name is a lexeme's end."""
        numbers = range(len(self._names))
        lines = [f"call: {' | '.join(f'call_{i}' for i in numbers)}"]
        if not self._first:
            return [*lines, *(f"call_{i}: {self._parts(i, self._form.call)}" for i in numbers)]
        at = self._form.call.index(NAME)
        before, behind = self._form.call[:at], self._form.call[at + 1 :]
        behind = (str(behind[0]).removeprefix('"'), *behind[1:])
        for i, name in enumerate(self._names):
            quoted = _quoted(f'{name}"')
            lines += [
                f"N{i}: {quoted}",
                f"r{i}: {self._parts(i, behind)}",
                f"call_{i}: {self._parts(i, before)} N{i} r{i}",
            ]
        return [*lines, f"KEY: /{CALL_KEY}/", f"CALL: KEY ({' | '.join(f'N{i}' for i in numbers)})"]

    def _parts(self, index: int, parts: Sequence[object]) -> str:
        places = {NAME: _quoted(self._names[index]), ARGUMENTS: f"arguments_{index}"}
        return " ".join(places.get(part) or self.text(str(part)) for part in parts)

    def _openings(self, name: str, before: str) -> list[str]:
        """A rule for a call that no marker announces: one lexeme up to the end of its name, which tells it from text,
        and then as the family writes it."""
        upper, numbers = name.upper(), range(len(self._names))
        return [
            f"{name}: {' | '.join(f'{upper}{i} r{i}' for i in numbers)}",
            *(f"{upper}{i}: {upper} N{i}" for i in numbers),
            f"{upper}: /{before}/ KEY",
        ]

    def _frame(self, frame: Frame, skip: int = 0) -> str:
        """A frame with its calls; `skip`: characters of it that are out already."""
        return " ".join(part for part in (self.text(frame.opening[skip:]), "call", self._rest(frame)) if part)

    def _rest(self, frame: Frame) -> str:
        """A frame behind its first call."""
        more = _upto(self._most - 1, f"{_spaced(frame.separator, SOME_SPACE)} call") if frame.separator else ""
        return " ".join(part for part in (more, _spaced(frame.closing) if frame.closing else "") if part)

    def _head(self, frame: Frame) -> str:
        """The last trigger in a frame's opening: behind it comes a call."""
        found = [(frame.opening.find(each), each) for each in self._triggers if each in frame.opening]
        return max(found, default=(0, ""))[1]

    def text(self, text: str) -> str:
        """Terminals for a text, special tokens by their ids."""
        parts = [part for part in self._marker.split(text) if part]
        return " ".join(f"<[{self._ids[part]}]>" if part in self._ids else _quoted(part) for part in parts)


def _upto(most: int, *ways: str) -> str:
    """So many of any ways, or fewer."""
    return f"({' | '.join(ways)}){f'{{0,{most}}}' if most > 1 else '?'}" if most else ""


def _spaced(text: str, behind: str = "") -> str:
    """A terminal for a text with any white space before it."""
    return f"/{SOME_SPACE}{_regex(text)}{behind}/"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _regex(text: str) -> str:
    return re.escape(text).replace("/", r"\/")
