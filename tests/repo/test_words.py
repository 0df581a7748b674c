"""Names in src/ use the field's words: those that were retired do not come back."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.repo.tree import name_of, tracked

# What the glossary has another word for, in any name: of a module, class, function, argument, variable or attribute.
RETIRED = frozenset({
    "asked", "wanted", "heard", "said", "speech", "offer", "room", "resident", "residents", "told", "swap", "kept",
    "shelf", "guesser", "elsewhere", "absent",
})  # fmt: skip
RETIRED_CLASSES = RETIRED | {"thinking", "parts"}  # as names of fields both are the protocols' own
SOURCES = tracked(".py", under="src")


def words(name: str) -> set[str]:
    return set(re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().split("_"))


def names(tree: ast.AST) -> Iterator[tuple[int, str, frozenset[str]]]:
    """(line, name, words that it must not hold) of everything that a module names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield node.lineno, node.name, RETIRED_CLASSES
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name, RETIRED
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg, RETIRED
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id, RETIRED
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr, RETIRED


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_retired_word_is_a_name(path: Path) -> None:
    found = [(path.name, path.stem)] if words(path.stem) & RETIRED else []
    found += [(str(line), name) for line, name, banned in names(ast.parse(path.read_text())) if words(name) & banned]
    assert not found
