"""docs/reference/http-api.md says what the tables of the code say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tripos
from tests.api.posts import POSTS
from tripos.api.routes import ROUTES
from tripos.metering.metrics import Metrics
from tripos.wire.fields import Field, Table

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "http-api.md").read_text(encoding="utf-8")
SECTIONS: dict[str, list[Table]] = {}
for post in POSTS:
    SECTIONS.setdefault(post.section, []).extend([post.table, *(table for _, table in post.nested)])
FIELDS = [(title, field) for title, tables in SECTIONS.items() for table in tables for field in table.values()]


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.partition(f"\n## {title}\n")[2], flags=re.M)[0]


@pytest.mark.parametrize(("title", "field"), FIELDS, ids=lambda value: getattr(value, "name", value))
def test_every_field_is_documented_with_its_range_and_use(title: str, field: Field) -> None:
    row = next(line for line in section(title).splitlines() if line.startswith(f"| `{field.name}` |"))
    assert field.doc.rstrip(".").lower() in row.lower()
    assert ("ignored" in row) == (field.use == "ignored")
    assert ("Refused" in row) == (field.use == "refused")
    assert ("required" in row.split("|")[2]) == field.required
    for size in (field.max_items, field.max_bytes):
        assert size is None or str(size) in row


def test_no_field_is_documented_that_does_not_exist() -> None:
    for title, tables in SECTIONS.items():
        named = set(re.findall(r"^\| `(\w+)` \|", section(title), flags=re.M))
        assert named == {name for table in tables for name in table}


def test_every_route_is_documented() -> None:
    named = set(re.findall(r"^\| `(GET|POST|DELETE) (\S+)` \|", PAGE, flags=re.M))
    assert named == {(route.method, route.path.replace("{name:path}", "{id}")) for route in ROUTES}


def test_every_metric_is_documented() -> None:
    found = {family.name for family in Metrics().registry.collect()}
    assert found == set(re.findall(r"`((?:vllm:|gen_ai_server_)\w+)`", section("Metrics")))


def test_every_error_code_that_a_client_can_get_is_documented() -> None:
    elsewhere = {"invalid_config", "environment", "internal_error", "model_refused"}  # exit codes of the command line
    elsewhere |= {"permission_denied", "rate_limit_exceeded"}  # nothing raises them yet
    sources = Path(tripos.__file__).parent.rglob("*.py")
    found = {code for file in sources for code in re.findall(r"\bcode(?:: str)? ?= ?\"(\w+)\"", file.read_text())}
    assert found - elsewhere <= set(re.findall(r"`(\w+)`", section("Errors")))
