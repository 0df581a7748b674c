"""The installed server answers each request of the corpus as it did when it was recorded.

Black box: `tripos serve` runs in processes of its own, and nothing of its code is imported here. All requests are sent
once, in their order, whichever tests are chosen. `python -m tests.recorded.record` records anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from tests.recorded.compare import difference
from tests.recorded.replay import COMMANDS, GROUPS, Record, recorded, replay

pytestmark = pytest.mark.timeout(600)  # of the first test, which waits for all answers

RECORDED = recorded()


CASES = [
    pytest.param(group, index, id=f"{group}: {record['name']}")
    for group, records in RECORDED.items()
    for index, record in enumerate(records)
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Record]]:
    return replay(tmp_path_factory.mktemp("recorded").resolve())


def of_routes(records: list[Record], name: str) -> Any:
    return next(record for record in records if record["name"] == name)


@pytest.mark.parametrize(("group", "index"), CASES)
def test_the_answer_is_the_recorded_one(answers: dict[str, list[Record]], group: str, index: int) -> None:
    want = RECORDED[group][index]
    found = difference(want, answers[group][index])
    assert not found, f"{want['name']} ({want.get('request', 'help')}): {found}"


@pytest.mark.parametrize("group", [*GROUPS, COMMANDS])
def test_every_answer_has_its_record(answers: dict[str, list[Record]], group: str) -> None:
    assert [each["name"] for each in answers[group]] == [each["name"] for each in RECORDED[group]]


def test_names_are_unique_in_their_group() -> None:
    for group, requests in GROUPS.items():
        names = [request.name for request in requests]
        assert len(names) == len(set(names)), group


def test_there_are_five_hundred_requests_over_every_route() -> None:
    assert sum(len(RECORDED[group]) for group in GROUPS) >= 500
    document = of_routes(RECORDED["routes"], "the document")["body"]
    asked = [(request.method, request.path.partition("?")[0]) for requests in GROUPS.values() for request in requests]
    for path, operations in document["paths"].items():
        before, _, after = path.partition("{name}")
        for method in operations:
            matching = [p for m, p in asked if m == method.upper() and p.startswith(before) and p.endswith(after)]
            assert [p for p in matching if "{" in path or p == path], f"no request for {method.upper()} {path}"


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list) and value:
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(each, (*path, key))
    else:
        yield path


@pytest.mark.parametrize("group", list(GROUPS))
def test_a_change_of_any_value_is_found(group: str) -> None:
    record = RECORDED[group][0]
    assert not difference(record, copy.deepcopy(record))
    for path in leaves(record):
        changed = copy.deepcopy(record)
        parent: Any = changed
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = [parent[path[-1]]]
        assert difference(record, changed)
        del parent[path[-1]]
        assert difference(record, changed)
