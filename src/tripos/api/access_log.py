"""One structured line per request, without content: no prompt, no key, no query string."""

from __future__ import annotations

import logging

from tripos.api.exchange import Exchange
from tripos.errors import TriposError
from tripos.wire.json import encode

log = logging.getLogger("tripos.access")

MAX_PATH_CHARS = 128


def write(exchange: Exchange, seconds: float) -> None:
    """JSON escapes what a client put into its path or request id."""
    if not log.isEnabledFor(logging.INFO):
        return
    line = {
        "request_id": exchange.request_id,
        "method": exchange.head.method[:16],
        "path": exchange.head.decoded_path[:MAX_PATH_CHARS],
        "status": exchange.status,
        "code": exchange.code,
        "model": exchange.model,
        "principal": exchange.principal,
        "bytes": exchange.num_sent,
        "ms": round(seconds * 1e3, 3),
    }
    log.info(encode(line).decode())


def write_refusal(request_id: str, error: TriposError, num_sent: int) -> None:
    """A request that could not be read as far as its path."""
    if log.isEnabledFor(logging.INFO):
        line = {"request_id": request_id, "status": error.status, "code": error.code, "bytes": num_sent}
        log.info(encode(line).decode())
