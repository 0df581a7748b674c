"""Ollama's /api: chat, generate, models, embeddings, and what is not there."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, both, get, post

USER: list[Any] = [{"role": "user", "content": "What can you do?"}]
GREEDY: dict[str, Any] = {"temperature": 0, "num_predict": 8}
CHAT: dict[str, Any] = {"model": "assistant", "messages": USER, "options": GREEDY}
GENERATE: dict[str, Any] = {"model": "assistant", "prompt": "What can you do?", "options": GREEDY}
TO_THE_END: dict[str, Any] = {"model": "talker", "options": {}}

CHATS: dict[str, dict[str, Any]] = {
    "text": {},
    "a tag": {"model": "assistant:latest"},
    "to the end": TO_THE_END,
    "a system": {"messages": [{"role": "system", "content": "Be brief."}, *USER]},
    "a stop": {**TO_THE_END, "options": {"stop": ["there"]}},
    "logprobs": {"logprobs": True, "top_logprobs": 1, "options": {**GREEDY, "num_predict": 3}},
    "a seed": {"options": {"temperature": 0.9, "seed": 3, "top_k": 10, "top_p": 0.9, "min_p": 0.01, "num_predict": 6}},
    "penalties": {"options": {**GREEDY, "repeat_penalty": 1.2, "presence_penalty": 0.3, "frequency_penalty": 0.3}},
    "no messages": {"messages": []},
    "the older name": {"model": None, "name": "assistant"},
}
GENERATES: dict[str, dict[str, Any]] = {
    "text": {},
    "a system": {"system": "Be brief."},
    "as it is": {"raw": True, "prompt": "The cat"},
    "no prompt": {"prompt": None},
    "to the end": TO_THE_END,
    "kept alive": {"keep_alive": "10m"},
}
ERRORS: dict[str, dict[str, Any]] = {
    "no model": {"model": None},
    "an unknown model": {"model": "nobody"},
    "another tag": {"model": "assistant:7b"},
    "mirostat": {"options": {"mirostat": 1}},
    "a template": {"template": "x"},
    "a suffix": {"suffix": "x"},
    "images": {"images": ["x"]},
    "a context": {"context": [1]},
    "options that are none": {"options": 5},
    "a format that is none": {"format": "yaml"},
    "thinking of a model that does not": {"think": True},
    "an option of another type": {"options": {"num_predict": "x"}},
    "an embedder": {"model": "embedder"},
}
TEXTS: dict[str, dict[str, Any]] = {
    "a text": {"input": "card"},
    "texts": {"input": ["card", "pin"]},
    "dimensions": {"input": "card", "dimensions": 4},
    "a text that is cut": {"input": "card " * 60},
    "a text that may not be cut": {"input": "card " * 60, "truncate": False},
    "no text": {"input": ""},
    "no input": {},
    "a language model": {"model": "assistant", "input": "card"},
}

REQUESTS: list[Request] = [
    *(each for name, fields in CHATS.items() for each in both(f"chat: {name}", "/api/chat", {**CHAT, **fields})),
    *(
        each
        for name, fields in GENERATES.items()
        for each in both(f"generate: {name}", "/api/generate", {**GENERATE, **fields})
    ),
    *(post(f"refused: {name}", "/api/generate", {**GENERATE, **fields}) for name, fields in ERRORS.items()),
    post("refused: messages of another type", "/api/chat", {**CHAT, "messages": 5}),
    post("refused: a role that is none", "/api/chat", {**CHAT, "messages": [{"role": "root", "content": "x"}]}),
    post("a body without a type", "/api/generate", {**GENERATE, "stream": False}, headers={"content-type": ""}),
    post(
        "a body of a page",
        "/api/generate",
        GENERATE,
        headers={"content-type": "text/plain", "origin": "https://a.example"},
    ),
    *(get(f"GET {path}", path) for path in ("/api/tags", "/api/ps", "/api/version")),
    *(
        post(f"show {name}", "/api/show", {"model": name})
        for name in ("assistant", "hermes", "thinker", "embedder", "reranker", "first", "nobody")
    ),
    post("show by its older name", "/api/show", {"name": "assistant", "verbose": True}),
    post("show nothing", "/api/show", {}),
    *(post(f"embed: {name}", "/api/embed", {"model": "embedder", **fields}) for name, fields in TEXTS.items()),
    post("embeddings: a text", "/api/embeddings", {"model": "embedder", "prompt": "card"}),
    post("embeddings: no text", "/api/embeddings", {"model": "embedder", "prompt": ""}),
    post("embeddings: no prompt", "/api/embeddings", {"model": "embedder"}),
    *(
        post(f"not there: {path}", path, {"model": "x"})
        for path in ("/api/pull", "/api/push", "/api/create", "/api/copy")
    ),
    post("not there: /api/delete", "/api/delete", {"model": "x"}, method="DELETE"),
    get("not there: /api/blobs", "/api/blobs/sha256:0", method="HEAD"),
]
