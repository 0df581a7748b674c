"""Endpoints that clients know and this server does not serve: 501, naming what does the job."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tripos.api.http.exchange import Exchange
from tripos.errors import NotImplementedHere
from tripos.service import Service


def absent(instead: str) -> Callable[[Exchange, Service], Awaitable[None]]:
    """An endpoint that says what to do instead."""

    async def refuse(exchange: Exchange, service: Service) -> None:
        raise NotImplementedHere(f"this server does not do that: {instead}")

    return refuse
