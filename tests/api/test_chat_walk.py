"""The way of one streamed chat request, from the first byte read to the last one written, is short and written down."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import tripos
from tests.api.running import running
from tests.repo.tree import ROOT
from tripos.testing import ScriptedModel

PACKAGE = Path(tripos.__file__).parent
PAGE = ROOT / "docs" / "explanation" / "architecture.md"
HEADING = "## The way of a streamed chat request"
MAX_FUNCTIONS, MAX_FILES = 49, 20  # whoever makes the way longer says why
BODY = {"model": "scripted", "messages": [{"role": "user", "content": "Hello?"}], "stream": True}


@contextmanager
def traced() -> Iterator[set[tuple[str, str]]]:
    """(file, function) of everything of the package that this thread enters from another file, or from the event loop;
    without lambdas and comprehensions.
    """
    codes: set[CodeType] = set()
    found: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        caller = frame.f_back
        if event == "call" and (caller is None or caller.f_code.co_filename != frame.f_code.co_filename):
            codes.add(frame.f_code)

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)
        for code in codes:
            path = Path(code.co_filename)
            if PACKAGE in path.parents and not code.co_name.startswith("<"):
                found.add((path.relative_to(PACKAGE).as_posix(), code.co_qualname.replace("<locals>.", "")))


def written_down() -> set[tuple[str, str]]:
    """The list in the page: a line per file, `file.py`: `function`, `function`."""
    section = PAGE.read_text().split(HEADING)[1].split("\n## ")[0]
    found = set()
    for line in re.findall(r"^\d+\. (`.+(?:\n   .+)*)", section, re.MULTILINE):
        file, *functions = re.findall(r"`([^`]+)`", line)
        found |= {(file, function) for function in functions}
    return found


async def ask(port: int) -> tuple[bytes, set[tuple[str, str]]]:
    """The answer to the second of two requests on one connection, and what ran for it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(BODY).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
    request = f"{head}Content-Type: application/json\r\n\r\n".encode() + content
    writer.write(request)
    await reader.readuntil(b"\r\n0\r\n\r\n")
    with traced() as found:
        writer.write(request)
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    return answer, found


async def test_the_way_is_as_short_as_the_page_says() -> None:
    async with running(ScriptedModel()) as server:
        answer, found = await ask(server.port)
    assert answer.count(b'"content":"') == 4  # the role's, and three Deltas
    assert answer.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    walked = {each for each in found if each[0] != "testing.py"}  # the model's own
    assert sorted(walked) == sorted(written_down())
    assert len(walked) <= MAX_FUNCTIONS
    assert len({file for file, _ in walked}) <= MAX_FILES
