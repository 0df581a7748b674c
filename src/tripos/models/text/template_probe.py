"""Which form of messages a chat template reads, found by rendering short conversations: content as text or as a list of
parts, the arguments of tool calls as objects or as text, and the value of missing content.

Knows nothing of how a template is rendered (chat.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tripos.errors import InvalidRequest
from tripos.types import Message, ToolCall

# (values) → the prompt's text; raises InvalidRequest.
Render = Callable[[Mapping[str, Any]], str]

# Words that no template contains: the content of a test conversation, and one that only a printed list shows.
_WORD = {role: f"wordof{role}quzz" for role in ("user", "system", "assistant", "tool")}
_SECOND, _KEY = "secondpartquzz", "keyofpartquzz"
_NAME, _ARGUMENT = "nameofcallquzz", "valueofcallquzz"
_TALKS = {"user": ("user",), "system": ("system", "user"), "assistant": ("user", "assistant", "user")}
_CALLS = (
    Message(role="user", content=_WORD["user"]),
    Message(role="assistant", tool_calls=(ToolCall(id="abcdefghi", name=_NAME, arguments=f'{{"a": "{_ARGUMENT}"}}'),)),
    Message(role="tool", content=_WORD["tool"], tool_call_id="abcdefghi"),
)
_PARAMETERS = {"type": "object", "properties": {"a": {"type": "string"}}}
_TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": _PARAMETERS}}]


@dataclass(frozen=True)
class Form:
    """How a template shows the content of a role's messages."""

    as_text: bool = True
    as_parts: bool = False  # a list of one
    as_several: bool = False  # a longer list


@dataclass(frozen=True)
class CallForm:
    """How a template takes an assistant's tool calls. `empty`: the value of missing content; "missing": no such key."""

    has_objects: bool = True  # arguments as objects, else as text
    empty: str | None = "missing"


# In the order in which they are tried: as transformers does, and as what some templates ask for instead.
_CALL_FORMS = tuple(CallForm(has_objects, empty) for has_objects in (True, False) for empty in ("missing", "", None))


class Habits:
    """The forms that one template reads. Test conversations are rendered on first use."""

    def __init__(self, source: str, render: Render) -> None:
        self._reads_content = "content" in source
        self._render = render
        self._forms: dict[str, Form] = {}

    def form(self, role: str) -> Form:
        """The form of a role's content; the user's where the template shows none of the role's."""
        role = role if role in _TALKS else "user"
        if role not in self._forms:
            found = self._find_form(role) if self._reads_content else Form()
            is_seen = role == "user" or found.as_text or found.as_parts
            self._forms[role] = found if is_seen else self.form("user")
        return self._forms[role]

    @cached_property
    def call_forms(self) -> tuple[CallForm, ...]:
        """All forms, the best first: it shows all of a call and its result, and no value as Python prints it."""
        return tuple(sorted(_CALL_FORMS, key=lambda form: -self._score(form)))

    @cached_property
    def wants_description(self) -> bool:
        """Whether the template fails on a tool without a description, and not on one whose description is empty."""
        bare, described = ([{"type": "function", "function": {"name": "f", **more, "parameters": _PARAMETERS}}]
                      for more in ({}, {"description": ""}))  # fmt: skip
        talk = self.as_dicts(_CALLS[:1], CallForm())
        return self._try(talk, bare) is None and self._try(talk, described) is not None

    def as_dicts(self, messages: Sequence[Message], calls: CallForm) -> list[dict[str, Any]]:
        """Messages as the dicts that the template reads, without missing parts."""
        return [_as_dict(message, self.form(message.role), calls) for message in messages]

    def _find_form(self, role: str) -> Form:
        word = _WORD[role]
        shown = [self._talk(role, content) for content in (word, _parts(word), _parts(word, _SECOND))]
        if not any(
            text is not None for text in shown
        ):  # the template refuses such a conversation; a request gets its error
            return Form()
        as_text, as_parts, as_several = (text is not None and word in text and _KEY not in text for text in shown)
        return Form(as_text, as_parts, as_several and _SECOND in (shown[2] or ""))

    def _talk(self, role: str, content: Any) -> str | None:
        """A conversation, rendered, in which a role says `content`; None: the template fails on it."""
        talk = []
        for each in _TALKS[role]:
            words = _WORD[each] if each == role or self.form(each).as_text else _parts(_WORD[each])
            talk.append({"role": each, "content": content if each == role else words})
        return self._try(talk)

    def _score(self, form: CallForm) -> int:
        """How much of a call the rendered text shows."""
        text = self._try(self.as_dicts(_CALLS, form), _TOOLS)
        if text is None:
            return -1
        is_raw = f"'{_ARGUMENT}'" in text or f'\\"{_ARGUMENT}' in text
        return 2 * sum(word in text for word in (_NAME, _ARGUMENT, _WORD["tool"])) - is_raw

    def _try(self, messages: Sequence[Mapping[str, Any]], tools: Any = None) -> str | None:
        """A conversation, rendered, in lower case; None: the template fails on it."""
        try:
            return self._render({"messages": messages, "tools": tools, "add_generation_prompt": True}).lower()
        except InvalidRequest:
            return None


def _as_dict(message: Message, form: Form, calls: CallForm) -> dict[str, Any]:
    result: dict[str, Any] = {"role": message.role}
    if message.content is not None or not message.tool_calls:
        result["content"] = _content(message, form)
    elif calls.empty != "missing":
        result["content"] = calls.empty
    if message.name is not None:
        result["name"] = message.name
    if message.tool_call_id is not None:
        result["tool_call_id"] = message.tool_call_id
    if message.reasoning is not None:  # under every name by which templates read it
        result |= dict.fromkeys(("reasoning_content", "reasoning", "thinking"), message.reasoning)
    if message.tool_calls:
        read = _parsed if calls.has_objects else str
        result["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": read(call.arguments)}}
            for call in message.tool_calls
        ]
    return result


def _content(message: Message, form: Form) -> Any:
    """Content as text; as parts where the message has parts or the template reads nothing else."""
    text = message.content or ""
    if form.as_several and len(message.parts) > 1:
        return [{"type": "text", "text": part} for part in message.parts]
    return text if form.as_text else [{"type": "text", "text": text}]


def _parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text, "key": _KEY} for text in texts]


def _parsed(arguments: str) -> Any:
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return value if isinstance(value, dict) else arguments
