"""The same endpoint as one writes it with FastAPI, pydantic and uvicorn. argv: port."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections.abc import AsyncIterator
from typing import Literal

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.serving.script import TEXT, TOKENS


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | None = None
    name: str | None = None
    tool_call_id: str | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class ChatRequest(BaseModel):
    """The sampling and delivery fields that both servers read, with their ranges."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(max_length=256)
    messages: list[Message] = Field(min_length=1, max_length=2048)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    max_completion_tokens: int | None = Field(None, ge=1, le=2**31 - 1)
    n: int = Field(1, ge=1, le=8)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, ge=0.01, le=10)
    logit_bias: dict[str, float] | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    seed: int | None = Field(None, ge=0)
    stop: str | list[str] | None = None
    user: str | None = Field(None, max_length=512)


class Delta(BaseModel):
    role: str | None = None
    content: str | None = None


class StreamChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: None = None
    finish_reason: str | None = None


class Chunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[StreamChoice]


class Choice(BaseModel):
    index: int
    message: Message
    logprobs: None = None
    finish_reason: str


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage


app = FastAPI()


async def generate() -> AsyncIterator[str]:
    """The scripted model: everything at once."""
    for token in TOKENS:
        yield token


async def chunks(id: str, model: str) -> AsyncIterator[str]:
    created = int(time.time())

    def event(delta: Delta, finish_reason: str | None = None) -> str:
        choice = StreamChoice(index=0, delta=delta, finish_reason=finish_reason)
        chunk = Chunk(id=id, created=created, model=model, system_fingerprint="fp_0", choices=[choice])
        return f"data: {chunk.model_dump_json(exclude_unset=True)}\n\n"

    yield event(Delta(role="assistant", content=""))
    async for token in generate():
        yield event(Delta(content=token))
    yield event(Delta(), "stop")
    yield "data: [DONE]\n\n"


@app.post("/v1/chat/completions", response_model=Completion)  # type: ignore[untyped-decorator]  # not installed
async def chat(request: ChatRequest) -> Completion | StreamingResponse:
    id = f"chatcmpl-{uuid.uuid4().hex}"
    if request.stream:
        return StreamingResponse(chunks(id, request.model), media_type="text/event-stream")
    choice = Choice(index=0, message=Message(role="assistant", content=TEXT), finish_reason="stop")
    usage = Usage(prompt_tokens=32, completion_tokens=16, total_tokens=48)
    return Completion(
        id=id, created=int(time.time()), model=request.model, system_fingerprint="fp_0", choices=[choice], usage=usage
    )


async def main(port: int) -> None:
    config = uvicorn.Config(app, port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    print("ready", flush=True)
    await serving


if __name__ == "__main__":
    import uvloop

    uvloop.run(main(int(sys.argv[1])))
