"""Where `generate` and `chat` send requests: a model in this process, or a running server.

Both take the body of an OpenAI request and give the chunks of its stream.
Tested in tests/e2e/test_chat.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol, Required, Self, TypedDict

from tripos import config
from tripos.cli.terminal import Startup, show_status
from tripos.errors import ConfigError, NotFound

if TYPE_CHECKING:
    pass

Kind = Literal["chat/completions", "completions"]
Hear = Callable[[dict[str, Any]], None]


class Served(TypedDict, total=False):
    """A model in a server's list; other kinds of servers may leave fields out."""

    id: Required[str]
    task: str
    max_model_len: int


class ServedList(TypedDict):
    data: list[Served]


class Usage(TypedDict):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChunkDelta(TypedDict, total=False):
    content: str | None
    reasoning_content: str | None
    tool_calls: list[dict[str, Any]] | None


class ChunkChoice(TypedDict, total=False):
    delta: ChunkDelta
    text: str | None
    finish_reason: str | None


class Chunk(TypedDict, total=False):
    """The fields of a stream's chunks that are read."""

    choices: list[ChunkChoice]
    usage: Usage | None


class Session(Protocol):
    """`name` of the model, `context_length`: tokens of prompt and answer together (0: unknown)."""

    name: str

    @property
    def context_length(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...

    def ask(self, kind: Kind, body: dict[str, Any], hear: Hear) -> None:
        """Calls `hear` with each chunk as it comes; the last one holds the usage. An interrupt ends the answer and
        leaves the session as it was. Raises TriposError."""


class LocalSession:
    """One model in this process, for as long as a command runs."""

    def __init__(self, model: str, flags: dict[str, str]) -> None:
        """Raises ConfigError (also for a model of another task), ModelRefused, EnvironmentProblem."""
        options = config.read_options((model,), flags, os.environ)
        import asyncio

        from tripos.build import service as build_service

        self.name = model
        self._startup = Startup(show_status if sys.stderr.isatty() else None)
        self._service = build_service.build_service(options, progress=self._startup)
        self.card = self._service.cards[0]  # cards of adapters follow
        if self.card.task != "generate":
            self._startup.finish()
            raise ConfigError(
                f"{self.card.name} is there to {self.card.task}, and a language model is needed to write text: "
                f"tripos serve {model} serves it"
            )
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._service.start())
        self._startup.finish()
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._service.stop())
        self._runner.close()

    @property
    def context_length(self) -> int:
        return self.card.max_model_len

    @property
    def has_template(self) -> bool:
        """Whether the model has a chat template."""
        return self.card.has_chat_template

    def ask(self, kind: Kind, body: dict[str, Any], hear: Hear) -> None:
        self._runner.run(self._ask(kind, body, hear))

    async def _ask(self, kind: Kind, body: dict[str, Any], hear: Hear) -> None:
        import contextlib

        from msgspec import json

        from tripos import answers
        from tripos.wire.openai import chat, completions
        from tripos.wire.openai.generation import Identity

        decode = chat.decode if kind == "chat/completions" else completions.decode
        request = answers.adapt(self._service, decode(json.encode(_streamed(body, self.card.name))), self.card)
        identity = Identity(id="cli", created=0, model=self.card.name, system_fingerprint="")
        encoder_of = chat.ChatAnswer if kind == "chat/completions" else completions.CompletionAnswer
        encoder, arrival_s = encoder_of(request, identity), time.monotonic()
        calls = answers.make_calls(request, request.requests, request_id="cli", arrival_s=arrival_s)
        async with contextlib.aclosing(answers.run(self._service, calls)) as batches:
            async for batch in batches:
                for chunk in encoder.take(batch):
                    hear(json.decode(chunk))
        for last in encoder.end(time.monotonic() - arrival_s):
            hear(last)


class RemoteSession:
    """A model of a running server. Without `model`: the first that answers chats."""

    def __init__(self, model: str, url: str, key_file: str) -> None:
        """Raises ConfigError, EnvironmentProblem, RemoteError, NotFound."""
        from tripos.client import Client

        self._client = Client(url, key_file)
        served = self._client.ask("GET", "/v1/models", form=ServedList)["data"]
        found = [each for each in served if each.get("task") == "generate" and model in ("", each["id"])]
        if not found:
            names = ", ".join(f"{each['id']} ({each.get('task') or 'of no known task'})" for each in served)
            missing = f"no language model{f' named {model}' if model else ''}"
            raise NotFound(f"{url} serves {missing}; it serves: {names or 'nothing'}")
        self.name: str = found[0]["id"]
        self._context_length: int = found[0].get("max_model_len", 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def context_length(self) -> int:
        return self._context_length

    def ask(self, kind: Kind, body: dict[str, Any], hear: Hear) -> None:
        for chunk in self._client.stream(f"/v1/{kind}", _streamed(body, self.name), Chunk):
            hear(chunk)


def _streamed(body: dict[str, Any], model: str) -> dict[str, Any]:
    return {**body, "model": model, "stream": True, "stream_options": {"include_usage": True}}
