"""Health, metrics and version: small answers about the server itself."""

from __future__ import annotations

from tripos.api.http.exchange import Exchange
from tripos.errors import Overloaded
from tripos.metering.metrics import CONTENT_TYPE
from tripos.service import RETRY_S, Service
from tripos.version import __version__


async def livez(exchange: Exchange, service: Service) -> None:
    """The process answers."""
    exchange.answer_json({"status": "ok"})


async def readyz(exchange: Exchange, service: Service) -> None:
    """Every model moves on, and new calls are taken."""
    await _check_ready(service)
    exchange.answer_json({"status": "ok"})


async def health(exchange: Exchange, service: Service) -> None:
    """As readyz, with the state of every model for whoever has a key."""
    await _check_ready(service)
    exchange.answer_json({"status": "ok", "models": service.states()})


async def metrics(exchange: Exchange, service: Service) -> None:
    await service.refresh()
    exchange.answer(200, service.metrics.render(), CONTENT_TYPE.encode())


async def root(exchange: Exchange, service: Service) -> None:
    """Some clients knock here first."""
    exchange.answer_json({"name": "tripos", "version": __version__, "document": "/openapi.json"})


async def version(exchange: Exchange, service: Service) -> None:
    exchange.answer_json({"version": __version__})


async def _check_ready(service: Service) -> None:
    await service.refresh()
    reason = service.unready()
    if reason is not None:
        raise Overloaded(f"not ready: {reason}", code=reason, retry_after_s=RETRY_S)
