"""A kind of model that Tripos does not have, as somebody would add it: its request, its model, and what opens it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from tripos.config import ModelOptions
from tripos.errors import InvalidRequest
from tripos.models.files.source import Source
from tripos.repository import LoadedModel
from tripos.types import Call, Event, Finish, ModelCard, ModelInfo, Request, Result


class Transcribe(Request, frozen=True, kw_only=True, tag="transcribe"):
    """Turn a recording into text. Answered by `Result.texts` of one entry."""

    audio: bytes
    language: str = ""


class Transcriber:
    """Implements types.Model: it hears how long a recording is."""

    def __init__(self, name: str, source: Source) -> None:
        self.card = ModelCard(name=name, task="transcribe", digest="0" * 64)
        self._source = source
        self._is_started = False

    async def start(self) -> None:
        self._is_started = True

    async def stop(self) -> None:
        self._is_started = False

    def close(self) -> None:
        self._source.close()

    async def info(self) -> ModelInfo:
        return ModelInfo(is_progressing=self._is_started)

    async def run(self, call: Call) -> AsyncGenerator[Event, None]:
        if not isinstance(call.request, Transcribe):
            raise InvalidRequest(f"{self.card.name} transcribes recordings", param="model")
        yield Result(texts=(f"{len(call.request.audio)} bytes in {call.request.language or 'some language'}",))
        yield Finish(reason="stop")


class OpenedTranscriber:
    """Implements repository.Opening."""

    min_bytes = max_bytes = 1000

    def __init__(self, options: ModelOptions, source: Source) -> None:
        self.name = options.name or source.name
        self.fixed_bytes = options.memory
        self._source = source

    def held_bytes(self, memory_bytes: int) -> int:
        return self.min_bytes

    def rows(self, memory_bytes: int) -> list[tuple[str, ...]]:
        return [("will it fit?", self.name)]

    def load(self, memory_bytes: int, progress: Callable[[str, float], None]) -> LoadedModel:
        return Transcriber(self.name, self._source)

    def close(self) -> None:
        self._source.close()
