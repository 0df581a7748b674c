"""A client that leaves, in whatever state its request is, frees everything and disturbs nobody."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from tests.api.posts import POSTS, Post, body_of
from tests.api.running import Running, TinyModel, running
from tripos.errors import TriposError
from tripos.testing import ScriptedModel


def request(path: str, body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(content)}\r\n\r\n".encode() + content


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("post", [post for post in POSTS if "stream" in post.table], ids=lambda post: post.path)
async def test_leaving_before_the_first_token_cancels_the_call(post: Post, stream: bool) -> None:
    model = ScriptedModel(delay_s=60)
    async with running(model) as server:
        path, body = post.path, body_of(post, "scripted", stream=stream)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request(path, body))
        await until(lambda: model.num_active)
        writer.transport.abort()
        await until(lambda: not model.num_active and not server.service.num_in_flight)
        assert model.num_cancelled == len(model.calls)


async def test_leaving_in_the_middle_of_a_body_leaves_nothing() -> None:
    async with running(ScriptedModel()) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request("/v1/completions", {"model": "scripted", "prompt": "x" * 1000})[:-10])
        await asyncio.sleep(0.05)
        writer.transport.abort()
        assert (await server.http.get("/readyz")).status_code == 200


async def stream_and_leave(server: Running, prompt: str, leave_after_s: float) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 200, "stream": True, "ignore_eos": True}
    writer.write(request("/v1/completions", body))
    await asyncio.sleep(leave_after_s)
    writer.transport.abort()


async def test_half_of_64_streams_leave_at_random_and_the_rest_are_as_alone() -> None:
    tiny = TinyModel(step_s=0.001)
    rng = random.Random(5)
    async with running(tiny) as server:

        async def ask(i: int) -> str:
            stream = await server.openai.completions.create(
                model="tiny", prompt=f"prompt {i}", max_tokens=40, seed=i, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

        alone = [await ask(i) for i in range(32)]
        before = asyncio.all_tasks()
        leavers = [asyncio.create_task(stream_and_leave(server, f"leaver {i}", rng.random() * 0.3)) for i in range(32)]
        together = await asyncio.gather(*(ask(i) for i in range(32)))
        await asyncio.gather(*leavers)
        assert together == alone
        await until(lambda: not server.service.num_in_flight and not tiny.num_held)
        tiny.engine.pool.check_integrity()
        await until(lambda: len(asyncio.all_tasks() - before) == 0)


async def test_a_reader_that_stops_reading_holds_no_more_than_its_stream() -> None:
    tiny = TinyModel()
    async with running(tiny) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.transport.pause_reading()
        writer.write(request("/v1/completions", {"model": "tiny", "prompt": "x", "max_tokens": 200, "stream": True}))
        await until(lambda: tiny.engine.num_steps > 20)
        assert len(await server.canary()) == 8  # others are answered meanwhile
        writer.transport.abort()
        await until(lambda: not server.service.num_in_flight and not tiny.num_held)


async def test_deadline_ends_a_call_that_the_model_does_not_end() -> None:
    model = ScriptedModel(delay_s=60)
    async with running(model) as server:
        response = await server.post("/v1/completions", {"model": "scripted", "prompt": "x", "timeout": 0.05})
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert model.num_active == 0


async def test_deadline_passes_in_the_engine_while_decoding() -> None:
    async with running(TinyModel(step_s=0.01)) as server:
        body = {"model": "tiny", "prompt": "x", "timeout": 0.2, "max_tokens": 200, "stream": True}
        response = await server.post("/v1/completions", body)
        last = response.text.rstrip().splitlines()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert "[DONE]" not in response.text


async def test_one_prompt_that_fails_ends_the_others_of_its_request() -> None:
    failing = ScriptedModel([TriposError("no", code="request_failed")])
    async with running(failing) as server:
        response = await server.post("/v1/completions", {"model": "scripted", "prompt": ["a", "b", "c"]})
        assert response.status_code == 500
        assert failing.num_active == 0
