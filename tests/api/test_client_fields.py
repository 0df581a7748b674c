"""Every field that an official client can send has its place in a table: honoured, ignored or refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import anthropic.resources
import ollama._types as ollama_types
import openai.resources
import pytest
from openai.resources.responses.input_tokens import InputTokens

from tests.api.posts import POSTS
from tripos.wire.ollama import fields

OWN = {"self", "extra_headers", "extra_query", "extra_body", "timeout"}  # not sent
METHODS: list[tuple[str, Callable[..., Any]]] = [
    ("/v1/chat/completions", openai.resources.chat.Completions.create),
    ("/v1/completions", openai.resources.Completions.create),
    ("/v1/embeddings", openai.resources.Embeddings.create),
    ("/v1/responses", openai.resources.responses.Responses.create),
    ("/v1/responses/input_tokens", InputTokens.count),
    ("/v1/decisions", openai.resources.Decisions.create),
    ("/v1/messages", anthropic.resources.Messages.create),
    ("/v1/messages/count_tokens", anthropic.resources.Messages.count_tokens),
]
MODELS: list[tuple[str, Any]] = [
    ("/api/chat", ollama_types.ChatRequest),
    ("/api/generate", ollama_types.GenerateRequest),
    ("/api/show", ollama_types.ShowRequest),
    ("/api/embed", ollama_types.EmbedRequest),
    ("/api/embeddings", ollama_types.EmbeddingsRequest),
]


def table_of(path: str) -> set[str]:
    return set(next(post for post in POSTS if post.path == path).table)


@pytest.mark.parametrize(("path", "method"), METHODS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_parameter_of_the_client_has_its_place(path: str, method: Callable[..., Any]) -> None:
    assert set(inspect.signature(method).parameters) - OWN <= table_of(path)


@pytest.mark.parametrize(("path", "model"), MODELS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_field_of_the_clients_requests_has_its_place(path: str, model: Any) -> None:
    assert set(model.model_fields) <= table_of(path)


def test_every_option_of_the_client_has_its_place() -> None:
    assert set(ollama_types.Options.model_fields) <= set(fields.OPTIONS)
