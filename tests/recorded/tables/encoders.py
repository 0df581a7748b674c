"""Embeddings, rerank and score of encoders with random weights."""

from __future__ import annotations

from typing import Any

from tests.recorded.request import Request, post

EMBED, RERANK, SCORE = "/v1/embeddings", "/v1/rerank", "/v1/score"
LONG = "card " * 60
EMBEDDINGS: dict[str, dict[str, Any]] = {
    "a text": {"input": "card"},
    "texts": {"input": ["card", "lost pin"]},
    "token ids": {"input": [2, 5, 3]},
    "lists of token ids": {"input": [[2, 5, 3], [2, 3]]},
    "base64": {"input": "card", "encoding_format": "base64"},
    "dimensions": {"input": "card", "dimensions": 4},
    "a prompt": {"input": "card", "prompt_name": "query"},
    "cut to what fits": {"input": LONG, "truncate": True},
    "cut to some tokens": {"input": LONG, "truncate_prompt_tokens": 8},
    "for batch work": {"input": "card", "priority": 1, "user": "me"},
    "of a truncated model": {"model": "truncated", "input": "card"},
    "of a static model": {"model": "static", "input": ["card", "pin"]},
    "refused: no input": {},
    "refused: an empty text": {"input": ""},
    "refused: an empty list": {"input": []},
    "refused: too long a text": {"input": LONG},
    "refused: too many texts": {"input": ["x"] * 2049},
    "refused: too many dimensions": {"input": "card", "dimensions": 4096},
    "refused: a prompt that is none": {"input": "card", "prompt_name": "nothing"},
    "refused: a format that is none": {"input": "card", "encoding_format": "int8"},
    "refused: a token that is none": {"input": [100000]},
    "refused: another server's name": {"texts": ["card"], "input": "card"},
    "refused: a language model": {"model": "assistant", "input": "card"},
    "refused: a reranker": {"model": "reranker", "input": "card"},
    "refused: an unknown model": {"model": "nobody", "input": "card"},
}
RANKED: dict[str, Any] = {
    "model": "reranker",
    "query": "lost card",
    "documents": ["i lost my card", "exchange rates", "pin"],
}
RERANKS: dict[str, dict[str, Any]] = {
    "documents": {},
    "the best": {"top_n": 1},
    "with their texts": {"return_documents": True},
    "as objects": {"documents": [{"text": "card"}, {"text": "pin"}], "return_documents": True},
    "of an embedder": {"model": "embedder"},
    "cut": {"documents": [LONG], "truncation": True},
    "cut to some tokens": {"documents": [LONG], "max_tokens_per_doc": 10},
    "refused: too long": {"documents": [LONG]},
    "refused: no documents": {"documents": []},
    "refused: no query": {"query": None},
    "refused: a document that is none": {"documents": [5]},
    "refused: another server's name": {"texts": ["x"]},
    "refused: a language model": {"model": "assistant"},
    "refused: chunks": {"max_chunks_per_doc": 2},
}
SCORED: dict[str, Any] = {"model": "reranker", "text_1": "lost card", "text_2": "pin"}
SCORES: dict[str, dict[str, Any]] = {
    "a pair": {},
    "one and many": {"text_2": ["pin", "card"]},
    "pairs": {"text_1": ["pin", "card"], "text_2": ["card", "pin"]},
    "of an embedder": {"model": "embedder"},
    "cut": {"text_2": LONG, "truncate": True},
    "refused: two and three": {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]},
    "refused: nothing": {"text_2": None},
    "refused: a language model": {"model": "assistant"},
}

REQUESTS: list[Request] = [
    *(post(f"embeddings: {name}", EMBED, {"model": "embedder", **fields}) for name, fields in EMBEDDINGS.items()),
    *(post(f"rerank: {name}", RERANK, {**RANKED, **fields}) for name, fields in RERANKS.items()),
    *(post(f"rerank at {path}", path, RANKED) for path in ("/rerank", "/v2/rerank")),
    *(post(f"score: {name}", SCORE, {**SCORED, **fields}) for name, fields in SCORES.items()),
    post("score at /score", "/score", SCORED),
]
