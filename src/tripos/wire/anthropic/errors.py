"""Errors as Anthropic's clients expect them, with our code and param beside the type."""

from __future__ import annotations

from typing import Any

from tripos.errors import TriposError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def encode_error(error: TriposError, request_id: str) -> dict[str, Any]:
    """The body of an error response, and the event that ends a stream."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    inner: dict[str, Any] = {"type": kind, "message": error.message, "param": error.param, "code": error.code}
    inner["details"] = {"error_code": error.code}  # where newer clients look for it
    return {"type": "error", "error": inner, "request_id": request_id}
