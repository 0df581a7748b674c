"""POST /rerank in the shape that Cohere and Jina share, and /score in vLLM's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from tripos.errors import InvalidRequest
from tripos.types import Rerank
from tripos.wire import foreign
from tripos.wire.fields import Field, kind_of, read_json, table
from tripos.wire.generation import INT31, MODEL, check_model
from tripos.wire.oneshot import (
    DELIVERY,
    MAX_DOCUMENTS,
    TRUNCATE,
    TRUNCATE_TOKENS,
    OneShotAnswer,
    OneShotRequest,
    read_delivery,
    read_texts,
    read_truncation,
    total_tokens,
)

RERANK = table(
    MODEL,
    Field("query", "string", "What the documents are compared with.", required=True),
    Field("documents", "array", "Up to 2048 texts, or objects with a `text`.", required=True, max_items=MAX_DOCUMENTS),
    Field("top_n", "integer", "Only the best so many. Default: all.", low=1, high=INT31),
    Field("return_documents", "boolean", "Repeat each document beside its score. Default false."),
    Field("max_tokens_per_doc", "integer", "Cohere's name for truncate_prompt_tokens.", low=1, high=INT31),
    Field("truncation", "boolean", "Jina's name for truncate."),
    TRUNCATE_TOKENS,
    TRUNCATE,
    *DELIVERY,
    Field("user", "string", "For the client's own books.", max_bytes=512, use="ignored"),
    Field("max_chunks_per_doc", "any", "a document is read as a whole: use max_tokens_per_doc", use="refused"),
    Field("rank_fields", "any", "send each document as the text that is to be read", use="refused"),
    *foreign.RERANK,
)
SCORE = table(
    MODEL,
    Field("text_1", "any", "A text, or a list of up to 2048.", required=True),
    Field("text_2", "any", "A text, or a list: as many as text_1, or any number beside a single text.", required=True),
    TRUNCATE_TOKENS,
    TRUNCATE,
    *DELIVERY,
    Field("user", "string", "For the client's own books.", max_bytes=512, use="ignored"),
)


class RerankRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded body: its one Rerank, and how the answer is to look."""

    body: OneShotRequest
    rerank: Rerank
    returns_documents: bool


def decode_rerank(body: bytes) -> RerankRequest:
    """Raises InvalidRequest naming the field."""
    found = read_json(body, RERANK)
    if (limit := found.get("max_tokens_per_doc")) is not None:
        found.setdefault("truncate_prompt_tokens", limit)
    rerank = Rerank(
        query=_text(found["query"], "query"),
        documents=read_texts(found["documents"], "documents", MAX_DOCUMENTS, may_be_objects=True),
        top_n=found.get("top_n"),
        truncate_to=read_truncation(found),
    )
    return RerankRequest(
        body=OneShotRequest(model=check_model(found), requests=(rerank,), **read_delivery(found)),
        rerank=rerank,
        returns_documents=found.get("return_documents", False),
    )


def encode_rerank(request: RerankRequest, answer: OneShotAnswer, id: str, model: str) -> dict[str, Any]:
    """The documents from best to worst; of equal ones the first given comes first."""
    scores = answer.result.scores
    order = sorted(range(len(scores)), key=lambda i: -scores[i])[: request.rerank.top_n]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": scores[i]} for i in order]
    if request.returns_documents:
        for result in results:
            result["document"] = {"text": request.rerank.documents[result["index"]]}
    num_tokens = total_tokens([answer])
    return {
        "id": id,
        "object": "list",
        "model": model,
        "results": results,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        "meta": {"billed_units": {"search_units": 1}},
    }


def decode_score(body: bytes) -> OneShotRequest:
    """One Rerank for a text against many, one each for pairs. Raises InvalidRequest naming the field."""
    found = read_json(body, SCORE)
    first, second = (_texts(found[name], name) for name in ("text_1", "text_2"))
    truncate_to = read_truncation(found)
    if len(first) == 1:
        requests: tuple[Rerank, ...] = (Rerank(query=first[0], documents=second, truncate_to=truncate_to),)
    elif len(first) == len(second):
        pairs = zip(first, second, strict=True)
        requests = tuple(Rerank(query=query, documents=(text,), truncate_to=truncate_to) for query, text in pairs)
    else:
        message = f"text_2 has {len(second)} texts for {len(first)} of text_1: send as many, or a single text_1"
        raise InvalidRequest(message, code="invalid_value", param="text_2")
    return OneShotRequest(model=check_model(found), requests=requests, **read_delivery(found))


def encode_score(answers: Sequence[OneShotAnswer], id: str, created: int, model: str) -> dict[str, Any]:
    scores = [score for answer in answers for score in answer.result.scores]
    num_tokens = total_tokens(answers)
    return {
        "id": id,
        "object": "list",
        "created": created,
        "model": model,
        "data": [{"index": i, "object": "score", "score": score} for i, score in enumerate(scores)],
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens, "completion_tokens": 0},
    }


def _texts(value: Any, path: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (_text(value, path),)
    if not isinstance(value, list):
        raise InvalidRequest(f"{path} must be text or an array, not {kind_of(value)}", code="invalid_type", param=path)
    return read_texts(value, path, MAX_DOCUMENTS)


def _text(value: str, path: str) -> str:
    if not value:
        raise InvalidRequest(f"{path} is empty", code="out_of_range", param=path)
    return value
