"""The layers of the design hold, and the rule that checks them has no holes."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.repo.tree import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_every_import_follows_the_layers() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_layers_are_exhaustive_and_ignore_nothing() -> None:
    layers = next(contract for contract in CONTRACTS if contract["id"] == "layers")
    assert layers["exhaustive"]
    assert not [key for contract in CONTRACTS for key in contract if "ignore" in key]
