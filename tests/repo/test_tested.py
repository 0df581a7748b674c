"""Each module of src/ has the test file that mirrors it, is imported by one, or says where it is tested.

The mirror of src/tripos/engine/pack.py is tests/unit/engine/test_pack.py. A module that no test imports has a line in
its docstring, or in that of its package, that begins with "Tested in" and names files of tests/.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.repo.tree import ROOT, name_of, tracked

SOURCE = ROOT / "src" / "tripos"
NOT_YET = (  # folders and files in which modules do not say it yet
    "answers.py", "api", "client.py", "library.py", "wire",
)  # fmt: skip
MODULES = [
    path
    for path in tracked(".py", under="src")
    if path.stat().st_size and path.relative_to(SOURCE).parts[0] not in NOT_YET
]


def mirror(path: Path) -> Path:
    return ROOT / "tests" / "unit" / path.relative_to(SOURCE).parent / f"test_{path.stem}.py"


@cache
def imported_by_tests() -> frozenset[str]:
    """The modules that test files import, by their full names."""
    found = set()
    for path in tracked(".py", under="tests"):
        if path.name.startswith("test_"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module:
                    found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
                elif isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
    return frozenset(found)


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__")


def named_tests(path: Path) -> list[str]:
    """The test files that a module's docstring names."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentence = re.search(r"\bTested in (.+)", docstring, re.DOTALL)
    return re.findall(r"tests/[\w/]+\.py", sentence[1]) if sentence else []


def is_only_a_docstring(path: Path) -> bool:
    return len(ast.parse(path.read_text()).body) == 1


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_has_tests_or_says_where_they_are(path: Path) -> None:
    named = named_tests(path)
    assert all((ROOT / name).is_file() for name in named), named
    has_tests = named or mirror(path).is_file() or module_of(path) in imported_by_tests()
    assert has_tests or is_only_a_docstring(path) or named_tests(path.with_name("__init__.py"))
