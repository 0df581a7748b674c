"""The official client gets what it asks for."""

from __future__ import annotations

import asyncio

import openai

from tests.api.running import running
from tripos.testing import ScriptedModel

HELLO = [{"role": "user", "content": "Hello?"}]


async def test_chat_answers() -> None:
    async with running([ScriptedModel()]) as server:
        done = await server.openai.chat.completions.create(model="scripted", messages=HELLO)
        assert done.choices[0].message.content == "Hello there."
        assert done.choices[0].finish_reason == "stop"
        assert done.usage.total_tokens == 7


async def test_chat_streams() -> None:
    async with running([ScriptedModel()]) as server:
        stream = await server.openai.chat.completions.create(
            model="scripted", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello there."
        assert chunks[-1].usage.completion_tokens == 3


async def test_sync_client_answers() -> None:
    async with running([ScriptedModel()]) as server:

        def ask() -> str:
            with openai.OpenAI(base_url=server.url + "/v1", api_key="none") as client:
                return client.completions.create(model="scripted", prompt="Hi").choices[0].text

        assert await asyncio.to_thread(ask) == "Hello there."
