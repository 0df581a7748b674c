"""Files stay short, say what they are for, and carry names that mean something."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.repo.tree import name_of, tracked

MAX_LINES = {".py": 400, ".cc": 600, ".h": 600}  # past this a file has two jobs
MAX_FUNCTION_LINES = 45  # from the first statement behind the docstring to the last, nested functions included
FORBIDDEN = ("utils", "common", "helpers", "helper", "misc", "base", "manager", "handler")
SOURCES = tracked(".py", under="src") + tracked(".cc", ".h", under="kernels")
MODULES = [path for path in tracked(".py") if path.stat().st_size]


def words(name: str) -> list[str]:
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().replace("-", "_").split("_")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_source_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES[path.suffix]


def num_body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    statements = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (statements[-1].end_lineno or 0) - statements[0].lineno + 1 if statements else 0


@pytest.mark.parametrize("path", tracked(".py", under="src"), ids=name_of)
def test_functions_are_short(path: Path) -> None:
    nodes = ast.walk(ast.parse(path.read_text()))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert not [each.name for each in functions if num_body_lines(each) > MAX_FUNCTION_LINES]


@pytest.mark.parametrize("path", [*SOURCES, *tracked(".py", under="tests")], ids=name_of)
def test_file_and_class_names_say_what_a_thing_is(path: Path) -> None:
    names = [path.stem]
    if path.suffix == ".py":
        names += [node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert not [name for name in names if set(words(name)) & set(FORBIDDEN)]


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_says_what_it_does(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
