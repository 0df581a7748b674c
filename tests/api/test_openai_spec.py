"""Every field of OpenAI's own document, every value that it enumerates and every object inside, is sent: it is taken,
named or refused by name, as the tables say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.posts import POSTS, Post, body_of
from tests.api.running import Running, TinyModel, error_code
from tests.api.spec_values import Schema, SpecValues

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHARED_PATHS = ("/chat/completions", "/completions", "/embeddings", "/responses", "/responses/input_tokens")
# What a field needs beside it.
COMPANIONS: dict[str, dict[str, Any]] = {"stream_options": {"stream": True}, "top_logprobs": {"logprobs": True}}
ABSENT = "previous_response_id"  # no example can name a stored one: then 404 is right


@pytest.fixture(scope="module")
def tiny() -> TinyModel:
    """With a window for the descriptions of tools."""
    return TinyModel(window=4096)


@pytest.fixture(scope="module")
def spec() -> Callable[[Callable[[str], Path]], dict[str, Any]]:
    """The document; parsing it takes seconds, so once."""
    parsed: dict[str, Any] = {}

    def load(shared_data: Callable[[str], Path]) -> dict[str, Any]:
        if not parsed:
            loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            parsed.update(yaml.load(shared_data("specs/openai/openapi.yaml").read_text(), Loader=loader))
        return parsed

    return load


def body_schema(spec: dict[str, Any], path: str) -> Schema:
    schema: Schema = spec["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return schema


def post_of(path: str) -> Post:
    return next(post for post in POSTS if post.path == "/v1" + path)


@pytest.mark.parametrize("path", SHARED_PATHS)
async def test_every_field_has_its_place(spec: Any, shared_data: Callable[[str], Path], path: str) -> None:
    document = spec(shared_data)
    properties = SpecValues(document["components"]["schemas"]).properties(body_schema(document, path))
    assert set(properties) <= set(post_of(path).table)


@pytest.mark.parametrize("path", SHARED_PATHS)
async def test_every_value_of_every_field_is_taken_or_refused_by_name(
    server: Running, spec: Any, shared_data: Callable[[str], Path], path: str
) -> None:
    """Names of models are not tried: they are those of another service."""
    post, document = post_of(path), spec(shared_data)
    values = SpecValues(document["components"]["schemas"])
    wrong = []
    num_values = 0
    for name, schema in values.properties(body_schema(document, path)).items():
        for value in values.values(schema) if name != "model" else ():
            num_values += 1
            problem = await problem_with(server, post, name, value)
            if problem:
                wrong.append((name, value, problem))
    assert not wrong, f"{len(wrong)} of {num_values}: {wrong[:8]}"
    assert num_values > (5 if path == "/embeddings" else 30)


async def problem_with(server: Running, post: Post, name: str, value: Any) -> str:
    """What is not as the table says, or nothing."""
    use = post.table[name].use
    needed = COMPANIONS.get(name, {}) if post.path != "/v1/responses" or name == "stream_options" else {}
    response = await server.post(post.path, body_of(post, **{**needed, name: value}))
    if response.status_code == 200:
        if '"code":' in response.text and "event-stream" in response.headers["content-type"]:
            return f"a stream that ends in an error: {response.text[-200:]}"
        is_refused = use == "refused" and not post.table[name].says_nothing(value)
        return "taken although refused" if is_refused else ""
    error = response.json()["error"]
    said = f"{response.status_code} {error['code']} {error['param']}: {error['message']}"
    if use in ("met", "ignored") or (value is None and not post.table[name].required):
        return f"not ignored: {said}"
    is_reference = name == "input" and str(error["param"]).endswith(".id")  # to an item of a stored response
    if response.status_code == 404 and (is_reference or name == error["param"] == ABSENT):
        return ""
    root = str(error["param"]).partition(".")[0].partition("[")[0]
    if response.status_code != 400 or root != name or error_code(response) == "unknown_field":
        return said
    return ""


async def test_every_operation_is_served_or_names_what_is(
    server: Running, spec: Any, shared_data: Callable[[str], Path]
) -> None:
    """All paths and methods of the document: nothing is simply not there."""
    num_absent = 0
    for template, operations in spec(shared_data)["paths"].items():
        path = "/v1" + re.sub(r"\{\w+\}", "x", template)
        for method in operations.keys() & {"get", "post", "put", "patch", "delete"}:
            response = await server.http.request(method, path)
            assert "no endpoint has this path" not in response.text, (method, path)
            assert response.status_code < 500 or error_code(response) == "not_implemented", (method, path)
            num_absent += response.status_code == 501
    assert num_absent > 100
