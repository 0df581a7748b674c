"""Chat messages to the text a model was trained on, through the model's own template.

Owns the values that a template gets, and the rule that a caller's text never becomes a special token. Templates come
from the model's files only, never from a request. Knows nothing of token ids.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from tripos.errors import ContextLengthExceeded, InvalidRequest, ModelRefused, TemplateFailed, TemplateRefused
from tripos.models.text.sandbox import RenderingFailed, Template, TemplateRefusal
from tripos.models.text.template_budget import MAX_OUTPUT_CHARS, BudgetExceeded, strings_in
from tripos.models.text.template_probe import CallForm, Habits
from tripos.types import Message

MAX_ARG_CHARS = 1024

# For models without a template: each message as "role: content", then the generation prompt.
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_OWN_NAMES = frozenset(("messages", "tools", "add_generation_prompt", "bos_token", "eos_token"))
# Never template arguments: they are arguments of other software's template functions, or name another template.
_REFUSED_ARGS = _OWN_NAMES | {
    "chat_template", "conversation", "documents", "tokenize", "return_dict", "return_tensors", "padding",
    "truncation", "max_length", "tokenizer_kwargs", "continue_final_message", "raise_exception", "strftime_now",
}  # fmt: skip
_NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))  # Unicode excludes them from text for interchange


class ChatTemplate:
    """A model's template, compiled once. Safe to use from several threads."""

    def __init__(
        self,
        source: str | None,
        special_tokens: Collection[str] = (),
        bos_token: str = "",
        eos_token: str = "",
        file: str = "chat_template",
    ) -> None:
        """Raises ModelRefused when the template cannot be compiled."""
        self.source = PLAIN_TEMPLATE if source is None else source
        self.is_plain = source is None  # the model has none
        self.file = file
        self._globals = {"bos_token": bos_token, "eos_token": eos_token}
        self._special = sorted((token for token in special_tokens if token), key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, self._special)) or r"(?!)")
        try:
            self._template = Template(self.source)
        except ValueError as problem:
            raise ModelRefused(f"{file}: {problem}") from problem
        self.arg_names = self._template.names - _REFUSED_ARGS
        self._habits = Habits(self.source, self._render)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        template_args: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
    ) -> Rendered:
        """The prompt's text. Arguments that the template does not read have no effect. `continue_final_message`: the
        text ends with the last message's content. Raises InvalidRequest for messages that the template refuses, for
        arguments that a request may not set, and for a template that exceeds its budget."""
        self._check_args(template_args or {})
        self._check_form()
        if continue_final_message:
            messages = _marked(messages)
        values: dict[str, Any] = {
            **{name: value for name, value in (template_args or {}).items() if name in self.arg_names},
            "messages": self._habits.as_dicts(messages, CallForm()),
            "tools": self._describe(tools) or None,
        }
        if _num_chars(values) > MAX_OUTPUT_CHARS:
            raise ContextLengthExceeded(f"the messages have more than {MAX_OUTPUT_CHARS} characters", param="messages")
        values["add_generation_prompt"] = add_generation_prompt
        cut = _cut if continue_final_message else str
        text = cut(self._render_turns(values, messages))
        disguise = self._disguise(values, text)
        if not disguise:
            return Rendered(text)
        disguised = cut(self._render(_translated(values, disguise)))
        undisguise = {ord(new): chr(old) for old, new in disguise.items()}
        same_tokens = self._special_pattern.findall(disguised) == self._special_pattern.findall(text)
        same_text = disguised.translate(undisguise) == text
        # A template that searches messages for "<...>" renders disguised ones differently: no special token is spelled
        # then.
        if same_tokens and (same_text or not any(map(self._special_pattern.search, strings_in(values)))):
            return Rendered(text)
        return Rendered(text, self._parts(disguised, undisguise))

    def _check_form(self) -> None:
        form = self._habits.form("user")
        if not (form.as_text or form.as_parts):
            raise InvalidRequest(
                f"the model's chat template ({self.file}) does not render the content of user messages, neither as "
                "text nor as a list of parts: send a prompt to /v1/completions, or give the model another template",
                code="unsupported_template",
                param="messages",
            )

    def _describe(self, tools: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Tools as the template takes them: a missing description becomes an empty one only where the template needs
        it."""
        bare = [tool for tool in tools if "description" not in tool.get("function", {"description": ""})]
        if not bare or not self._habits.wants_description:
            return list(tools)
        return [
            {**tool, "function": {"description": "", **tool["function"]}} if tool in bare else tool for tool in tools
        ]

    def _check_args(self, args: Mapping[str, Any]) -> None:
        for name, value in args.items():
            if name in _REFUSED_ARGS:
                problem = f"{name[:40]!a} may not be set in a request"
            elif not isinstance(value, str | bool | int | float | None):
                problem = f"{name} must be a string, number, boolean or null"
            elif (isinstance(value, str) and len(value) > MAX_ARG_CHARS) or (
                isinstance(value, int | float) and not abs(value) < 2**63
            ):
                problem = f"{name} is longer than {MAX_ARG_CHARS} characters or no finite 64-bit number"
            else:
                continue
            raise InvalidRequest(problem, code="invalid_template_args", param="chat_template_kwargs")

    def _render(self, values: Mapping[str, Any]) -> str:
        try:
            return self._template.render({**self._globals, **values})
        except TemplateRefusal as problem:
            reason = f"refuses these messages: {str(problem)[:200]}"
            raise TemplateRefused(f"the model's chat template {reason}", param="messages") from None
        except BudgetExceeded as problem:
            reason = f"exceeds its limits on these messages: {problem}"
        except RenderingFailed as problem:
            reason = f"fails on these messages: {str(problem)[:200]}"
            raise TemplateFailed(f"the model's chat template {reason}", param="messages") from None
        raise InvalidRequest(f"the model's chat template {reason}", param="messages")

    def _render_turns(self, values: dict[str, Any], messages: Sequence[Message]) -> str:
        """As `_render`. Many templates accept a system message only as the first one and drop or refuse others, which
        agents send anywhere. A system message that the template does not show becomes a user message in its place.
        """
        if not any(message.role == "system" for message in messages[1:]):
            return self._render_calls(values, messages)
        systems = [message.content or "" for message in messages if message.role == "system"]
        try:
            text = self._render_calls(values, messages)
            if all(each.strip() in text for each in systems):
                return text
        except TemplateRefused:
            pass
        plainer = with_one_system(messages)
        values["messages"] = self._habits.as_dicts(plainer, CallForm())
        return self._render_calls(values, plainer)

    def _render_calls(self, values: dict[str, Any], messages: Sequence[Message]) -> str:
        """As `_render`, with the tool calls in one form after the other until the template renders them; `values` keeps
        the last form.
        """
        if not any(message.tool_calls for message in messages):
            return self._render(values)
        for form in self._habits.call_forms:
            values["messages"] = self._habits.as_dicts(messages, form)
            try:
                return self._render(values)
            except TemplateFailed as problem:
                failure = problem
        raise failure

    def _disguise(self, values: Mapping[str, Any], text: str) -> dict[int, str]:
        """First characters of special tokens that occur in the caller's text -> characters that do not occur in it."""
        first = {token[0] for token in self._special}
        held = {char for char in first if any(char in part for part in strings_in(values))}
        if not held:
            return {}
        free = [char for char in _NONCHARACTERS if char not in text and char not in self.source]
        free = [char for char in free if not any(char in part for part in strings_in(values))]
        if len(free) < len(held):
            raise InvalidRequest("the messages contain too many Unicode noncharacters", param="messages")
        return {ord(char): new for char, new in zip(sorted(held), free, strict=False)}

    def _parts(self, disguised: str, undisguise: Mapping[int, str]) -> tuple[tuple[str, bool], ...]:
        """(text, whether it is a special token of the template) in order, with the caller's characters restored."""
        parts: list[tuple[str, bool]] = []
        at = 0
        for match in self._special_pattern.finditer(disguised):
            parts += [(disguised[at : match.start()].translate(undisguise), False), (match[0], True)]
            at = match.end()
        parts.append((disguised[at:].translate(undisguise), False))
        return tuple(part for part in parts if part[0])


@dataclass(frozen=True)
class Rendered:
    """A prompt's text. Where the caller's text spells special tokens, `parts` separates the template's own from it."""

    text: str
    parts: tuple[tuple[str, bool], ...] = ()  # (text, is_special)


# Put behind the content to continue: a noncharacter, and a space that shows whether the template trims content.
_MARK = "\uffff "


def _marked(messages: Sequence[Message]) -> list[Message]:
    """Messages with a mark behind the last one's content. Raises InvalidRequest for one that cannot be continued."""
    last = messages[-1]
    if last.role != "assistant" or not last.content or last.tool_calls:
        message = "continue_final_message: the last message must be the assistant's, with text and no calls"
        raise InvalidRequest(message, param="continue_final_message")
    return [*messages[:-1], replace(last, content=last.content + _MARK, parts=())]


def _cut(text: str) -> str:
    """The text before the mark; without white space at its end where the template trims content."""
    before, mark, behind = text.rpartition(_MARK[0])
    if not mark:
        message = "continue_final_message: the model's chat template does not show the last message as it is"
        raise InvalidRequest(message, param="continue_final_message")
    return before if behind.startswith(_MARK[1]) else before.rstrip()


def with_one_system(messages: Sequence[Message]) -> list[Message]:
    """The first system messages as one; later ones become user messages, which are joined with their neighbours."""
    made: list[Message] = []
    for message in messages:
        role = "user" if message.role == "system" and any(each.role != "system" for each in made) else message.role
        last = made[-1] if made else None
        if last is not None and last.role == role and role in ("system", "user"):
            content = "\n\n".join(each.content for each in (last, message) if each.content)
            made[-1] = replace(last, content=content, parts=())
        else:
            made.append(replace(message, role=role))
    return made


def _num_chars(values: Any) -> int:
    return sum(map(len, strings_in(values)))


def _translated(value: Any, table: Mapping[int, str]) -> Any:
    """The value with characters replaced in all strings of the caller; keys that are identifiers stay."""
    if isinstance(value, str):
        return value.translate(table)
    if isinstance(value, Mapping):
        return {
            key if key.isidentifier() else key.translate(table): _translated(item, table) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_translated(item, table) for item in value]
    return value
