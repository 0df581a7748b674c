"""Endpoints that clients know and this server does not have: status 501, and what to use instead."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tripos.api.http.exchange import Exchange
from tripos.api.http.wire_format import ANTHROPIC, OLLAMA, OPENAI, WireFormat
from tripos.errors import NotImplementedHere
from tripos.service import Service


def not_implemented(instead: str) -> Callable[[Exchange, Service], Awaitable[None]]:
    """An endpoint that names what to use instead."""

    async def refuse(exchange: Exchange, service: Service) -> None:
        raise NotImplementedHere(f"this server does not implement the endpoint: {instead}")

    return refuse


NO_STORE = (
    "name the models when the server starts (tripos serve MODEL ...), or load them with /admin/models/load; "
    "/api/tags lists them"
)
NO_BACKGROUND = "responses are not made in the background; a client that closes the connection cancels its response"
_BATCH = 'send the requests one by one with "priority": 1; they use what other requests leave free'
_FILES = "put the content of the file into the messages of /v1/chat/completions or /v1/responses"
_MEDIA = "only text is read and written: use /v1/chat/completions"
_THREADS = "continue an earlier response with previous_response_id of /v1/responses"
_ADMIN = "API keys are configured when the server starts (tripos serve --api-key-file)"
_TRAINING = "train with another program, and serve the result (tripos serve MODEL)"

# Prefix of paths (the path itself and all below it), the client family, what to use instead.
FAMILIES: tuple[tuple[str, WireFormat, str], ...] = (
    ("/v1/chat/completions/", OPENAI, "use /v1/responses for answers that the server stores"),
    ("/v1/responses/compact", OPENAI, "send /v1/responses the messages to keep"),
    ("/v1/conversations", OPENAI, _THREADS),
    ("/v1/assistants", OPENAI, _THREADS),
    ("/v1/threads", OPENAI, _THREADS),
    ("/v1/chatkit", OPENAI, _THREADS),
    ("/v1/batches", OPENAI, _BATCH),
    ("/v1/files", OPENAI, _FILES),
    ("/v1/uploads", OPENAI, _FILES),
    ("/v1/vector_stores", OPENAI, _FILES),
    ("/v1/containers", OPENAI, "the server runs no code; call your own functions through tools"),
    ("/v1/skills", OPENAI, "use the instructions of /v1/responses, or a system message"),
    ("/v1/images", OPENAI, _MEDIA),
    ("/v1/videos", OPENAI, _MEDIA),
    ("/v1/audio", OPENAI, _MEDIA),
    ("/v1/realtime", OPENAI, "stream the answer of /v1/chat/completions or /v1/responses"),
    ("/v1/live", OPENAI, "stream the answer of /v1/chat/completions or /v1/responses"),
    ("/v1/moderations", OPENAI, "ask /v1/decisions whether a text belongs to a category"),
    ("/v1/content_provenance_checks", OPENAI, "ask /v1/decisions about a text"),
    ("/v1/safety", OPENAI, "ask /v1/decisions about a text"),
    ("/v1/edits", OPENAI, "ask /v1/chat/completions for the change"),
    ("/v1/engines", OPENAI, "name the model in the body of /v1/completions"),
    ("/v1/fine_tuning", OPENAI, _TRAINING),
    ("/v1/evals", OPENAI, "ask /v1/decisions, and compare the answers with the expected ones"),
    ("/v1/organization", OPENAI, _ADMIN),
    ("/v1/projects", OPENAI, _ADMIN),
    ("/v1/messages/batches", ANTHROPIC, "send the messages to /v1/messages one by one"),
    ("/v1/complete", ANTHROPIC, "use /v1/messages"),
    ("/api/blobs", OLLAMA, NO_STORE),
)


def find_family(path: str) -> tuple[WireFormat, str] | None:
    """The client family of a path that is not implemented, and what to use instead."""
    for prefix, wire_format, instead in FAMILIES:
        if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
            return wire_format, instead
    return None
