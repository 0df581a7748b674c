"""The walk of a reload in docs/explanation/architecture.md is the one that a reload takes, and it is short."""

from __future__ import annotations

import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import tripos
from tests.api.residing import residing

ROOT = Path(tripos.__file__).parent
PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "architecture.md"
MOST = 15
# Where a reload is led. What opens and loads a model's files, and the HTTP layer below the endpoint, is not counted.
SCOPE = ("api/admin.py", "repository/", "build/service.py", "service.py")


class Walk:
    """Functions of ours that run, and those of them that lead on: they call another one."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.leading: set[str] = set()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or not (callee := name_of(frame.f_code)):
            return
        self.seen.add(callee)
        caller: FrameType | None = frame.f_back
        while caller is not None and caller.f_code.co_name.startswith("<"):  # a comprehension is its function's
            caller = caller.f_back
        if caller is not None and (leader := name_of(caller.f_code)):
            self.leading.add(leader)


def name_of(code: CodeType) -> str:
    """`file function`, "" for what is not in the scope, and for properties and comprehensions, which are no steps."""
    path = Path(code.co_filename)
    if ROOT not in path.parents:
        return ""
    file, name = path.relative_to(ROOT).as_posix(), code.co_qualname
    if not file.startswith(SCOPE) or "<" in name:
        return ""
    found: Any = import_module("tripos." + file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    return "" if isinstance(found, property) else f"{file} {name}"


def listed() -> list[str]:
    section = PAGE.read_text().partition("## One reload")[2].partition("\n## ")[0]
    return [" ".join(found) for found in re.findall(r"^\d+\. `(\S+)` `(\S+?)`", section, re.MULTILINE)]


async def test_a_reload_takes_the_walk_that_is_written_down() -> None:
    walk = Walk()
    async with residing() as found:
        sys.setprofile(walk)
        try:
            response = await found.server.post("/admin/models/reload", {"name": "tiny"})
        finally:
            sys.setprofile(None)
        assert response.status_code == 200
    steps = listed()
    assert walk.leading - set(steps) == set(), "leads on, and is not listed"
    assert set(steps) - walk.seen == set(), "is listed, and does not run"
    assert len(steps) == len(set(steps)) <= MOST
