"""All errors stand in one tree; values in messages are short, escaped, and numbers a person can type back."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tripos
from tripos import errors
from tripos.errors import ModelRefused, TriposError, plain, reraise_stop, shown
from tripos.models.fields import Family, Fields


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (16777216, "16777216"), (1e12, "1000000000000"), (2.0**53, "9007199254740992"), (1e-6, "0.000001"),
        (1e-9, "0.000000001"), (0.5, "0.5"), (1.001, "1.001"), (-3.0, "-3"), (0, "0"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_numbers_are_written_in_digits(number: float, text: str) -> None:
    assert plain(number) == text


def test_a_range_of_a_model_file_is_written_in_digits() -> None:
    with pytest.raises(ModelRefused, match=r"expected a number from 0\.000001 to 1000000$"):
        Fields({"x": 0}, "config.json", Family()).number("x", 1e-6, 1e6)


def subclasses(kind: type[TriposError]) -> Iterator[type[TriposError]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_error_is_of_the_one_tree() -> None:
    root = Path(tripos.__path__[0])
    for path in root.rglob("*.py"):
        if path.stem not in ("__main__", "__init__"):
            importlib.import_module(".".join(("tripos", *path.relative_to(root).with_suffix("").parts)))
    found = {each for each in subclasses(TriposError) if each.__module__.split(".")[0] == "tripos"}
    assert {each.__module__ for each in found} == {"tripos.errors"}
    drawn = (errors.__doc__ or "").split()
    assert {each.__name__ for each in found} <= set(drawn)
    assert all(str(each.status) in drawn for each in found)


class Panic(BaseException):
    """As a Rust library raises them."""


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), SystemExit(), GeneratorExit(), asyncio.CancelledError()])
def test_a_deliberate_stop_is_raised_again(stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        reraise_stop(stop)


@pytest.mark.parametrize("failure", [Panic(), ValueError()])
def test_a_failure_is_for_the_handler(failure: BaseException) -> None:
    reraise_stop(failure)


def test_shown_values_are_short_and_escaped() -> None:
    assert shown("a\n\u202e" + "b" * 1000) == "'a\\n\\u202e" + "b" * 58 + "...'"
    assert shown(["é"]) == "['\\xe9']"
    assert len(shown(list(range(1000)))) == 64
