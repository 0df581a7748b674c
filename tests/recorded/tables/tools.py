"""Tools in the four dialects that have them, written by models of each family."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.recorded.request import Request, both, post

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}
FUNCTIONS: dict[str, dict[str, Any]] = {"get_weather": PARAMETERS, "now": {"type": "object", "properties": {}}}
FAMILIES = ("hermes", "hermes-two", "mistral", "mistral-list", "deepseek-r1", "deepseek-v31", "llama3", "generic")
USER: list[Any] = [{"role": "user", "content": "Will it rain?"}]
NESTED: list[Any] = [
    {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": schema}}
    for name, schema in FUNCTIONS.items()
]
FLAT: list[Any] = [{"type": "function", "name": name, "parameters": schema} for name, schema in FUNCTIONS.items()]
CLIENT: list[Any] = [{"name": name, "input_schema": schema} for name, schema in FUNCTIONS.items()]

CHAT, RESPONSES, MESSAGES, OLLAMA = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": USER, "max_tokens": 120, "tools": NESTED},
    RESPONSES: {"input": "Will it rain?", "max_output_tokens": 120, "tools": FLAT, "store": False},
    MESSAGES: {"messages": USER, "max_tokens": 120, "tools": CLIENT},
    OLLAMA: {"messages": USER, "tools": NESTED},
}
CHOICES: dict[str, dict[str, Any]] = {
    CHAT: {
        "none": {"tool_choice": "none"},
        "required": {"tool_choice": "required"},
        "one function": {"tool_choice": {"type": "function", "function": {"name": "now"}}},
        "allowed, auto": {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]},
            }
        },
        "allowed, required": {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "now"}}]},
            }
        },
        "one call alone": {"parallel_tool_calls": False},
        "strict": {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "get_weather",
                        "parameters": {**PARAMETERS, "additionalProperties": False},
                        "strict": True,
                    },
                }
            ]
        },
        "a cut call": {"max_tokens": 30},
    },
    RESPONSES: {
        "none": {"tool_choice": "none"},
        "required": {"tool_choice": "required"},
        "one function": {"tool_choice": {"type": "function", "name": "now"}},
        "allowed, required": {
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]}
        },
        "one call alone": {"parallel_tool_calls": False},
        "a namespace": {"tools": [{"type": "namespace", "name": "crm", "description": "x", "tools": FLAT}]},
        "a cut call": {"max_output_tokens": 30},
    },
    MESSAGES: {
        "none": {"tool_choice": {"type": "none"}},
        "any": {"tool_choice": {"type": "any"}},
        "one tool": {"tool_choice": {"type": "tool", "name": "now"}},
        "one call alone": {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        "a cut call": {"max_tokens": 30},
    },
}
ERRORS: dict[str, tuple[str, dict[str, Any]]] = {
    "two tools of one name": (CHAT, {"tools": [NESTED[0], NESTED[0]]}),
    "a name that is none": (CHAT, {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
    "a tool that is not there": (CHAT, {"tool_choice": {"type": "function", "function": {"name": "g"}}}),
    "a choice that is none": (CHAT, {"tool_choice": "perhaps"}),
    "required of none": (CHAT, {"tools": [], "tool_choice": "required"}),
    "parameters that are no schema": (
        CHAT,
        {
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "x"}}}],
            "tool_choice": "required",
        },
    ),
    "strict parameters beyond what is enforced": (
        CHAT,
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "f",
                        "strict": True,
                        "parameters": {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}},
                    },
                }
            ]
        },
    ),
    "too many tools": (CHAT, {"tools": [{"type": "function", "function": {"name": f"f{i}"}} for i in range(129)]}),
    "tools of the server's": (RESPONSES, {"tools": [{"type": "web_search"}]}),
    "a tool that is not there, of a response": (RESPONSES, {"tool_choice": {"type": "function", "name": "g"}}),
    "a tool without a schema, of a message": (MESSAGES, {"tools": [{"name": "f"}]}),
    "a tool that is not there, of a message": (MESSAGES, {"tool_choice": {"type": "tool", "name": "g"}}),
    "a choice that is none, of a message": (MESSAGES, {"tool_choice": {"type": "perhaps"}}),
    "tools of another type, of Ollama": (OLLAMA, {"tools": {"f": 1}}),
}
CALL = {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
HISTORY: list[Any] = [
    *USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
]
OLLAMA_HISTORY: list[Any] = [
    *USER,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}],
    },
    {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
]
UNENFORCED = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}, "b": {"not": {}}}}


# Who says what the choice allows and nothing behind it: text and calls that come at once have no certain order.
SPEAKERS = {
    "required": "hermes-caller",
    "any": "hermes-caller",
    "strict": "hermes-caller",
    "one call alone": "hermes-caller",
    "one function": "hermes-now",
    "one tool": "hermes-now",
    "allowed, auto": "hermes-now",
    "allowed, required": "hermes-now",
    "a namespace": "hermes-space",
}


def of_families() -> Iterator[Request]:
    for family in FAMILIES:
        for path, body in BODIES.items():
            yield from both(f"{family} at {path}", path, {"model": family, **body})


def of_choices() -> Iterator[Request]:
    for path, choices in CHOICES.items():
        for name, fields in choices.items():
            yield from both(
                f"{name} at {path}", path, {"model": SPEAKERS.get(name, "hermes"), **BODIES[path], **fields}
            )


REQUESTS: list[Request] = [
    *of_families(),
    *of_choices(),
    *(
        post(f"refused: {name}", path, {"model": "hermes", **BODIES[path], **fields})
        for name, (path, fields) in ERRORS.items()
    ),
    *(
        post(f"required of {family}", CHAT, {"model": family, **BODIES[CHAT], "tool_choice": "required"})
        for family in FAMILIES[2:]
    ),
    post("a call of a tool that is not there", CHAT, {"model": "hermes-unknown", **BODIES[CHAT]}),
    post("one of two calls", CHAT, {"model": "hermes-two", **BODIES[CHAT], "parallel_tool_calls": False}),
    post(
        "a conversation with a call",
        CHAT,
        {"model": "assistant", "messages": HISTORY, "temperature": 0, "max_tokens": 6},
    ),
    post(
        "a conversation with a call and tools",
        CHAT,
        {"model": "assistant", "messages": HISTORY, "tools": NESTED, "temperature": 0, "max_tokens": 6},
    ),
    post(
        "a conversation with a call, of Ollama",
        OLLAMA,
        {
            "model": "assistant",
            "messages": OLLAMA_HISTORY,
            "stream": False,
            "options": {"temperature": 0, "num_predict": 6},
        },
    ),
    post(
        "keywords that are not enforced",
        CHAT,
        {
            "model": "hermes",
            "messages": USER,
            "max_tokens": 8,
            "tools": [{"type": "function", "function": {"name": "f", "parameters": UNENFORCED}}],
        },
    ),
    post("logprobs beside a call", CHAT, {"model": "hermes", **BODIES[CHAT], "logprobs": True}),
    post("two choices with calls", CHAT, {"model": "hermes", **BODIES[CHAT], "n": 2}),
    post("counted with tools", f"{RESPONSES}/input_tokens", {"model": "assistant", "input": "x", "tools": FLAT}),
    post(
        "counted with tools, of a message",
        f"{MESSAGES}/count_tokens",
        {"model": "assistant", "messages": USER, "tools": CLIENT},
    ),
]
