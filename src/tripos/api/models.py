"""GET /v1/models and /v1/models/{id}: what is served."""

from __future__ import annotations

from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.wire.openai.models import encode_model, encode_models


async def list_models(exchange: Exchange, service: Service) -> None:
    exchange.answer_json(encode_models(service.cards))


async def show_model(exchange: Exchange, service: Service) -> None:
    """The id may hold ':' and '/'."""
    exchange.answer_json(encode_model(service.card(exchange.path_params["name"])))
