"""What is imported when, and what is never imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repo.tree import ROOT, name_of, tracked

HEAVY = {
    "asyncio", "huggingface_hub", "jinja2", "llguidance", "msgspec", "numpy", "onnxruntime", "prometheus_client",
    "ray", "tokenizers", "torch", "uvicorn", "uvloop",
}  # fmt: skip
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "yaml"}
UNSAFE_CALLS = {"eval", "exec", "__import__"}
SHIPPED = tracked(".py", under="src")


def imported(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after `code`. Run far from the checkout: the installed package."""
    program = f"{code}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_import_tripos_imports_no_heavy_module() -> None:
    assert not imported("import tripos") & HEAVY


def test_the_command_line_imports_no_heavy_module() -> None:
    assert not imported("import tripos.cli") & HEAVY


def test_the_heavy_modules_are_seen_when_they_are_imported() -> None:
    assert {"msgspec", "numpy"} <= imported("import tripos.runtime.executor, tripos.types")


def test_the_installed_package_is_what_is_tested() -> None:
    import tripos

    assert ROOT / "src" not in Path(tripos.__file__).parents


def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@pytest.mark.parametrize("path", SHIPPED, ids=name_of)
def test_nothing_that_runs_code_out_of_data(path: Path) -> None:
    found = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in UNSAFE_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] * (node.module.partition(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            found += [called] * (called in UNSAFE_CALLS or called in ("os.system", "os.popen"))
            found += [word.arg for word in node.keywords if word.arg in ("shell", "allow_pickle")]
    assert not found


def test_there_is_one_template_environment() -> None:
    calls = [
        name_of(path)
        for path in SHIPPED
        for node in nodes(path)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Environment")
    ]
    assert len(calls) == 1, calls


def test_the_environment_is_read_in_two_places() -> None:
    readers = {
        name_of(path)
        for path in SHIPPED
        for node in nodes(path)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.environ", "os.getenv", "os.environb")
    }
    # cli hands the environment to config; native is the documented exception.
    assert {name for name in readers if not name.startswith("src/tripos/cli/")} <= {"src/tripos/runtime/native.py"}
