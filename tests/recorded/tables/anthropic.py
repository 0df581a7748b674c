"""/v1/messages and its count of tokens."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, both, post

PATH = "/v1/messages"
VERSION = {"anthropic-version": "2023-06-01"}
USER: list[Any] = [{"role": "user", "content": "What can you do?"}]
DEMO: dict[str, Any] = {"model": "assistant", "messages": USER, "temperature": 0, "max_tokens": 8}
BLOCKS: list[Any] = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "One", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "two"},
        ],
    },
    {"role": "user", "content": "three"},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "s"},
            {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}},
        ],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "4"}]}],
    },
]

VARIANTS: dict[str, dict[str, Any]] = {
    "text": {},
    "to the end": {"model": "talker", "max_tokens": 80},
    "a system": {"system": "Be brief."},
    "a system of blocks": {"system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]},
    "blocks": {"messages": BLOCKS},
    "a stop": {"model": "talker", "max_tokens": 80, "stop_sequences": ["there", "friend"]},
    "a seed": {"temperature": 0.9, "seed": 3, "top_p": 0.9, "top_k": 10},
    "metadata": {"metadata": {"user_id": "u"}, "service_tier": "auto"},
}
ERRORS: dict[str, dict[str, Any]] = {
    "no max_tokens": {"max_tokens": None},
    "no messages": {"messages": []},
    "a temperature beyond the range": {"temperature": 1.5},
    "an unknown model": {"model": "nobody"},
    "a block that is none": {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
    "an image": {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]},
    "a result without its call": {
        "messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "x"}]}]
    },
    "stop": {"stop": "x"},
    "a thread": {"thread": {"id": "t"}},
    "servers of tools": {"mcp_servers": [{"url": "x"}]},
    "a container": {"container": "c"},
    "too long an answer": {"max_tokens": 1_000_000},
    "an embedder": {"model": "embedder"},
}
COUNT: dict[str, Any] = {"model": "assistant", "messages": USER}

REQUESTS: list[Request] = [
    *(each for name, fields in VARIANTS.items() for each in both(name, PATH, {**DEMO, **fields}, headers=VERSION)),
    *(post(f"refused: {name}", PATH, {**DEMO, **fields}, headers=VERSION) for name, fields in ERRORS.items()),
    post("refused in a stream: an unknown model", PATH, {**DEMO, "model": "nobody", "stream": True}),
    post("refused: no JSON", PATH, b"{"),
    post("counted", f"{PATH}/count_tokens", COUNT),
    post("counted: blocks and a system", f"{PATH}/count_tokens", {**COUNT, "messages": BLOCKS, "system": "Be."}),
    post("refused when counted: no messages", f"{PATH}/count_tokens", {"model": "assistant"}),
    post("batches", f"{PATH}/batches", {"requests": []}),
    post("the older endpoint", "/v1/complete", {"prompt": "x"}),
]
