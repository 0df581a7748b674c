"""One choice's Deltas → what a client sees apart: reasoning, text and tool calls with arguments that are valid."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import msgspec

from tripos.errors import AnswerMismatch
from tripos.schema.conformance import text_violation
from tripos.types import Delta, ToolCall
from tripos.wire.tools.dialects import DIALECTS
from tripos.wire.tools.parser import Parser, Part
from tripos.wire.tools.reasoning import REASONING, ReasoningSplit


class Speech(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer's text is to be read. `call_salt` makes the ids of its calls its own."""

    tool_dialect: str = ""  # "": no call is looked for
    tool_names: tuple[str, ...] = ()
    arguments: dict[str, Any] = {}  # name of a tool: the schema that is enforced
    answer: Any = True  # the schema of an answer that calls nothing; true: any text
    reasoning_dialect: str = ""  # "": all text is the answer
    hides_reasoning: bool = False
    call_salt: str = ""


PLAIN = Speech()


class Said(msgspec.Struct, frozen=True):
    """What is new."""

    reasoning: str = ""
    text: str = ""
    calls: tuple[ToolCall, ...] = ()


def join(several: Sequence[Said]) -> Said:
    """What was said one after the other, as one."""
    return Said(
        "".join(said.reasoning for said in several),
        "".join(said.text for said in several),
        tuple(call for said in several for call in said.calls),
    )


class Reader:
    """Gives what is certain; what was held back comes with the Delta that has the finish_reason."""

    def __init__(self, speech: Speech, index: int = 0) -> None:
        self._speech = speech
        self._index = index
        self._split: ReasoningSplit | None = None
        self._parser: Parser | None = None
        self._is_begun = False
        self._num_calls = 0
        self._texts: list[str] = []  # of an answer that has a schema
        if speech.tool_dialect:
            self._parser = Parser(DIALECTS[speech.tool_dialect], speech.tool_names)

    def take(self, delta: Delta) -> Said:
        """Raises AnswerMismatch for a call, or an answer, that does not follow its schema."""
        if not self._is_begun:
            self._is_begun = True
            if self._speech.reasoning_dialect:
                self._split = ReasoningSplit(REASONING[self._speech.reasoning_dialect], delta.in_reasoning)
        is_last = delta.finish_reason is not None
        reasoning, text = "", delta.text
        if self._split is not None:
            reasoning, text = self._split.push(text)
            if is_last:
                rest = self._split.flush()
                reasoning, text = reasoning + rest[0], text + rest[1]
        if self._speech.hides_reasoning:
            reasoning = ""
        if self._parser is None:
            return Said(reasoning, text)
        parts = self._parser.push(text)
        if is_last:
            parts += self._parser.flush()
        said = Said(reasoning, "".join(part for part in parts if isinstance(part, str)), self._calls(parts))
        if self._speech.answer is not True:
            self._texts.append(said.text)
            if delta.finish_reason == "stop" and not self.has_called:
                _check(self._speech.answer, "".join(self._texts), "the answer does not match its schema")
        return said

    @property
    def has_called(self) -> bool:
        return self._num_calls > 0

    def finish_reason(self, reason: str) -> str:
        """The reason as clients expect it: that of an answer which calls tools says so."""
        return "tool_calls" if self.has_called and reason == "stop" else reason

    def _calls(self, parts: Sequence[Part]) -> tuple[ToolCall, ...]:
        calls = []
        for part in parts:
            if not isinstance(part, str):
                schema = self._speech.arguments.get(part.name, True)
                _check(schema, part.arguments, f"the call of {part.name} does not match its parameters")
                calls.append(ToolCall(id=self._id(), name=part.name, arguments=part.arguments))
                self._num_calls += 1
        return tuple(calls)

    def _id(self) -> str:
        """Unlike any other answer's, and the same however the text came."""
        salt = f"{self._speech.call_salt}/{self._index}/{self._num_calls}".encode()
        digest = hashlib.sha256(salt).hexdigest()
        num_chars = DIALECTS[self._speech.tool_dialect].num_id_chars
        return digest[:num_chars] if num_chars else f"call_{digest[:24]}"


def _check(schema: Any, text: str, message: str) -> None:
    violation = text_violation(schema, text)
    if violation is not None:
        raise AnswerMismatch(f"{message} ({violation}): ask again, with another seed")
