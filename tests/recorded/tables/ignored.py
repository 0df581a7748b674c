"""Fields that are not heeded: named in x-tripos-ignored, taken in silence, or refused by a strict route."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, post

USER = [{"role": "user", "content": "Hello?"}]
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "talker", "messages": USER, "max_tokens": 1},
    "/v1/completions": {"model": "talker", "prompt": "x", "max_tokens": 1},
    "/v1/responses": {"model": "talker", "input": "x", "max_output_tokens": 1, "store": False},
    "/v1/responses/input_tokens": {"model": "talker", "input": "x"},
    "/v1/messages": {"model": "talker", "messages": USER, "max_tokens": 1},
    "/v1/messages/count_tokens": {"model": "talker", "messages": USER},
    "/api/chat": {"model": "talker", "messages": USER, "stream": False, "options": {"num_predict": 1}},
    "/api/generate": {"model": "talker", "prompt": "x", "stream": False, "options": {"num_predict": 1}},
    "/v1/decisions": {"model": "talker", "input": "x", "questions": [{"type": "predicate", "instructions": "?"}]},
    "/v1/systemone": {"model": "talker", "state": "x", "questions": {"q": {"type": "noul"}}},
    "/v1/embeddings": {"model": "embedder", "input": "card"},
    "/v1/rerank": {"model": "embedder", "query": "card", "documents": ["pin"]},
    "/v1/score": {"model": "embedder", "text_1": "card", "text_2": "pin"},
    "/api/embed": {"model": "embedder", "input": "card"},
    "/api/embeddings": {"model": "embedder", "prompt": "card"},
    "/api/show": {"model": "talker"},
    "/tokenize": {"model": "talker", "prompt": "x"},
    "/detokenize": {"model": "talker", "tokens": [72]},
}
CHAT, RESPONSES, MESSAGES, OLLAMA = "/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
HEEDED: dict[str, tuple[str, dict[str, Any]]] = {
    "defaults say nothing": (CHAT, {"verbosity": "medium", "prompt_cache_key": "x", "seed": -1, "max_tokens": -1}),
    "a client's own books": (CHAT, {"user": "u", "metadata": {"a": "b"}, "safety_identifier": "s", "store": True}),
    "empty values": (CHAT, {"guided_json": None, "functions": [], "logprobs": False, "stream_options": {}}),
    "other servers' defaults": (CHAT, {"repeat_penalty": 1.0, "dry_multiplier": 0, "n_predict": -1, "do_sample": True}),
    "other servers' hints": (CHAT, {"cache_prompt": False, "timings_per_token": True, "return_token_ids": True}),
    "within a tool": (CHAT, {"tools": [{**TOOL, "colour": 1}, {**TOOL, "function": {"name": "g", "colour": 1}}]}),
    "within a format": (CHAT, {"response_format": {"type": "text", "colour": 1}}),
    "an argument of no template": (CHAT, {"chat_template_kwargs": {"colour": "red"}}),
    "a prediction": (CHAT, {"prediction": {"type": "content", "content": "x"}, "verbosity": "low"}),
    "strange names": (CHAT, {"x\r\ny: 1": 1, "é, ü": 1}),
    "many names": (CHAT, {f"colour_{i}": 1 for i in range(200)}),
    "of a response": (RESPONSES, {"text": {"verbosity": "low"}, "client_metadata": {"x": 1}, "truncation": "auto"}),
    "what includes nothing": (RESPONSES, {"include": ["file_search_call.results"], "max_tool_calls": 3}),
    "of a message": (
        MESSAGES,
        {"service_tier": "batch", "speed": "fast", "inference_geo": "eu", "user_profile_id": "u"},
    ),
    "of a message, edits that keep all": (MESSAGES, {"context_management": {"edits": []}}),
    "of Ollama": (
        OLLAMA,
        {"keep_alive": "1h", "options": {"num_gpu": 3, "num_ctx": 100000, "mirostat_tau": 2, "x": 1}},
    ),
}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    name: (CHAT, {name: value})
    for name, value in {
        "repeat_penalty": 1.2, "mirostat": 2, "use_beam_search": True, "do_sample": False, "bad_words": ["x"],
        "lora": "x", "documents": ["x"], "max_new_tokens": 5, "prompt": "x", "prompt_logprobs": 1, "echo": True,
        "stop_sequences": ["x"], "skip_special_tokens": False, "web_search_options": {"x": 1}, "moderation": True,
    }.items()
}  # fmt: skip

REQUESTS: list[Request] = [
    *(
        post(f"unknown at {path}", path, {**body, "colour": "red", "off": False, "nothing": None})
        for path, body in GOOD.items()
    ),
    *(
        post(f"unknown at {path}, strict", path, {**body, "model": "strict", "colour": "red"})
        for path, body in GOOD.items()
        if body["model"] == "talker"
    ),
    post("known and not heeded, strict", CHAT, {**GOOD[CHAT], "model": "strict", "verbosity": "low"}),
    post("unknown in a stream", CHAT, {**GOOD[CHAT], "colour": "red", "stream": True}),
    *(post(name, path, {**GOOD[path], **fields}) for name, (path, fields) in HEEDED.items()),
    *(post(f"refused: {name}", path, {**GOOD[path], **fields}) for name, (path, fields) in REFUSED.items()),
]
