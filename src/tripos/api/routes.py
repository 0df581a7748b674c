"""The route table: what this server answers to, and the document of it. Private unless a line says otherwise."""

from __future__ import annotations

from functools import cache

from tripos.api import admin, anthropic, decisions, generate, models, ollama, oneshot, probes, responses, tokens
from tripos.api import lora as adapters
from tripos.api.http.exchange import Exchange
from tripos.api.http.wire_format import ANTHROPIC, OLLAMA, OPENAI_RESPONSES
from tripos.api.not_implemented import NO_BACKGROUND, NO_STORE, not_implemented
from tripos.api.routing import Route
from tripos.service import Service
from tripos.version import __version__
from tripos.wire import admin as admin_wire
from tripos.wire import rerank, systemone
from tripos.wire.anthropic import messages
from tripos.wire.json import encode
from tripos.wire.ollama import embeddings as ollama_embeddings
from tripos.wire.ollama import fields as ollama_fields
from tripos.wire.ollama import generation as ollama_generation
from tripos.wire.ollama import models as ollama_models
from tripos.wire.openai import chat, completions, embeddings
from tripos.wire.openai import decisions as decisions_wire
from tripos.wire.openai import lora as adapters_wire
from tripos.wire.openai import responses as responses_wire
from tripos.wire.openai import tokens as tokens_wire
from tripos.wire.openapi import encode_document


async def show_document(exchange: Exchange, service: Service) -> None:
    exchange.answer(200, _document())


@cache
def _document() -> bytes:
    return encode(encode_document([route.operation for route in ROUTES], __version__))


NO_STORE_SUMMARY = "501: models are named at the start or loaded by an admin"
OPTIONS = {"options": ollama_fields.OPTIONS}

