"""A TriposError as each dialect's clients expect it: OpenAI's, Anthropic's and Ollama's error bodies."""

from __future__ import annotations

from typing import Any

from tripos.errors import TriposError

_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    504: "timeout_error",
}
_ANTHROPIC_TYPES = _OPENAI_TYPES | {
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}


def encode_openai_error(error: TriposError, request_id: str = "") -> dict[str, Any]:
    """{"error": {"message", "type", "param", "code"}}: the body of a response, and the event that ends a stream. The id
    of the request has no place in it."""
    return {"error": {"message": error.message, "type": _type(error, _OPENAI_TYPES, "server_error"), **_place(error)}}


def encode_anthropic_error(error: TriposError, request_id: str) -> dict[str, Any]:
    """{"type": "error", "error": {...}, "request_id"}, with our code and param beside Anthropic's type."""
    inner: dict[str, Any] = {"type": _type(error, _ANTHROPIC_TYPES, "api_error"), "message": error.message}
    inner |= _place(error)
    inner["details"] = {"error_code": error.code}  # where newer clients look for the code
    return {"type": "error", "error": inner, "request_id": request_id}


def encode_ollama_error(error: TriposError, request_id: str) -> dict[str, Any]:
    """{"error": text}, with our code and param beside it: the body of a response, and the line that ends a stream."""
    return {"error": error.message, "code": error.code, "param": error.param, "request_id": request_id}


def _type(error: TriposError, types: dict[int, str], server_error: str) -> str:
    return types.get(error.status, "invalid_request_error" if error.status < 500 else server_error)


def _place(error: TriposError) -> dict[str, Any]:
    return {"param": error.param, "code": error.code}
