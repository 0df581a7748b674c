"""Errors as Ollama's clients expect them: {"error": text}, with our code and param beside it."""

from __future__ import annotations

from typing import Any

from tripos.errors import TriposError


def encode_error(error: TriposError, request_id: str) -> dict[str, Any]:
    """The body of an error response, and the line that ends a stream."""
    return {"error": error.message, "code": error.code, "param": error.param, "request_id": request_id}
