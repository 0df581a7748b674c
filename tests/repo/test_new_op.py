"""What a new op touches: its row and tracer method, its reference, and one C++ file. The test adds one to a copy of the
tree, builds the library without optimization (about 15 seconds on two cores), and runs it on both executors.

It proves the number of files and that nothing else must know the op (passes, dump, the plan's bytes, their checks). Its
kernel is a plain loop: one for each instruction set would be more files, as for any op.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.tree import ROOT

ROW = '        _row_wise("square", "x", "y"),\n'
TRACER_METHOD = '''
    def square(self, x: View) -> View:
        """x · x."""
        return self._emit("square", (x,), self._new(self._rows(x), x.cols, "square"))
'''
REFERENCE = """
    def _square(self, op: Op, inputs: list[F32], step: StepInput) -> F32:
        return inputs[0] * inputs[0]
"""
KERNEL = """// The op square.
#include "kernels/plan/lower.h"

namespace tripos {
namespace {

void CheckSquare(const OpCheck& c) { c.OutputLikeInput(); }

void LowerSquare(Lowering& to, const PlanOp& op) {
  to.EachRow(op, [](const OneRow& r) {
    for (int i = 0; i < r.Cols(); ++i) r.Out()[i] = r.In(0)[i] * r.In(0)[i];
  });
}

const KnownOp kSquare({"square", "x", "", "y", {}, CheckSquare, LowerSquare});

}  // namespace
}  // namespace tripos
"""
NEW_FILE = "kernels/plan/square_op.cc"
CHANGES = {  # file -> what is inserted, before what stands there
    "src/tripos/plan/ops.py": [('        _row("select", "x", "y"),\n', ROW), ("\n    def select(", TRACER_METHOD)],
    "src/tripos/runtime/reference.py": [("\n    def _select(", REFERENCE)],
}
RUN = """
import numpy as np
from tests.ops.executors import native, reference, logits_of
from tests.ops.steps import Batch, random_weights
from tripos.plan.dump import dump
from tripos.plan.ops import Tracer
from tripos.plan.passes import optimize

t = Tracer()
x = t.embed("table", 50, 24)
y = t.square(t.self_attention(x, x, x, num_heads=1, num_kv_heads=1, head_dim=24, scale=0.2))
plan = optimize(t.plan(t.linear(t.select(y), "head", 9), vocab_size=9))
assert "[S, 24] = square(" in dump(plan), dump(plan)  # a row-wise op moves behind the select
weights = random_weights(plan, np.random.default_rng(1))
step = Batch((40, 3), 50).step({0: 40, 1: 3}, all_rows=False)
want = logits_of(reference(plan, weights), step)
for threads in (1, 2):
    got = logits_of(native(plan, weights, isa="scalar", threads=threads), step)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
print("equal")
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, with the op in it."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("kernels", "src", "tests/ops"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "CMakeLists.txt", copy)
    for name, insertions in CHANGES.items():
        text = (copy / name).read_text()
        for before, inserted in insertions:
            assert text.count(before) == 1
            text = text.replace(before, inserted + before)
        (copy / name).write_text(text)
    (copy / NEW_FILE).write_text(KERNEL)
    return copy


def run(tree: Path, code: str, library: Path | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(tree / "src")} | ({"TRIPOS_NATIVE_LIBRARY": str(library)} if library else {})
    return subprocess.run([sys.executable, "-c", code], cwd=tree, env=env, capture_output=True, text=True)


def test_a_new_op_is_three_files(tree: Path) -> None:
    files = {path.relative_to(tree) for path in tree.rglob("*") if path.is_file()}
    changed = {str(name) for name in files if not (ROOT / name).exists() or differs(tree / name, ROOT / name)}
    assert changed == {*CHANGES, NEW_FILE}


def differs(a: Path, b: Path) -> bool:
    return a.read_bytes() != b.read_bytes()


def test_a_library_without_the_op_is_refused_by_name(tree: Path) -> None:
    installed = Path(subprocess.check_output([sys.executable, "-c", FIND], text=True, cwd="/").strip())
    told = run(tree, "from tripos.runtime.native import load_library; load_library()", installed).stderr
    assert "op square is here only: build them again" in told


FIND = "from tripos.runtime.native import find_library; print(find_library())"


@pytest.mark.timeout(300)
def test_a_new_op_runs_on_both_executors(tree: Path) -> None:
    if not (shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("needs a C++ compiler")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=env["PATH"]) else []
    configure = [
        "cmake",
        "-S",
        ".",
        "-B",
        "build",
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DCMAKE_CXX_FLAGS_DEBUG=-O0",
        *generator,
    ]
    for command in (configure, ["cmake", "--build", "build", "--target", "tripos_kernels", "--parallel", "2"]):
        made = subprocess.run(command, cwd=tree, env=env, capture_output=True, text=True)
        assert made.returncode == 0, made.stdout + made.stderr
    done = run(tree, RUN, tree / "build" / "libtripos_kernels.so")
    assert done.stdout == "equal\n", done.stderr
