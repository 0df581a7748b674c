"""What a chat is made of: messages, tools and their calls, and what a client asks of the model's reasoning.

A part of types.py, which everybody imports these structs from. Tested in tests/unit/dialects/test_stage.py.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A function call that the model made; arguments are the model's JSON text, inert."""

    id: str
    name: str
    arguments: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One chat message, already free of wire detail."""

    role: str
    content: str | None = None
    parts: tuple[str, ...] = ()  # that content was put together from, where it came as several
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str | None = None  # of an assistant's earlier turn, for templates that show it again


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the client runs and the model may call. `parameters` is a JSON Schema of an object."""

    name: str
    namespace: str = ""  # the client's own group of tools; `name` begins with it
    description: str = ""  # for the prompt only
    parameters: dict[str, Any] = {}
    path: str = "parameters"  # where the client wrote the parameters, for errors
    is_strict: bool = False  # all of `parameters` is enforced, or the request is refused


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which of a request's tools the model may call, whether it has to call one, and whether it may call several."""

    mode: Literal["none", "auto", "required"] = "auto"
    allowed: tuple[str, ...] | None = None  # names of tools; None: all
    is_parallel: bool = True


class ReasoningOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks of the model's reasoning. A model that does not reason ignores it, unless `required_by` is
    set.
    """

    is_on: bool | None = None  # None: the model decides
    effort: Effort | None = None
    max_tokens: int | None = None
    is_hidden: bool = False  # the reasoning is computed and counted, but not sent
    required_by: str = ""  # the client's field that requires a model that reasons


class ReasoningMarks(msgspec.Struct, frozen=True, kw_only=True):
    """The texts around a model's reasoning, which stands at the beginning of its output, and the reasoning's limit."""

    start: str
    end: str
    max_tokens: int | None = None  # then `end` is forced and the answer begins; None: no limit
