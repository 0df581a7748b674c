"""An instruction set is a file in kernels/isa and its lines in the list beside it; nothing else names one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.repo.tree import ROOT, name_of, tracked

ISA = ROOT / "kernels" / "isa"
NAMES = re.findall(r'^    {"(\w+)", k\w+Kernels', (ISA / "kernels.cc").read_text(), flags=re.M)
SOURCES = [*tracked(".cc", ".h", under="kernels"), ROOT / "CMakeLists.txt"]
COMPILER = shutil.which("c++") or shutil.which("g++")

TABLE = """
#include "kernels/isa/kernels.h"
namespace tripos {
namespace {
void Add(const float*, const float*, float*, int) {}
void Scale(float*, float, int) {}
constexpr Kernels Table() {
  Kernels k;
  KERNELS
  return k;
}
}  // namespace
TABLES
}  // namespace tripos
"""
MAIN = """
#include <cstdio>
#include "kernels/isa/kernels.h"
int main() {
  for (const char* isa : {"auto", "dummy", "scalar"}) {
    const tripos::ChosenKernels k = tripos::ChooseKernels(isa);
    std::printf("%s: add %s, scale %s, norm %d\\n", k.isa, k.add.isa(), k.scale.isa(), k.norm ? 1 : 0);
  }
  std::puts(tripos::IsaNames(true).c_str());
}
"""

# Beside the vocabularies of vectors: that of tiles; the permission that tiles need, and who tells of it.
ALLOWED = ("tiles-inl.h", "amx.h", "amx.cc", "api.cc", "tripos.h")


def table(names: list[str], *assignments: str) -> str:
    """A file that exports a table with these kernels under each name."""
    exports = [f"extern const Kernels k{n}Kernels;\nconstinit const Kernels k{n}Kernels = Table();" for n in names]
    return TABLE.replace("KERNELS", "\n  ".join(assignments)).replace("TABLES", "\n".join(exports))


def test_every_file_is_in_the_list() -> None:
    files = {path.stem for path in tracked(".cc", under="kernels/isa")} - {"kernels"}
    assert len(NAMES) >= 3
    assert set(NAMES) == files


@pytest.mark.parametrize("path", [path for path in SOURCES if path.parent != ISA], ids=name_of)
def test_no_other_file_names_an_instruction_set(path: Path) -> None:
    named = "|".join(NAMES)
    words = "|".join(name for name in NAMES if name != "tiles")  # which also are tiles of rows
    pattern = rf"\b(?:{words})\b|\"(?:{named})\"|k(?:{named})Kernels|__A(?:VX|MX)\w+"
    found = re.findall(pattern, path.read_text(), flags=re.I)
    assert not found or path.name.startswith("simd") or path.name in ALLOWED


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The kernels with one more instruction set, the best, that can add: one new file, and the list."""
    if COMPILER is None or shutil.which("cmake") is None:
        pytest.skip("needs a C++ compiler and cmake")
    shutil.copytree(ROOT / "kernels", tmp_path / "kernels")
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    own = "// Flags on x86_64: -mavx2 -DDUMMY=1\n// Flags on aarch64: -DDUMMY=1\n" + table(["Dummy"], "k.add = Add;")
    (tmp_path / "kernels" / "isa" / "dummy.cc").write_text(own)
    the_list = tmp_path / "kernels" / "isa" / "kernels.cc"
    text = the_list.read_text().replace("extern const Kernels ", "extern const Kernels kDummyKernels, ", 1)
    entry = 'kInstructionSets[] = {\n    {"dummy", kDummyKernels, [] { return true; }},'
    the_list.write_text(text.replace("kInstructionSets[] = {", entry, 1))
    return tmp_path


def test_the_build_finds_a_new_file_and_its_flags(tree: Path) -> None:
    command = ["cmake", "-S", str(tree), "-B", str(tree / "build"), f"-DCMAKE_CXX_COMPILER={COMPILER}"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    commands = json.loads((tree / "build" / "compile_commands.json").read_text())
    with_flag = [Path(entry["file"]).name for entry in commands if "-DDUMMY=1" in entry["command"]]
    assert with_flag == ["dummy.cc"]


def test_each_slot_is_the_first_in_the_list_that_has_it(tree: Path) -> None:
    """By the list itself; the other tables, which take half a minute to compile, are small ones of the same names."""
    assert COMPILER is not None
    others = table([name.capitalize() for name in NAMES], "k.add = Add;", "k.scale = Scale;")
    (tree / "others.cc").write_text(others)
    (tree / "main.cc").write_text(MAIN)
    isa = tree / "kernels" / "isa"
    sources = [isa / "kernels.cc", isa / "dummy.cc", tree / "others.cc", tree / "main.cc"]
    sources.append(tree / "kernels" / "util" / "amx.cc")
    program = tree / "main"
    subprocess.run([COMPILER, "-std=gnu++20", f"-I{tree}", *sources, "-o", program], check=True, timeout=100)
    auto, dummy, scalar, names = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )[:4]
    best = names.split(",")[1]
    assert names.startswith("dummy,")
    assert auto == dummy == f"dummy: add dummy, scale {best}, norm 0"
    assert scalar == "scalar: add scalar, scale scalar, norm 0"
