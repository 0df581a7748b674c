"""GET /openapi.json says what is served: every route, every field, and what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.api.posts import POSTS, Post, body_of
from tests.api.running import Running
from tripos.api.routes import ROUTES
from tripos.version import __version__
from tripos.wire.fields import Field

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def document(server: Running) -> dict[str, Any]:
    found: dict[str, Any] = (await server.http.get("/openapi.json")).json()
    return found


async def test_every_route_is_in_the_document_and_nothing_else(server: Running) -> None:
    found = await document(server)
    assert found["openapi"] == "3.1.0"
    assert found["info"]["version"] == __version__
    served = {(route.method.lower(), route.path.replace("{name:path}", "{name}")) for route in ROUTES}
    assert {(method, path) for path, each in found["paths"].items() for method in each} == served
    operations = [each for path in found["paths"].values() for each in path.values()]
    assert len({each["operationId"] for each in operations}) == len(ROUTES)
    assert {path for path, each in found["paths"].items() if each.get("get", {}).get("security") == []} == {
        "/livez", "/readyz"
    }  # fmt: skip


async def test_the_document_is_valid_openapi(server: Running) -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(await document(server)).iter_errors()] == []


@pytest.mark.parametrize("post", POSTS, ids=lambda post: post.path)
async def test_every_field_is_in_the_document_with_its_bounds(server: Running, post: Post) -> None:
    operation = (await document(server))["paths"][post.path]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert ("stream" in post.table) == (len(operation["responses"]["200"]["content"]) == 2)
    for found, table in [(schema, post.table), *((schema["properties"][name], each) for name, each in post.nested)]:
        assert found["additionalProperties"] is True
        assert found["properties"].keys() == table.keys()
        assert set(found["required"]) == {name for name, field in table.items() if field.required}
        for name, field in table.items():
            check(found["properties"][name], field)


def check(schema: dict[str, Any], field: Field) -> None:
    assert schema["x-tripos-use"] == field.use
    assert field.doc in schema["description"]
    if field.use == "refused":
        assert all(field.says_nothing(each) for each in schema["enum"])
        return
    if field.use != "honoured":
        assert "type" not in schema
        return
    if "anyOf" in schema:
        schema, silent = schema["anyOf"]
        assert silent == {"enum": list(field.nothing)}
    if field.kind != "any":
        assert schema["type"] == (field.kind if field.required else [field.kind, "null"])
    assert (schema.get("minimum"), schema.get("maximum")) == (field.low, field.high)
    assert schema.get("enum", [None])[: len(field.choices)] == (list(field.choices) or [])
    assert schema.get("maxLength") == field.max_bytes


async def test_only_what_changes_the_server_takes_no_further_fields(server: Running) -> None:
    paths = (await document(server))["paths"]
    bodies = {
        path: each["post"]["requestBody"]["content"]["application/json"]["schema"]["additionalProperties"]
        for path, each in paths.items()
        if "requestBody" in each.get("post", {})
    }
    strict = {route.path for route in ROUTES if route.scope == "admin" and route.fields is not None}
    assert {path for path, takes_more in bodies.items() if not takes_more} == strict


async def test_every_route_with_a_body_is_among_the_posts() -> None:
    # those of /admin have no model; test_admin.py has their bad bodies
    with_body = {route.path for route in ROUTES if route.fields is not None and route.scope == "generate"}
    assert with_body == {post.path for post in POSTS}
    for post in POSTS:
        route = next(route for route in ROUTES if route.path == post.path)
        assert route.fields is post.table
        assert dict(route.nested) == dict(post.nested)


@pytest.mark.parametrize("post", POSTS, ids=lambda post: post.path)
async def test_the_example_of_an_error_has_the_shape_of_an_error(server: Running, post: Post) -> None:
    operation = (await document(server))["paths"][post.path]["post"]
    example = operation["responses"]["default"]["content"]["application/json"]["example"]
    response = await server.post(post.path, body_of(post, model="absent"))
    assert response.json().keys() == example.keys()
