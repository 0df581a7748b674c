"""One choice's Deltas as the engine makes them → Deltas with text and tool calls apart, whose arguments are valid."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec.structs import replace

from tripos.dialects.arguments import Arguments
from tripos.dialects.dialect import Dialect
from tripos.dialects.parser import CallParser, Part, ToolText
from tripos.errors import AnswerMismatch
from tripos.schema.conformance import text_violation
from tripos.types import Delta, Event, Finish, FinishReason, ToolCall


@dataclass(frozen=True)
class OutputFormat:
    """How one answer is to be read. `call_salt` makes the ids of its calls unique."""

    dialect: Dialect | None = None  # None: no call is looked for
    tool_names: tuple[str, ...] = ()
    arguments: Mapping[str, Arguments] = field(default_factory=dict)  # of the tools that may be called
    answer_schema: Any = True  # of an answer that calls nothing; true: any text
    hides_reasoning: bool = False
    call_salt: str = ""


class OutputParser:
    """Gives what is certain of one choice; what was held back comes with the Delta that has the finish_reason."""

    def __init__(self, format: OutputFormat, index: int = 0) -> None:
        self._format = format
        self._index = index
        self._parser = CallParser(format.dialect, format.tool_names) if format.dialect is not None else None
        self._num_calls = 0
        self._texts: list[str] = []  # of an answer that has a schema

    def parse(self, delta: Delta) -> list[Delta]:
        """One Delta, and a further one for each text behind a call: within a Delta the text precedes the calls.

        Raises AnswerMismatch for a call, or an answer, that does not follow its schema.
        """
        reasoning = "" if self._format.hides_reasoning else delta.reasoning
        if self._parser is None:
            return [delta if reasoning == delta.reasoning else replace(delta, reasoning=reasoning)]
        parts = self._parser.push(delta.text)
        if delta.finish_reason is not None:
            parts += self._parser.flush()
        groups = _text_before_calls(parts)
        if self._format.answer_schema is not True:
            self._texts += [text for text, _ in groups]
        (text, written), *behind = groups
        deltas = [replace(delta, text=text, reasoning=reasoning, tool_calls=self._calls(written), finish_reason=None)]
        deltas += [Delta(index=delta.index, text=text, tool_calls=self._calls(calls)) for text, calls in behind]
        if delta.finish_reason is not None:
            self._check_answer(delta.finish_reason)
            reason = self.finish_reason(delta.finish_reason)
            deltas[-1] = replace(deltas[-1], finish_reason=reason, stop=delta.stop)
        return deltas

    def finish_reason(self, reason: FinishReason) -> FinishReason:
        """The reason of the choice: that of an answer which calls tools says so."""
        return "tool_calls" if self._num_calls and reason == "stop" else reason

    def _check_answer(self, reason: FinishReason) -> None:
        if self._format.answer_schema is not True and reason == "stop" and not self._num_calls:
            _check(self._format.answer_schema, "".join(self._texts), "the answer does not match its schema")

    def _calls(self, written: Sequence[ToolText]) -> tuple[ToolCall, ...]:
        calls = []
        for call in written:
            known = self._format.arguments.get(call.name)
            message = f"the call of {call.name} does not match its parameters"
            _check(True if known is None else known.schema, call.arguments, message)
            calls.append(ToolCall(id=self._id(), name=call.name, arguments=call.arguments))
            self._num_calls += 1
        return tuple(calls)

    def _id(self) -> str:
        """Unlike any other answer's, and the same however the text came."""
        salt = f"{self._format.call_salt}/{self._index}/{self._num_calls}".encode()
        digest = hashlib.sha256(salt).hexdigest()
        num_chars = self._format.dialect.num_id_chars if self._format.dialect is not None else 0
        return digest[:num_chars] if num_chars else f"call_{digest[:24]}"


class CallOutput:
    """The output of one call, whose choices have a parser each."""

    def __init__(self, format: OutputFormat, num_choices: int) -> None:
        self._parsers = [OutputParser(format, index) for index in range(num_choices)]

    def parse(self, event: Event) -> Sequence[Event]:
        """The events that the reader gets for one of the engine's. Raises AnswerMismatch."""
        if type(event) is Delta:
            return self._parsers[event.index].parse(event)
        if type(event) is Finish:
            return (replace(event, reason=self._parsers[0].finish_reason(event.reason)),)
        return (event,)


def _text_before_calls(parts: Sequence[Part]) -> list[tuple[str, list[ToolText]]]:
    """The parts in their order, as (text, calls behind it); at least one such pair."""
    groups: list[tuple[str, list[ToolText]]] = [("", [])]
    for part in parts:
        text, calls = groups[-1]
        if not isinstance(part, str):
            calls.append(part)
        elif calls:
            groups.append((part, []))
        else:
            groups[-1] = (text + part, calls)
    return groups


def _check(schema: Any, text: str, message: str) -> None:
    violation = text_violation(schema, text)
    if violation is not None:
        raise AnswerMismatch(f"{message} ({violation}): ask again, with another seed")
