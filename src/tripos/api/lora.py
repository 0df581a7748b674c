"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter: adapters come and go while requests run.

A client that leaves does not stop what it began: half of a change would be worse than all of it.
"""

from __future__ import annotations

from tripos.api.admin import find_repository
from tripos.api.http.exchange import Exchange
from tripos.service import Service
from tripos.wire.openai.lora import decode_load, decode_unload

TEXT = b"text/plain; charset=utf-8"


async def load(exchange: Exchange, service: Service) -> None:
    request = decode_load(await exchange.read_body())
    await find_repository(exchange).load_adapter(
        request.name, request.path, base=request.base, in_place=request.in_place
    )
    exchange.answer(200, f"Success: LoRA adapter '{request.name}' added successfully.".encode(), TEXT)


async def unload(exchange: Exchange, service: Service) -> None:
    """Answers when the last request that uses the adapter has ended; new ones find it gone at once."""
    name = decode_unload(await exchange.read_body())
    await find_repository(exchange).unload_adapter(name)
    exchange.answer(200, f"Success: LoRA adapter '{name}' removed successfully.".encode(), TEXT)
