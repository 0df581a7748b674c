"""Schemas as real clients write them for their tools: served, with what is not enforced named in a header."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.api.running import HELLO, Running, running
from tests.api.speaking import speaking

pytestmark = pytest.mark.asyncio(loop_scope="module")

# As Zod writes an object with an integer, a record and a set.
ZOD: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "line": {"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991},
        "at": {"type": "integer", "exclusiveMinimum": 0, "maximum": 9223372036854775807},
        "env": {"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "string"}},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 1000000}, "uniqueItems": False},
    },
    "required": ["line"],
    "additionalProperties": False,
}
UNIQUE = {"type": "object", "properties": {"p": {"type": "array", "uniqueItems": True, "not": {"const": []}}}}


def function(parameters: Any, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", "parameters": parameters, **more}}


async def post(server: Running, path: str, body: dict[str, Any]) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        return await client.post(path, json=body, timeout=30)


def bodies(parameters: Any, *, is_strict: bool = False) -> dict[str, tuple[dict[str, Any], str]]:
    """Path of an endpoint: a request with two tools, the second of which has these parameters; where they stand."""
    strict = {"strict": True} if is_strict else {}
    asked = {"model": "scripted", "messages": HELLO}
    other = {"name": "g"}
    tools = [{"type": "function", "function": other}, function(parameters, **strict)]
    flat = [{"type": "function", **other}, {"type": "function", "name": "f", "parameters": parameters, **strict}]
    blocks = [{**other, "input_schema": {"type": "object"}}, {"name": "f", "input_schema": parameters, **strict}]
    return {
        "/v1/chat/completions": ({**asked, "tools": tools}, "tools[1].function.parameters"),
        "/v1/responses": ({"model": "scripted", "input": "x", "tools": flat}, "tools[1].parameters"),
        "/v1/messages": ({**asked, "tools": blocks, "max_tokens": 50}, "tools[1].input_schema"),
        "/api/chat": ({**asked, "tools": tools, "stream": False}, "tools[1].function.parameters"),
    }


async def take_calls(server: Running, asked: dict[str, Any], seen: list[Any]) -> None:
    async for chunk in await server.openai.chat.completions.create(**asked, stream=True):
        seen += [call for choice in chunk.choices for call in choice.delta.tool_calls or ()]


CALL = '<tool_call>\n{"name": "f", "arguments": %s}\n</tool_call>'


async def test_zods_schemas_are_served_whole() -> None:
    arguments = '{"line": 9007199254740991, "at": 1, "env": {"a": "b"}, "tags": ["x", "x"]}'
    async with running(speaking(CALL % arguments)) as server:
        for path, (body, _) in bodies(ZOD).items():
            answer = await post(server, path, body)
            assert answer.status_code == 200, (path, answer.text)
            assert "x-tripos-ignored" not in answer.headers
            assert "9007199254740991" in answer.text


async def test_what_is_not_enforced_is_named_in_a_header() -> None:
    async with running(speaking(CALL % '{"p": [1, 1]}')) as server:
        for path, (body, place) in bodies(UNIQUE).items():
            answer = await post(server, path, body)
            assert answer.status_code == 200, (path, answer.text)
            names = [f"{place}.properties.p.{keyword}" for keyword in ("uniqueItems", "not")]
            assert answer.headers["x-tripos-ignored"].split(", ") == names


async def test_a_strict_tool_is_refused_by_its_name() -> None:
    async with running(speaking("x")) as server:
        for path, (body, place) in bodies(UNIQUE, is_strict=True).items():
            answer = await post(server, path, body)
            assert answer.status_code == 400, path
            assert f"the tool 'f': the keyword 'uniqueItems' in {place}.properties.p" in answer.text


async def test_an_answer_beside_tools_follows_its_schema_too() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"properties": {"n": {"maximum": 0.01}}}}}
    asked: dict[str, Any] = {"model": "scripted", "messages": HELLO, "tools": [function({})], "response_format": form}
    for text, status in (('{"n": 0.01}', 200), ('{"n": 0.02}', 422), (CALL % "{}", 200)):
        async with running(speaking(text)) as server:
            answer = await post(server, "/v1/chat/completions", asked)
            assert answer.status_code == status, (text, answer.text)
    async with running(speaking('{"n": 1', reason="length")) as server:
        assert (await post(server, "/v1/chat/completions", asked)).status_code == 200
        form["json_schema"]["schema"] = {"not": {}}  # type: ignore[index]
        answer = await post(server, "/v1/chat/completions", asked)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "response_format.json_schema.schema"


async def test_arguments_that_break_their_schema_are_never_delivered() -> None:
    """Whatever went wrong with the mask: this model says what it likes."""
    bounds = {"type": "object", "properties": {"p": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.01}}}
    asked: dict[str, Any] = {"model": "scripted", "messages": HELLO, "tools": [function(bounds)]}
    async with running(speaking(CALL % '{"p": 0}')) as server:
        for path, (body, _) in bodies(bounds).items():
            answer = await post(server, path, body)
            assert answer.status_code == 422, (path, answer.text)
            assert "exclusiveMinimum" in answer.text
            assert "ask again" in answer.text
        seen: list[Any] = []
        with pytest.raises(openai.APIError, match="exclusiveMinimum"):
            await take_calls(server, asked, seen)
        assert seen == []
    async with running(speaking(CALL % '{"p": 0.005}')) as server:
        done = await server.openai.chat.completions.create(**asked)
        (call,) = done.choices[0].message.tool_calls or ()
        assert json.loads(call.function.arguments) == {"p": 0.005}  # type: ignore[union-attr]
