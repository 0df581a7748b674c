"""One structured line per request, without content: no prompt, no key, no query string."""

from __future__ import annotations

import logging

from tripos.api.exchange import Exchange
from tripos.wire.json import encode

log = logging.getLogger("tripos.access")

MAX_PATH_CHARS = 128


def write(exchange: Exchange, seconds: float) -> None:
    """JSON escapes what a client put into its path or request id."""
    if not log.isEnabledFor(logging.INFO):
        return
    line = {
        "request_id": exchange.request_id,
        "method": exchange.scope["method"][:16],
        "path": exchange.scope["path"][:MAX_PATH_CHARS],
        "status": exchange.status,
        "code": exchange.code,
        "model": exchange.model,
        "principal": exchange.principal,
        "bytes": exchange.num_sent,
        "ms": round(seconds * 1e3, 3),
    }
    log.info(encode(line).decode())
