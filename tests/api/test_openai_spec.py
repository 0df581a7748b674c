"""Every field and enumeration of OpenAI's own document has its place in our tables: honoured, ignored, refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.api.posts import POSTS, Post, body_of
from tests.api.running import Running, error_code

pytestmark = pytest.mark.asyncio(loop_scope="module")

SHARED_PATHS = ("/chat/completions", "/completions", "/responses", "/responses/input_tokens")


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


def resolve(spec: dict[str, Any], schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema and those that it is made of."""
    while "$ref" in schema:
        schema = spec["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield schema
    for kind in ("allOf", "oneOf", "anyOf"):
        for each in schema.get(kind, ()):
            yield from resolve(spec, each)


def properties(spec: dict[str, Any], path: str) -> dict[str, Any]:
    body = spec["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return {name: value for part in resolve(spec, body) for name, value in part.get("properties", {}).items()}


def post_of(path: str) -> Post:
    return next(post for post in POSTS if post.path == "/v1" + path)


@pytest.mark.parametrize("path", SHARED_PATHS)
async def test_every_field_has_its_place(spec: Any, shared_data: Callable[[str], Path], path: str) -> None:
    assert set(properties(spec(shared_data), path)) <= set(post_of(path).table)


@pytest.mark.parametrize("path", SHARED_PATHS)
async def test_every_value_of_an_enumeration_is_taken_or_refused_by_name(
    server: Running, spec: Any, shared_data: Callable[[str], Path], path: str
) -> None:
    post, document = post_of(path), spec(shared_data)
    num_values = 0
    for name, schema in properties(document, path).items():
        field = post.table[name]
        values = {value for part in resolve(document, schema) for value in part.get("enum", ()) if value is not None}
        for value in values if name != "model" else ():
            num_values += 1
            response = await server.post(post.path, body_of(post, **{name: value}))
            is_taken = field.use != "refused" and response.status_code == 200
            assert is_taken or error_code(response) in ("invalid_value", "invalid_type"), (name, value, response.text)
            assert is_taken or name in response.text
    assert num_values or path == "/completions"
