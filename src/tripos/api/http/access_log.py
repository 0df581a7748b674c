"""One structured line per request, without content: no prompt, no key, no query string."""

from __future__ import annotations

import logging
from typing import Any, Literal

from tripos.api.http.exchange import Exchange
from tripos.errors import TriposError

log = logging.getLogger("tripos.access")

MAX_PATH_CHARS = 128
AccessLog = Literal["on", "all", "off"]  # on: without the successful requests of quiet routes


def write(exchange: Exchange, seconds: float) -> None:
    """Whoever formats the line escapes what a client put into its path or request id."""
    if not log.isEnabledFor(logging.INFO):
        return
    fields: dict[str, Any] = {
        "client": exchange.client,
        "method": exchange.head.method[:16],
        "path": exchange.head.decoded_path[:MAX_PATH_CHARS],
        "status": exchange.status,
        "code": exchange.code,
        "model": exchange.model,
        "principal": exchange.principal,
        "bytes": exchange.num_sent,
        "ms": round(seconds * 1e3, 3),
        "request_id": exchange.request_id,
    }
    if (usage := exchange.usage) is not None:
        fields |= {
            "prompt_tokens": usage.prompt_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
        }
    log.info("request", extra={"fields": fields})


def write_refusal(peer: str, request_id: str, error: TriposError, num_sent: int) -> None:
    """A request that could not be read as far as its path."""
    if log.isEnabledFor(logging.INFO):
        fields = {"client": peer, "status": error.status, "code": error.code, "bytes": num_sent}
        log.info("request", extra={"fields": fields | {"request_id": request_id}})
