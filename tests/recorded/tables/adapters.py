"""LoRA adapters: served as models, loaded and unloaded while the server runs."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, both, get, post

LOAD, UNLOAD, COMPLETE = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 12, "temperature": 0}
PROMPT: dict[str, Any] = {"prompt": "x", "max_tokens": 12, "temperature": 0}
SECOND = {"lora_name": "second", "lora_path": "@(root)/adapters/second", "base_model_name": "adapted"}

REQUESTS: list[Request] = [
    post("the model", COMPLETE, {"model": "adapted", **PROMPT}),
    *both("an adapter", COMPLETE, {"model": "first", **PROMPT}),
    *both("an adapter in a chat", "/v1/chat/completions", {"model": "first", **CHAT}),
    post(
        "an adapter of Ollama",
        "/api/generate",
        {"model": "first", "prompt": "x", "stream": False, "options": {"temperature": 0, "num_predict": 6}},
    ),
    post("an adapter as a message", "/v1/messages", {"model": "first", **CHAT}),
    post(
        "an adapter as a response",
        "/v1/responses",
        {"model": "first", "input": "x", "max_output_tokens": 6, "temperature": 0, "store": False},
    ),
    get("an adapter's card", "/v1/models/first"),
    post("refused: no such directory", LOAD, {**SECOND, "lora_path": "@(root)/adapters/nothing"}),
    post("refused: not an adapter", LOAD, {**SECOND, "lora_path": "@(root)/talker"}),
    post("refused: no model named", LOAD, {**SECOND, "base_model_name": None}),
    post("loaded", LOAD, SECOND),
    post("what was loaded", COMPLETE, {"model": "second", **PROMPT}),
    get("the card of what was loaded", "/v1/models/second"),
    post("refused: loaded twice", LOAD, SECOND),
    post("loaded in its place", LOAD, {**SECOND, "lora_path": "@(root)/adapters/third", "load_inplace": True}),
    post("what was loaded in its place", COMPLETE, {"model": "second", **PROMPT}),
    post("loaded with its model", LOAD, {**SECOND, "lora_name": "third", "base_model_name": "adapted"}),
    post("refused: one too many", LOAD, {**SECOND, "lora_name": "fourth"}),
    post("refused: a model that takes none", LOAD, {**SECOND, "lora_name": "fifth", "base_model_name": "talker"}),
    post("refused: an unknown model", LOAD, {**SECOND, "lora_name": "fifth", "base_model_name": "nobody"}),
    post("refused: a model's name", LOAD, {**SECOND, "lora_name": "talker"}),
    post("refused: outside the roots", LOAD, {"lora_name": "fifth", "lora_path": "/nothing"}),
    post("refused: no path", LOAD, {"lora_name": "fifth"}),
    post("refused: an unknown field", LOAD, {**SECOND, "colour": "red"}),
    get("while one is loaded", "/v1/models"),
    post("a model that carries adapters, reloaded", "/admin/models/reload", {"name": "adapted"}),
    post("unloaded", UNLOAD, {"lora_name": "second"}),
    post("refused: unloaded twice", UNLOAD, {"lora_name": "second"}),
    post("refused: what was unloaded", COMPLETE, {"model": "second", **PROMPT}),
    post("unloaded with a number", UNLOAD, {"lora_name": "third", "lora_int_id": 1}),
    post("refused: a model is no adapter", UNLOAD, {"lora_name": "talker"}),
    post("refused: no name", UNLOAD, {}),
]
