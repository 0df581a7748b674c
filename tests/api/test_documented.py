"""docs/reference/http-api.md says what the tables of the code say."""

from __future__ import annotations

import re
from pathlib import Path

import tripos
from docs.tables import PAGES, generate
from tests.api.posts import POSTS
from tripos.metering.metrics import Metrics
from tripos.wire.fields import Table

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "http-api.md").read_text(encoding="utf-8")
SECTIONS: dict[str, list[Table]] = {}
for post in POSTS:
    SECTIONS.setdefault(post.section, []).extend([post.table, *(table for _, table in post.nested)])


def section(title: str) -> str:
    return re.split(r"^## ", PAGE.partition(f"\n## {title}\n")[2], flags=re.M)[0]


def test_the_tables_are_those_of_the_code() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert generate(text) == text, "run: python docs/tables.py"


def test_every_field_of_a_body_is_in_its_section_and_no_other() -> None:
    for title, tables in SECTIONS.items():
        named = set(re.findall(r"^\| `(\w+)` \|(?:[^|\n]*\|){2}$", section(title), flags=re.M))
        assert named == {name for table in tables for name, field in table.items() if not field.is_foreign}


def test_every_name_of_another_server_is_on_the_page() -> None:
    tables = [table for tables in SECTIONS.values() for table in tables]
    foreign = {name for table in tables for name, field in table.items() if field.is_foreign}
    assert len(foreign) > 100
    assert foreign <= set(re.findall(r"`(\w+)`", PAGE))


def test_every_metric_is_documented() -> None:
    found = {family.name for family in Metrics().registry.collect()}
    assert found == set(re.findall(r"`((?:vllm:|tripos[:_]|gen_ai_server_|http_|process_)\w+)`", section("Metrics")))


def test_every_error_code_that_a_client_can_get_is_documented() -> None:
    elsewhere = {"environment", "internal_error"}  # exit codes of the command line
    elsewhere |= {"rate_limit_exceeded"}  # nothing raises it yet
    sources = Path(tripos.__file__).parent.rglob("*.py")
    found = {code for file in sources for code in re.findall(r"\bcode(?:: str)? ?= ?\"(\w+)\"", file.read_text())}
    assert found - elsewhere <= set(re.findall(r"`(\w+)`", section("Errors")))
