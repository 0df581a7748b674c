"""Our server over a model that answers at once. argv: port."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator

from benchmarks.serving.script import TEXT, TOKENS
from tripos.api.http.server import serve
from tripos.config import ServerOptions
from tripos.controls.deadline import deadline
from tripos.controls.limits import limits
from tripos.service import Service
from tripos.types import Call, Delta, Event, Finish, Generate, ModelCard, ModelInfo, Usage


class AtOnce:
    """The stages, checks and meters around it are those of every model."""

    card = ModelCard(name="scripted", task="generate", digest="0" * 64, max_model_len=2048, vocab_size=256)

    async def start(self) -> None:
        """Nothing to load."""

    async def stop(self) -> None:
        """Nothing to free."""

    async def info(self) -> ModelInfo:
        return ModelInfo()

    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        """The whole text in one Delta, or, when many tokens are asked for, one Delta per token."""
        assert isinstance(call.request, Generate)
        usage = Usage(prompt_tokens=32, output_tokens=call.request.max_tokens or 0)
        if call.request.max_tokens == len(TOKENS):
            for token_id, text in enumerate(TOKENS):
                yield Delta(text=text, token_ids=(token_id,))
            yield Delta(finish_reason="stop")
        else:
            yield Delta(text=TEXT, token_ids=tuple(range(16)), finish_reason="stop")
        yield Finish(reason="stop", usage=usage)


if __name__ == "__main__":
    service = Service()
    service.add(AtOnce(), (limits(max_model_len=2048), deadline()))
    logging.getLogger("tripos.access").setLevel(logging.WARNING)
    serve(service, ServerOptions(port=int(sys.argv[1])), lambda address: print("ready", flush=True))
