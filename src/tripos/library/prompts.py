"""What callers of the library give: prompts, texts, conversations, sampling fields, tools, checked and made immutable.

Tested in tests/e2e/test_library.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from tripos.errors import InvalidRequest, shown
from tripos.types import Message, Sampling, Tool, ToolChoice

Conversation = Sequence[Message | Mapping[str, Any]]
"""Messages, also as dicts: {"role": ..., "content": ...}."""
TokenIds = Sequence[int] | npt.NDArray[np.integer[Any]]
Prompt = str | TokenIds | Conversation
Text = str | TokenIds


def sampling_with(sampling: Sampling, fields: dict[str, Any]) -> Sampling:
    """`sampling` with these fields instead of its own. Raises TypeError as a call with wrong arguments does."""
    if not fields:
        return sampling
    for name in fields:
        if name not in Sampling.__struct_fields__:
            import difflib

            near = difflib.get_close_matches(name, Sampling.__struct_fields__, 1)
            hint = f"did you mean {near[0]}?" if near else f"Sampling has {', '.join(Sampling.__struct_fields__)}"
            raise TypeError(f"{name} is no argument, and Sampling has no such field: {hint}")
    given = msgspec.structs.asdict(sampling) | fields
    if isinstance(given["stop"], str):
        given["stop"] = (given["stop"],)
    try:
        return msgspec.convert(given, Sampling)
    except msgspec.ValidationError as problem:
        raise TypeError(f"a field of Sampling has the wrong type: {problem}") from None


def listed(given: Any) -> list[Any]:
    """Several prompts, texts or conversations as they are, and one as a list of one."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        return [given]
    several = given if isinstance(given, np.ndarray) else list(given)
    if isinstance(given, Mapping) or (len(several) and (_is_token_id(several[0]) or _is_message(several[0]))):
        return [given if isinstance(given, Mapping) else several]
    return list(several)


def check_type(name: str, value: object, kind: Any) -> None:
    """Raises TypeError as a call with wrong arguments does."""
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{name} must be {getattr(kind, '__name__', kind)}, not {typed(value)}")


def check_encodable(text: str) -> None:
    """Raises InvalidRequest."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = f"the text holds half of a surrogate pair at character {error.start}: decode it as UTF-8 first"
        raise InvalidRequest(message, code="invalid_encoding", param="prompt") from None


def _is_token_id(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_message(value: object) -> bool:
    return isinstance(value, Message | Mapping)


def is_conversation(prompt: Any) -> bool:
    return isinstance(prompt, Sequence) and not isinstance(prompt, str) and all(map(_is_message, prompt))


def text_of(given: Any) -> str | tuple[int, ...]:
    """Text, or token ids. Raises InvalidRequest."""
    if isinstance(given, str):
        check_encodable(given)
        return given
    ids = tuple(given) if isinstance(given, Iterable) and not isinstance(given, Mapping | bytes) else (None,)
    if not all(map(_is_token_id, ids)):
        raise InvalidRequest(f"expected text or token ids, got {typed(given)}", code="invalid_type", param="prompt")
    return tuple(map(int, ids))


def frozen(prompt: Any) -> str | tuple[int, ...] | tuple[Message, ...]:
    if isinstance(prompt, str) or not is_conversation(prompt) or not prompt:
        return text_of(prompt)
    if all(isinstance(message, Message) for message in prompt):
        return tuple(prompt)
    from tripos.wire.openai.chat import read_messages  # 30 ms, and wanted only here

    if any(isinstance(message, Message) for message in prompt):
        raise InvalidRequest("messages are types.Message or dicts: not both in one conversation", param="messages")
    return read_messages(list(map(dict, prompt)))


def typed(value: object) -> str:
    return f"{type(value).__name__} {shown(value)}"


def tools_of(tools: Iterable[Tool | Mapping[str, Any]], choice: Any, is_parallel: bool) -> tuple[Any, ToolChoice]:
    """Tools, also as OpenAI's clients send them, and which of them may be called: none, auto, required, one's name, or
    OpenAI's object. Raises InvalidRequest.
    """
    from tripos.wire.fields import read, table
    from tripos.wire.openai.functions import CALLING, read_chat_tools

    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        choice = {"type": "function", "function": {"name": choice}}
    bodies = [_tool_body(tool) if isinstance(tool, Tool) else tool for tool in tools]
    body = {"tools": bodies, "tool_choice": choice, "parallel_tool_calls": is_parallel}
    return read_chat_tools(read(body, table(*CALLING), ignored=[]))


def _tool_body(tool: Tool) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": {**function, "strict": tool.is_strict}}