ROUTES = (
    Route(
        "POST",
        "/v1/chat/completions",
        generate.complete_chat,
        "Answer a conversation, whole or as a stream",
        fields=chat.FIELDS,
    ),
    Route(
        "POST",
        "/v1/completions",
        generate.complete,
        "Continue text or token ids, one prompt or a list",
        fields=completions.FIELDS,
    ),
    Route(
        "POST",
        "/v1/responses",
        responses.create_response,
        "Answer, keep the conversation, and go on from it",
        OPENAI_RESPONSES,
        responses_wire.FIELDS,
    ),
    Route(
        "POST",
        "/v1/responses/input_tokens",
        responses.count_tokens,
        "How many tokens a response's prompt would have",
        OPENAI_RESPONSES,
        responses_wire.COUNT,
    ),
    Route(
        "GET",
        "/v1/responses/{name}/input_items",
        responses.list_input_items,
        "What a stored response answered",
        OPENAI_RESPONSES,
    ),
    Route(
        "POST",
        "/v1/responses/{name}/cancel",
        not_implemented(NO_BACKGROUND),
        "501: nothing runs in the background",
        OPENAI_RESPONSES,
    ),
    Route("GET", "/v1/responses/{name:path}", responses.show_response, "A stored response", OPENAI_RESPONSES),
    Route(
        "DELETE", "/v1/responses/{name:path}", responses.delete_response, "Forget a stored response", OPENAI_RESPONSES
    ),
    Route(
        "POST",
        "/v1/messages",
        anthropic.create_message,
        "Answer a conversation as Anthropic does, whole or as a stream",
        ANTHROPIC,
        messages.FIELDS,
    ),
    Route(
        "POST",
        "/v1/messages/count_tokens",
        anthropic.count_tokens,
        "How many tokens a message's prompt would have",
        ANTHROPIC,
        messages.COUNT,
    ),
    Route("GET", "/v1/models", models.list_models, "List what is served, with window and digest"),
    Route("GET", "/v1/models/{name:path}", models.show_model, "One of them; the name may hold : and /"),
    Route(
        "POST",
        "/v1/load_lora_adapter",
        adapters.load,
        "Load a LoRA adapter of a model; it is then served as a model of its own",
        fields=adapters_wire.LOAD,
        scope="admin",
    ),
    Route(
        "POST",
        "/v1/unload_lora_adapter",
        adapters.unload,
        "Take no new requests for an adapter, and answer when the last has ended",
        fields=adapters_wire.UNLOAD,
        scope="admin",
    ),
    Route(
        "POST",
        "/v1/decisions",
        decisions.decide,
        "Answer typed questions with probabilities",
        fields=decisions_wire.FIELDS,
    ),
    Route(
        "POST",
        "/v1/systemone",
        decisions.system_one,
        "The same in the System One dialect",
        fields=systemone.FIELDS,
    ),
    Route(
        "POST",
        "/v1/embeddings",
        oneshot.embed,
        "Texts or token ids to vectors",
        fields=embeddings.FIELDS,
    ),
    *(
        Route("POST", path, oneshot.rerank, "Documents by how well they fit a query", fields=rerank.RERANK)
        for path in ("/rerank", "/v1/rerank", "/v2/rerank")
    ),
    *(
        Route("POST", path, oneshot.score, "How well texts fit each other, in pairs", fields=rerank.SCORE)
        for path in ("/score", "/v1/score")
    ),
    Route(
        "POST",
        "/api/chat",
        ollama.chat,
        "Answer a conversation as Ollama does, in lines or whole",
        OLLAMA,
        ollama_generation.CHAT,
        OPTIONS,
    ),
    Route(
        "POST",
        "/api/generate",
        ollama.generate,
        "Answer or continue one prompt",
        OLLAMA,
        ollama_generation.GENERATE,
        OPTIONS,
    ),
    Route("GET", "/api/tags", ollama.tags, "List what is served", OLLAMA),
    Route("GET", "/api/ps", ollama.ps, "The same: every served model is loaded", OLLAMA),
    Route("POST", "/api/show", ollama.show, "One model's card", OLLAMA, ollama_models.SHOW),
    Route("GET", "/api/version", ollama.version, "The version of the server", OLLAMA, needs_models=False),
    Route(
        "POST",
        "/api/embed",
        oneshot.embed_as_ollama,
        "Texts to vectors",
        OLLAMA,
        ollama_embeddings.EMBED,
    ),
    Route(
        "POST",
        "/api/embeddings",
        oneshot.embed_one_as_ollama,
        "One text to a vector; the older form",
        OLLAMA,
        ollama_embeddings.EMBEDDINGS,
    ),
    Route("POST", "/api/pull", not_implemented(NO_STORE), NO_STORE_SUMMARY, OLLAMA),
    Route("POST", "/api/push", not_implemented(NO_STORE), NO_STORE_SUMMARY, OLLAMA),
    Route("POST", "/api/create", not_implemented(NO_STORE), NO_STORE_SUMMARY, OLLAMA),
    Route("POST", "/api/copy", not_implemented(NO_STORE), NO_STORE_SUMMARY, OLLAMA),
    Route("DELETE", "/api/delete", not_implemented(NO_STORE), NO_STORE_SUMMARY, OLLAMA),
    Route("POST", "/tokenize", tokens.tokenize, "Text or messages to token ids", fields=tokens_wire.TOKENIZE),
    Route("POST", "/detokenize", tokens.detokenize, "Token ids to text", fields=tokens_wire.DETOKENIZE),
    Route("GET", "/admin/models", admin.list_models, "Every model's state, memory and calls", scope="admin"),
    Route(
        "POST",
        "/admin/models/load",
        admin.load,
        "Load a model while the others answer",
        fields=admin_wire.LOAD,
        scope="admin",
    ),
    Route(
        "POST",
        "/admin/models/reload",
        admin.reload,
        "Load a model anew and switch to it without a dropped request",
        fields=admin_wire.RELOAD,
        scope="admin",
    ),
    Route(
        "POST",
        "/admin/models/unload",
        admin.unload,
        "Drain a model and free its memory",
        fields=admin_wire.UNLOAD,
        scope="admin",
    ),
    Route(
        "POST",
        "/admin/reread",
        admin.reread,
        "Read keys, certificate and tripos.toml again, as SIGHUP does",
        fields=admin_wire.REREAD,
        scope="admin",
    ),
    Route("GET", "/livez", probes.livez, "The process answers", needs_models=False, is_public=True, is_quiet=True),
    Route(
        "GET",
        "/readyz",
        probes.readyz,
        "Every model moves on and new calls are taken, else 503",
        needs_models=False,
        is_public=True,
        is_quiet=True,
    ),
    Route(
        "GET",
        "/health",
        probes.health,
        "As /readyz, with every model's state; needs a key if keys are configured",
        needs_models=False,
        is_quiet=True,
    ),
    Route("GET", "/metrics", probes.metrics, "Prometheus text", scope="metrics", needs_models=False, is_quiet=True),
    Route("GET", "/version", probes.version, "The version of the server", needs_models=False),
    Route("GET", "/", probes.root, "Name and version; some clients knock here first", needs_models=False),
    Route("GET", "/openapi.json", show_document, "This document", needs_models=False),
)
