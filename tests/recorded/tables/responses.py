"""/v1/responses: created, stored, gone on from, listed, deleted; typed events."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, both, get, kept, post

PATH = "/v1/responses"
DEMO: dict[str, Any] = {"model": "assistant", "input": "What can you do?", "temperature": 0, "max_output_tokens": 8}
TALK: dict[str, Any] = {"model": "talker", "input": "Hello?", "max_output_tokens": 80}
ITEMS: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
    {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
    {"role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]},
    {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    {"role": "user", "content": "And?"},
]

VARIANTS: dict[str, dict[str, Any]] = {
    "text": {},
    "items": {"input": ITEMS},
    "instructions": {"instructions": "Be brief."},
    "metadata": {"metadata": {"a": "b"}, "store": False},
    "logprobs": {"include": ["message.output_text.logprobs"], "top_logprobs": 1, "max_output_tokens": 3},
    "a seed": {"temperature": 0.9, "top_p": 0.95, "seed": 7},
    "a format": {"text": {"format": {"type": "text"}}},
    "an effort": {"reasoning": {"effort": "low"}},
}
ERRORS: dict[str, dict[str, Any]] = {
    "no input": {"input": None},
    "an item that is none": {"input": [{"type": "nothing"}]},
    "an output without its call": {"input": [{"type": "function_call_output", "call_id": "c9", "output": "x"}]},
    "an unknown earlier response": {"previous_response_id": "resp_0"},
    "an item that is not stored": {"input": [{"type": "item_reference", "id": "msg_0"}]},
    "a conversation": {"conversation": "c"},
    "background": {"background": True},
    "a stored prompt": {"prompt": {"id": "p"}},
    "max_tokens": {"max_tokens": 5},
    "an unknown model": {"model": "nobody"},
    "metadata that is no text": {"metadata": {"a": 5}},
    "top_logprobs without include": {"top_logprobs": 2},
    "an effort that is none": {"reasoning": {"effort": "huge"}},
}
STORED = {"first": "id"}

REQUESTS: list[Request] = [
    *(each for name, fields in VARIANTS.items() for each in both(name, PATH, {**DEMO, **fields})),
    *both("to the end", PATH, TALK),
    *(post(f"refused: {name}", PATH, {**DEMO, **fields}) for name, fields in ERRORS.items()),
    post("stored", PATH, {**DEMO, "input": ITEMS}, keep={"first": "id", "message": "output.0.id"}),
    get("shown", f"{PATH}/{kept('first')}"),
    get("what it answered", f"{PATH}/{kept('first')}/input_items", keep={"item": "data.1.id"}),
    get("what it answered, in its order", f"{PATH}/{kept('first')}/input_items?order=asc"),
    get("what it answered, two of it", f"{PATH}/{kept('first')}/input_items?limit=2"),
    get("what it answered, behind one", f"{PATH}/{kept('first')}/input_items?limit=2&after={kept('item')}"),
    get("refused: a limit that is none", f"{PATH}/{kept('first')}/input_items?limit=x"),
    get("refused: an order that is none", f"{PATH}/{kept('first')}/input_items?order=up"),
    get("refused: streamed when shown", f"{PATH}/{kept('first')}?stream=true"),
    *both("gone on from", PATH, {**DEMO, "input": "More?", "previous_response_id": kept("first")}),
    post(
        "an item by reference",
        PATH,
        {**DEMO, "input": [{"type": "item_reference", "id": kept("message")}, {"role": "user", "content": "So?"}]},
    ),
    get("cancelled", f"{PATH}/{kept('first')}/cancel", method="POST"),
    get("deleted", f"{PATH}/{kept('first')}", method="DELETE"),
    get("deleted twice", f"{PATH}/{kept('first')}", method="DELETE"),
    get("shown when deleted", f"{PATH}/{kept('first')}"),
    get("what a deleted one answered", f"{PATH}/{kept('first')}/input_items"),
    post("gone on from when deleted", PATH, {**DEMO, "previous_response_id": kept("first")}),
    post("not stored", PATH, {**DEMO, "store": False}, keep={"unstored": "id"}),
    get("shown when not stored", f"{PATH}/{kept('unstored')}"),
    post("counted", f"{PATH}/input_tokens", {"model": "assistant", "input": "What can you do?"}),
    post(
        "counted: items and instructions",
        f"{PATH}/input_tokens",
        {"model": "assistant", "input": ITEMS, "instructions": "Be."},
    ),
    post(
        "refused when counted: personality",
        f"{PATH}/input_tokens",
        {"model": "assistant", "input": "x", "personality": "y"},
    ),
    post("refused when counted: no model", f"{PATH}/input_tokens", {"input": "x"}),
]
