"""/admin: what changes the server while it runs. Needs a key with the admin scope; without keys, this machine.

A change goes on when its client leaves: half a change would help nobody.
"""

from __future__ import annotations

from tripos.api.http.exchange import Exchange
from tripos.api.http.hosts import LOOPBACK, check_host
from tripos.api.http.loopback import is_loopback
from tripos.errors import NotFound, PermissionDenied
from tripos.repository import ModelRepository
from tripos.service import Service
from tripos.wire import admin

# By which a proxy shows that it is one.
_FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip", b"via")


def check_local(exchange: Exchange) -> None:
    """Where no keys are configured. A proxy on this machine speaks for others, and a web page for whoever wrote it, be
    it one of those that may ask for answers (cors_origins). Raises PermissionDenied, MisdirectedHost.
    """
    if not exchange.is_program:
        raise PermissionDenied("without API keys no web page may do this: configure a key with the admin scope")
    is_local = not exchange.peer or is_loopback(exchange.peer)  # no address: a socket of the file system
    if not is_local or any(name in exchange.fields for name in _FORWARDED):
        raise PermissionDenied("without API keys only this machine may do this: configure a key with the admin scope")
    check_host(exchange.fields.get(b"host"), LOOPBACK)


async def list_models(exchange: Exchange, service: Service) -> None:
    exchange.answer_json(find_repository(exchange).describe())


async def load(exchange: Exchange, service: Service) -> None:
    given = admin.decode_load(await exchange.read_body())
    exchange.answer_json(await find_repository(exchange).load(*given))


async def reload(exchange: Exchange, service: Service) -> None:
    given = admin.decode_reload(await exchange.read_body())
    exchange.answer_json(await find_repository(exchange).reload(*given))


async def unload(exchange: Exchange, service: Service) -> None:
    name = admin.decode_unload(await exchange.read_body())
    exchange.answer_json(await find_repository(exchange).unload(name))


async def reread(exchange: Exchange, service: Service) -> None:
    admin.decode_reread(await exchange.read_body())
    find_repository(exchange)
    exchange.answer_json(await exchange.reread())


def find_repository(exchange: Exchange) -> ModelRepository:
    if exchange.repository is None:
        raise NotFound("the models of this server are fixed: it has no model repository")
    return exchange.repository
