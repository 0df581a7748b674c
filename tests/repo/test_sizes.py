"""Files stay short, say what they are for, and carry names that mean something."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.repo.tree import name_of, tracked

MAX_LINES = 600  # the aim is 400; past this a file has two jobs
FORBIDDEN = ("utils", "common", "helpers", "helper", "misc", "base", "manager", "handler")
SOURCES = tracked(".py", under="src") + tracked(".cc", ".h", under="kernels")
MODULES = [path for path in tracked(".py") if path.stat().st_size]


def words(name: str) -> list[str]:
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().replace("-", "_").split("_")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_source_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", [*SOURCES, *tracked(".py", under="tests")], ids=name_of)
def test_file_and_class_names_say_what_a_thing_is(path: Path) -> None:
    names = [path.stem]
    if path.suffix == ".py":
        names += [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert not [name for name in names if set(words(name)) & set(FORBIDDEN)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_says_what_it_does(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
