"""A server on a loopback socket, in the test's event loop, over scripted models; with the clients to ask it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from tripos.api.app import App
from tripos.api.auth import Keys
from tripos.api.http.access_log import AccessLog
from tripos.api.http.connection_limit import ConnectionLimit
from tripos.api.http.server import Door, listen
from tripos.build.kinds import load_encoder
from tripos.config import ModelOptions
from tripos.controls.deadline import deadline
from tripos.controls.limits import limits
from tripos.dialects import stage as dialects
from tripos.engine.adapter_slots import Adapters
from tripos.engine.engine import Engine, EngineOptions
from tripos.engine.llm import LanguageModel
from tripos.models.files.lora import ReadAdapter
from tripos.pipeline.decide import decide
from tripos.predict.encoder import EncoderModel
from tripos.repository import ModelRepository
from tripos.runtime.executor import ExecutorOptions
from tripos.service import Service
from tripos.testing import ScriptedExecutor, byte_tokenizer
from tripos.types import Message, Model, ModelCard

VOCAB_SIZE = 257  # bytes and </s>
EOS = 256
WINDOW = 256
NUM_BLOCKS = 512
MAX_ADAPTERS = 3
ENCODER = "tiny-encoder"
HELLO: list[Any] = [{"role": "user", "content": "Hello?"}]


def draw_letter(tokens: list[int], seed: int, counter: int) -> int:
    return 97 + (sum(tokens) * 31 + seed + counter) % 26


def saying(text: str) -> Callable[[list[int], int, int], int]:
    """Behind the last ">" of what came so far the text, and the token that ends it."""
    script = [*text.encode(), EOS]

    def draw(tokens: list[int], seed: int, counter: int) -> int:
        place = tokens[::-1].index(ord(">"))
        return script[min(place, len(script) - 1)]

    return draw


class TinyModel(LanguageModel):
    """The real engine over a scripted executor; draws lower-case letters, or what `draw` says."""

    def __init__(
        self,
        name: str = "tiny",
        step_s: float = 0.0,
        window: int = WINDOW,
        num_blocks: int = NUM_BLOCKS,
        draw: Callable[[list[int], int, int], int] = draw_letter,
        read_adapter: Callable[[str], ReadAdapter] | None = None,
    ) -> None:
        executor = ScriptedExecutor(VOCAB_SIZE, ExecutorOptions(block_size=16), step_s=step_s, next_token=draw)
        executor.reserve(num_blocks)
        engine = Engine(executor, EngineOptions(num_blocks, 16, window))
        card = ModelCard(
            name=name, task="generate", digest="ab" * 32, max_model_len=window, vocab_size=VOCAB_SIZE, created=1
        )
        adapters = None if read_adapter is None else Adapters(executor, MAX_ADAPTERS, read_adapter)
        super().__init__(card, byte_tokenizer(), engine, self._template, adapters)

    def _template(self, messages: tuple[Message, ...], tools: Any, args: dict[str, Any]) -> list[int]:
        text = "".join(f"{message.role}: {message.content}\n" for message in messages)
        return list((text + ("assistant: " if args.get("add_generation_prompt", True) else "")).encode())

    @property
    def num_held(self) -> int:
        return self.engine.pool.num_held


def tiny_encoder(name: str = ENCODER, golden: str = "bert-mean") -> EncoderModel:
    """A real encoder with random weights, two layers of 32 columns: 36 tokens at most, prompts query and document."""
    folder = Path(__file__).parents[1] / "models" / "golden_encoders" / golden
    return load_encoder(ModelOptions(source=str(folder), name=name, threads=1))


class Running:
    """A Door that answers, and clients for it."""

    def __init__(self, door: Door, service: Service, task: asyncio.Task[bool]) -> None:
        self.door = door
        self.service = service
        self.task = task
        self.url = door.address
        self.port = int(self.url.rpartition(":")[2])
        self.http = httpx.AsyncClient(base_url=self.url, timeout=10, trust_env=False)
        self.openai = openai.AsyncOpenAI(
            base_url=self.url + "/v1", api_key="none", max_retries=0, http_client=httpx.AsyncClient(trust_env=False)
        )

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """JSON, or bytes as they are."""
        content = body if isinstance(body, bytes) else httpx.Request("POST", "http://test", json=body).content
        names = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return await self.http.post(path, content=content, headers=names)

    async def canary(self) -> str:
        """The same small request, whose answer must never change."""
        body = {"model": "tiny", "prompt": "canary", "max_tokens": 8, "seed": 7}
        response = await self.post("/v1/completions", body)
        assert response.status_code == 200, response.text
        text: str = response.json()["choices"][0]["text"]
        return text

    async def raw(self, data: bytes) -> bytes:
        """Bytes to a fresh connection; everything that comes until it closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(5):
                return await reader.read()
        finally:
            writer.close()


def error_code(response: httpx.Response) -> str:
    """The code of an error in any dialect; "" for none."""
    body = response.json()
    inner = body.get("error", {}) if isinstance(body, dict) else {}
    code: str = (inner if isinstance(inner, dict) else body).get("code", "")
    return code


@asynccontextmanager
async def running(*models: Model, keys: Keys | None = None, drain_s: float = 5.0) -> AsyncIterator[Running]:
    service = Service()
    for model in models:
        stages = [limits(max_model_len=model.card.max_model_len), deadline()]
        if isinstance(model, LanguageModel):
            stages.append(decide())
        if model.card.task == "generate":
            stages.append(dialects.stage(model.card))
        service.add(model, stages)
    async with running_service(service, keys, drain_s) as server:
        yield server


@asynccontextmanager
async def running_service(
    service: Service,
    keys: Keys | None = None,
    drain_s: float = 5.0,
    access: AccessLog = "on",
    limit: ConnectionLimit | None = None,
    repository: ModelRepository | None = None,
) -> AsyncIterator[Running]:
    listener = listen("127.0.0.1", 0)
    door = Door(service, App(service, keys, access=access, repository=repository), listener, drain_s, limit)
    ready = asyncio.Event()
    task = asyncio.create_task(door.run(lambda address: ready.set()))
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    server = Running(door, service, task)
    try:
        yield server
    finally:
        await server.http.aclose()
        await server.openai.close()
        door.stop(now=True)
        await task
        listener.close()
