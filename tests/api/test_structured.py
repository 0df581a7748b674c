"""Structured output through the official clients: every dialect, whole and in streams."""

from __future__ import annotations

import json
from datetime import date
from typing import Any, Literal

import anthropic
import ollama
import openai
import pytest
from pydantic import BaseModel

from tests.api.running import HELLO, Running, TinyModel, running

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Trip(BaseModel):
    """Where to. The description must not reach the grammar."""

    city: Literal["paris", "rome"]
    days: Literal[1, 2]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["paris", "rome"]}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


def is_trip(text: str) -> bool:
    return Trip.model_validate_json(text).city in ("paris", "rome")


async def test_openai_chat_parses_into_a_model(server: Running) -> None:
    done = await server.openai.chat.completions.parse(model="tiny", messages=HELLO, response_format=Trip)
    assert done.choices[0].finish_reason == "stop"
    assert isinstance(done.choices[0].message.parsed, Trip)


async def test_openai_chat_streams_what_is_whole_in_the_end(server: Running) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
    asked: Any = {"model": "tiny", "messages": HELLO, "response_format": form, "seed": 3}
    chunks = [chunk async for chunk in await server.openai.chat.completions.create(**asked, stream=True)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert is_trip(text)
    whole = await server.openai.chat.completions.create(**asked)
    assert whole.choices[0].message.content == text


async def test_openai_responses_parse_into_a_model(server: Running) -> None:
    done = await server.openai.responses.parse(model="tiny", input="x", text_format=Trip)
    assert isinstance(done.output_parsed, Trip)
    assert done.text is not None
    assert done.text.format is not None
    assert done.text.format.type == "json_schema"


async def test_json_object_is_an_object_and_length_says_so(server: Running) -> None:
    done = await server.openai.chat.completions.create(
        model="tiny", messages=HELLO, response_format={"type": "json_object"}, max_tokens=20
    )
    assert done.choices[0].finish_reason in ("stop", "length")
    assert (done.choices[0].message.content or "").startswith("{")


@pytest.mark.parametrize(
    ("wanted", "texts"),
    [
        ({"choice": ["yes", "no (never)", "ja"]}, {"yes", "no (never)", "ja"}),
        ({"regex": "[xy]{3}z"}, None),
        ({"grammar": 'root ::= "a" [b-c]'}, {"ab", "ac"}),
        ({"grammar": 'start: "a" /[b-c]/'}, {"ab", "ac"}),
        ({"json": SCHEMA}, None),
        ({"json": json.dumps(SCHEMA)}, None),
    ],
    ids=str,
)
async def test_structured_outputs_as_vllm_has_them(server: Running, wanted: Any, texts: set[str] | None) -> None:
    done = await server.openai.completions.create(
        model="tiny", prompt="x", max_tokens=60, n=2, extra_body={"structured_outputs": wanted}
    )
    for choice in done.choices:
        assert choice.finish_reason == "stop"
        assert texts is None or choice.text in texts
        assert "json" not in wanted or is_trip(choice.text)


DECIMALS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "rate": {"const": 0.1},
        "price": {"enum": [3.14, 19.99]},
        "share": {"anyOf": [{"const": 0.7}, {"enum": [0.0000001, 2.5]}]},
        "risk": {"type": "number", "exclusiveMinimum": 0, "maximum": 0.01},
        "day": {"type": "string", "format": "date"},
        "step": {"type": "number", "multipleOf": 0.1, "minimum": 0.25, "maximum": 0.35},
        "line": {"type": "integer", "minimum": 9007199254740991, "maximum": 9223372036854775807},
    },
    "required": ["rate", "price", "share", "day", "step"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("stream", [False, True])
async def test_decimals_bounds_and_days_are_as_they_are_written(server: Running, stream: bool) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": DECIMALS}}
    num_whole = 0
    for seed in range(8):
        asked: Any = {"model": "tiny", "messages": HELLO, "response_format": form, "seed": seed, "max_tokens": 200}
        if stream:
            chunks = [chunk async for chunk in await server.openai.chat.completions.create(**asked, stream=True)]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            done = await server.openai.chat.completions.create(**asked)
            text, reason = done.choices[0].message.content or "", done.choices[0].finish_reason
        if reason != "stop":
            continue
        num_whole += 1
        found = json.loads(text)
        assert (found["rate"], found["step"]) == (0.1, 0.3)
        assert found["price"] in (3.14, 19.99)
        assert found["share"] in (0.7, 0.0000001, 2.5)
        assert 0 < found.get("risk", 0.01) <= 0.01
        assert date.fromisoformat(found["day"])
        assert 2**53 - 1 <= found.get("line", 2**53) < 2**63
    assert num_whole > 0


async def test_anthropic_output_config(server: Running) -> None:
    http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
    async with anthropic.AsyncAnthropic(base_url=server.url, api_key="none", max_retries=0, http_client=http) as client:
        form: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
        done = await client.messages.create(model="tiny", messages=HELLO, max_tokens=90, output_config=form)
        assert done.stop_reason == "end_turn"
        assert is_trip(done.content[0].text)  # type: ignore[union-attr]
        cut = await client.messages.create(model="tiny", messages=HELLO, max_tokens=5, output_config=form)
        assert cut.stop_reason == "max_tokens"


async def test_ollama_format(server: Running) -> None:
    client = ollama.AsyncClient(host=server.url, trust_env=False)
    done = await client.chat(model="tiny", messages=HELLO, format=SCHEMA)
    assert is_trip(done.message.content or "")
    plain = await client.generate(model="tiny", prompt="x", format="json", options={"num_predict": 12})
    assert plain.response.startswith("{")
    await client._client.aclose()


async def test_a_refusal_names_the_keyword_and_comes_before_the_stream(server: Running) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {"type": "null"}}}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="'not'") as caught:
            await server.openai.chat.completions.create(
                model="tiny", messages=HELLO, response_format=form, stream=stream
            )
        assert caught.value.code == "unsupported_schema"
        assert caught.value.param == "response_format.json_schema.schema"


async def test_no_process_stays_behind() -> None:
    model = TinyModel()
    async with running(model) as server:
        await server.openai.completions.create(
            model="tiny", prompt="x", max_tokens=4, extra_body={"structured_outputs": {"regex": "[a-z]"}}
        )
        assert model._grammars.process_id is not None
    assert model._grammars.process_id is None
