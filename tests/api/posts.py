"""Every POST route with a small good body and its field tables: what the tests of all routes run over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.api.running import ENCODER, HELLO
from tripos.wire import rerank, systemone
from tripos.wire.anthropic import messages
from tripos.wire.fields import Table
from tripos.wire.ollama import embeddings as ollama_embeddings
from tripos.wire.ollama import fields, generation
from tripos.wire.ollama import models as ollama_models
from tripos.wire.openai import chat, completions, decisions, embeddings, responses, tokens


@dataclass(frozen=True)
class Post:
    """`section`: of the documentation; `generates`: whether a model runs."""

    path: str
    section: str
    table: Table
    body: dict[str, Any]
    generates: bool = True
    needed: frozenset[str] = frozenset()  # beside those that the table requires
    nested: tuple[tuple[str, Table], ...] = ()  # fields that hold tables of their own
    model: str = "tiny"  # one that can answer


POSTS = (
    Post("/v1/chat/completions", "Chat completions", chat.FIELDS, {"messages": HELLO, "max_tokens": 1}),
    Post("/v1/completions", "Completions", completions.FIELDS, {"prompt": "x", "max_tokens": 1}),
    Post("/v1/responses", "Responses", responses.FIELDS, {"input": "x", "max_output_tokens": 1}),
    Post("/v1/responses/input_tokens", "Responses", responses.COUNT, {"input": "x"}, generates=False),
    Post("/v1/messages", "Anthropic messages", messages.FIELDS, {"messages": HELLO, "max_tokens": 1}),
    Post("/v1/messages/count_tokens", "Anthropic messages", messages.COUNT, {"messages": HELLO}, generates=False),
    Post(
        "/api/chat",
        "Ollama",
        generation.CHAT,
        {"messages": HELLO, "stream": False, "options": {"num_predict": 1}},
        nested=(("options", fields.OPTIONS),),
    ),
    Post(
        "/api/generate",
        "Ollama",
        generation.GENERATE,
        {"prompt": "x", "stream": False, "options": {"num_predict": 1}},
        nested=(("options", fields.OPTIONS),),
    ),
    Post(
        "/v1/decisions",
        "Decisions",
        decisions.FIELDS,
        {"input": "x", "questions": [{"type": "predicate", "instructions": "?"}]},
    ),
    Post("/v1/systemone", "System One", systemone.FIELDS, {"state": "x", "questions": {"q": {"type": "noul"}}}),
    Post("/v1/embeddings", "Embeddings", embeddings.FIELDS, {"input": "card"}, model=ENCODER),
    *(
        Post(path, "Rerank and score", rerank.RERANK, {"query": "card", "documents": ["pin"]}, model=ENCODER)
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    ),
    *(
        Post(path, "Rerank and score", rerank.SCORE, {"text_1": "card", "text_2": "pin"}, model=ENCODER)
        for path in ("/score", "/v1/score")
    ),
    Post("/api/embed", "Ollama", ollama_embeddings.EMBED, {"input": "card"}, model=ENCODER),
    Post("/api/embeddings", "Ollama", ollama_embeddings.EMBEDDINGS, {"prompt": "card"}, model=ENCODER),
    Post("/api/show", "Ollama", ollama_models.SHOW, {}, generates=False),
    Post("/tokenize", "Tokens", tokens.TOKENIZE, {"prompt": "x"}, generates=False, needed=frozenset({"prompt"})),
    Post("/detokenize", "Tokens", tokens.DETOKENIZE, {"tokens": [1]}, generates=False),
)


def body_of(post: Post, model: str = "", **fields: Any) -> dict[str, Any]:
    return {"model": model or post.model, **post.body, **fields}
