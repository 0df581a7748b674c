"""Whole families of endpoints that clients know and this server does not have: each with the nearest that works."""

from __future__ import annotations

from tripos.api.absent import absent
from tripos.api.anthropic import ANTHROPIC
from tripos.api.dialect import OPENAI, Dialect
from tripos.api.ollama import OLLAMA
from tripos.api.routes import NO_STORE, Route

_BATCH = 'send the requests one by one with "priority": 1, they fill what others leave'
_FILES = "put what a file says into the messages of /v1/chat/completions or /v1/responses"
_MEDIA = "it reads and writes text: /v1/chat/completions"
_THREADS = "go on from an earlier answer with previous_response_id of /v1/responses"
_ADMIN = "keys are named when it starts (tripos serve --api-key-file)"
_TRAINING = "train elsewhere, and serve what comes of it (tripos serve MODEL)"

# The path itself and all below it.
ELSEWHERE: tuple[tuple[str, Dialect, str], ...] = (
    ("/v1/chat/completions/", OPENAI, "answers that are to be kept come from /v1/responses"),
    ("/v1/responses/compact", OPENAI, "send /v1/responses the messages that count"),
    ("/v1/conversations", OPENAI, _THREADS),
    ("/v1/assistants", OPENAI, _THREADS),
    ("/v1/threads", OPENAI, _THREADS),
    ("/v1/chatkit", OPENAI, _THREADS),
    ("/v1/batches", OPENAI, _BATCH),
    ("/v1/files", OPENAI, _FILES),
    ("/v1/uploads", OPENAI, _FILES),
    ("/v1/vector_stores", OPENAI, _FILES),
    ("/v1/containers", OPENAI, "it runs no code; call functions of your own through tools"),
    ("/v1/skills", OPENAI, "say it in the instructions of /v1/responses, or in a system message"),
    ("/v1/images", OPENAI, _MEDIA),
    ("/v1/videos", OPENAI, _MEDIA),
    ("/v1/audio", OPENAI, _MEDIA),
    ("/v1/realtime", OPENAI, "stream the answer of /v1/chat/completions or /v1/responses"),
    ("/v1/live", OPENAI, "stream the answer of /v1/chat/completions or /v1/responses"),
    ("/v1/moderations", OPENAI, "ask /v1/decisions whether a text is what you will not have"),
    ("/v1/content_provenance_checks", OPENAI, "ask /v1/decisions about a text"),
    ("/v1/safety", OPENAI, "ask /v1/decisions about a text"),
    ("/v1/edits", OPENAI, "ask /v1/chat/completions for the change"),
    ("/v1/engines", OPENAI, "name the model in the body of /v1/completions"),
    ("/v1/fine_tuning", OPENAI, _TRAINING),
    ("/v1/evals", OPENAI, "ask /v1/decisions, and compare with what you know"),
    ("/v1/organization", OPENAI, _ADMIN),
    ("/v1/projects", OPENAI, _ADMIN),
    ("/v1/messages/batches", ANTHROPIC, "send /v1/messages one by one"),
    ("/v1/complete", ANTHROPIC, "use /v1/messages"),
    ("/api/blobs", OLLAMA, NO_STORE),
)


def elsewhere(method: str, path: str) -> Route | None:
    """A route that says what to do instead, for a path of a family that is not served."""
    for prefix, dialect, instead in ELSEWHERE:
        if path == prefix or path.startswith(prefix.rstrip("/") + "/"):
            return Route(method, path, absent(instead), instead, dialect)
    return None
