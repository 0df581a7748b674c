"""schemathesis reads the OpenAPI document and asks what it promises: no server error, no status that it does not name.

It brings forty megabytes, so it has an environment of its own, which `make soak` makes.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.soak.served import served
from tripos.api.routes import ROUTES

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / ".venv-schemathesis" / "bin" / "schemathesis"
EXAMPLES, MOST = 5, 100  # per operation and phase; --soak multiplies


@pytest.mark.soak
def test_the_server_keeps_to_its_document(soak: int) -> None:
    if not PROGRAM.exists():
        pytest.skip("needs schemathesis in .venv-schemathesis: make soak installs it")
    absent = [re.escape(route.path) for route in ROUTES if "not_implemented" in route.endpoint.__qualname__]
    with served() as server:
        command = [
            str(PROGRAM), "run", f"http://127.0.0.1:{server.port}/openapi.json", "--no-color", "--no-shrink",
            "--checks", "not_a_server_error,status_code_conformance", "--phases", "coverage,fuzzing", "--seed", "1",
            "--max-examples", str(min(MOST, EXAMPLES * soak)), "--suppress-health-check", "all",
            "--exclude-path-regex", f"^({'|'.join(absent) or '-'})$",  # they say 501, as documented
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, cwd=PROGRAM.parents[1])
    assert done.returncode == 0, done.stdout[-6000:]
    assert re.search(r"[1-9]\d* generated", done.stdout), done.stdout[-2000:]
