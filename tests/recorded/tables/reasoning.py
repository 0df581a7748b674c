"""Reasoning in the four dialects that show it: split off, left out, bounded, turned off."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.recorded.request import Request, both, post
from tests.recorded.tables.tools import BODIES, CHAT, MESSAGES, OLLAMA, RESPONSES

MODELS = ("thinker", "thinking-caller", "opened-thinker", "mistral-thinker")
PLAIN = {path: {key: value for key, value in body.items() if key != "tools"} for path, body in BODIES.items()}
ENABLED = {"thinking": {"type": "enabled", "budget_tokens": 150}, "max_tokens": 180}

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "not sent": (CHAT, {"include_reasoning": False}),
    "no effort": (CHAT, {"reasoning_effort": "none"}),
    "a low effort": (CHAT, {"reasoning_effort": "low"}),
    "a high effort": (CHAT, {"reasoning_effort": "high"}),
    "a budget": (CHAT, {"thinking_token_budget": 5}),
    "a budget of nothing": (CHAT, {"thinking_token_budget": 0}),
    "the template's switch": (CHAT, {"chat_template_kwargs": {"enable_thinking": False}}),
    "a stop behind it": (CHAT, {"stop": ["answer"]}),
    "logprobs": (CHAT, {"logprobs": True, "max_tokens": 6}),
    "cut off": (CHAT, {"max_tokens": 8}),
    "no effort, of a response": (RESPONSES, {"reasoning": {"effort": "none"}}),
    "a low effort, of a response": (RESPONSES, {"reasoning": {"effort": "low"}}),
    "cut off, of a response": (RESPONSES, {"max_output_tokens": 8}),
    "enabled, of a message": (MESSAGES, ENABLED),
    "adaptive, of a message": (MESSAGES, {"thinking": {"type": "adaptive"}}),
    "disabled, of a message": (MESSAGES, {"thinking": {"type": "disabled"}}),
    "on, of Ollama": (OLLAMA, {"think": True}),
    "off, of Ollama": (OLLAMA, {"think": False}),
    "low, of Ollama": (OLLAMA, {"think": "low"}),
}
ERRORS: dict[str, tuple[str, dict[str, Any]]] = {
    "an effort that is none": (CHAT, {"reasoning_effort": "huge"}),
    "a budget below nothing": (CHAT, {"thinking_token_budget": -1}),
    "a budget that leaves nothing, of a message": (
        MESSAGES,
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    ),
    "another name": (CHAT, {"enable_thinking": True}),
    "a kind that is none, of a message": (MESSAGES, {"thinking": {"type": "often"}}),
    "no budget, of a message": (MESSAGES, {"thinking": {"type": "enabled"}}),
    "a level that is none, of Ollama": (OLLAMA, {"think": "huge"}),
}
REMEMBERED = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4.", "reasoning_content": "Easy."},
    {"role": "user", "content": "And 3?"},
]


def of_models() -> Iterator[Request]:
    for model in MODELS:
        for path, body in (BODIES if model == "thinking-caller" else PLAIN).items():
            fields = ENABLED if path == MESSAGES else {}
            yield from both(f"{model} at {path}", path, {"model": model, **body, **fields})


REQUESTS: list[Request] = [
    *of_models(),
    *(
        each
        for name, (path, fields) in OPTIONS.items()
        for each in both(name, path, {"model": "thinker", **PLAIN[path], **fields})
    ),
    *(
        post(f"refused: {name}", path, {"model": "thinker", **PLAIN[path], **fields})
        for name, (path, fields) in ERRORS.items()
    ),
    post("not asked for, of a message", MESSAGES, {"model": "thinking-caller", **BODIES[MESSAGES]}),
    post("a generated answer", "/api/generate", {"model": "thinker", "prompt": "x", "stream": False}),
    post("a prompt as it is", "/v1/completions", {"model": "thinker", "prompt": "x", "max_tokens": 60}),
    post("remembered", CHAT, {"model": "thinker", **PLAIN[CHAT], "messages": REMEMBERED}),
    post(
        "no effort of a model that does not reason",
        CHAT,
        {"model": "talker", **PLAIN[CHAT], "reasoning_effort": "none"},
    ),
    post("a choice of a required tool", CHAT, {"model": "thinking-caller", **BODIES[CHAT], "tool_choice": "required"}),
]
