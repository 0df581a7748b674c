"""The table of ops is the same on both sides, by name: the library prints its rows, and one that differs is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tripos.errors import EnvironmentProblem
from tripos.plan.formats import FORMATS
from tripos.plan.ops import OPS, OpSpec
from tripos.runtime import native, plan_bytes
from tripos.runtime.plan_bytes import numbers_of, op_differences
from tripos.runtime.reference import ReferenceExecutor

Ops = dict[str, OpSpec]


def test_the_library_has_the_rows_of_the_table() -> None:
    printed = native.ops()
    assert printed.keys() == OPS.keys()
    for name, row in OPS.items():
        assert replace(printed[name], is_row_wise=row.is_row_wise) == row


def test_the_reference_defines_every_op() -> None:
    assert [name for name in OPS if not hasattr(ReferenceExecutor, f"_{name}")] == []


def test_the_library_knows_every_stored_format() -> None:
    assert numbers_of(native.about()["stored_formats"]).keys() == FORMATS.keys()


def without_attr(ops: Ops) -> Ops:
    row = ops["rope"]
    return {**ops, "rope": replace(row, attrs={})}


def with_value(ops: Ops) -> Ops:
    row = ops["act"]
    return {**ops, "act": replace(row, attrs={"act": ("silu", "gelu", "gelu_tanh", "relu", "swish")})}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda ops: {name: row for name, row in ops.items() if name != "pool"}, ["op pool is here only"]),
        (lambda ops: {**ops, "square": replace(ops["add"], name="square")}, ["op square is there only"]),
        (without_attr, ["rope: attribute head_dim is here only"]),
        (with_value, ["act: act: value swish is there only", "act: act: value tanh is here only"]),
        (
            lambda ops: {**ops, "embed": replace(ops["embed"], attrs={**ops["embed"].attrs, "scale": "int"})},
            ["embed: scale is float here, int there"],
        ),
        (
            lambda ops: {**ops, "add": replace(ops["add"], inputs=("a",))},
            ["add takes inputs ('a', 'b') here, ('a',) there"],
        ),
        (lambda ops: dict(reversed(ops.items())), []),
    ],
)
def test_what_differs_is_named(change: Callable[[Ops], Ops], told: list[str]) -> None:
    assert op_differences(change(native.ops())) == told


def test_a_library_with_other_ops_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_bytes, "OPS", {**OPS, "square": replace(OPS["act"], name="square")})
    monkeypatch.setattr(native, "_loaded", {})
    with pytest.raises(EnvironmentProblem, match="other ops: op square is here only: build them again"):
        native.load_library()
