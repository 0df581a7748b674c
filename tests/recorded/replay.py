"""Sends all requests of the corpus to fresh servers, in their order, and gives the normalised answers by group."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.recorded import models, served
from tests.recorded.normalise import Normaliser
from tests.recorded.request import Request
from tests.recorded.tables import (
    adapters,
    admin,
    anthropic,
    chat,
    completions,
    decisions,
    encoders,
    errors,
    ignored,
    ollama,
    reasoning,
    responses,
    routes,
    structured,
    tokens,
    tools,
)

# In this order: the cache, the stored responses and what is loaded depend on what came before.
GROUPS: dict[str, Iterable[Request]] = {
    "chat": chat.REQUESTS,
    "completions": completions.REQUESTS,
    "responses": responses.REQUESTS,
    "anthropic": anthropic.REQUESTS,
    "ollama": ollama.REQUESTS,
    "tools": tools.REQUESTS,
    "reasoning": reasoning.REQUESTS,
    "structured": structured.REQUESTS,
    "decisions": decisions.REQUESTS,
    "encoders": encoders.REQUESTS,
    "tokens": tokens.REQUESTS,
    "ignored": ignored.REQUESTS,
    "errors": errors.REQUESTS,
    "adapters": adapters.REQUESTS,
    "admin": admin.REQUESTS,
    "routes": routes.REQUESTS,
}
COMMANDS = "commands"  # the group of the command line's pages of help, and of the settings
ANSWERS = Path(__file__).parent / "answers"
OPTION = re.compile(r" {2}(-\S.*?)(?: {2,}|$)")
COMMAND = re.compile(r" {2}([a-z-]+) {2,}\S")

Record = dict[str, Any]


class Replay:
    """Two servers, and what was kept of their answers."""

    def __init__(self, root: Path, ports: dict[str, int]) -> None:
        self._root = root
        self._ports = ports
        self._kept: dict[str, str] = {}

    def send(self, request: Request) -> Record:
        port = self._ports[request.server]
        if request.raw:
            answer = served.send_raw(port, request.raw)
        else:
            path, body = self._fill(request.path), self._fill(request.body.decode("utf-8", "surrogateescape"))
            content = body.encode("utf-8", "surrogateescape")
            answer = served.send(port, request.method, path, content, dict(request.headers))
        for name, place in request.keep.items():
            value = json.loads(answer.body)
            for key in place.split("."):
                value = value[int(key)] if isinstance(value, list) else value[key]
            self._kept[name] = value
        named = {"name": request.name, "request": f"{request.method} {request.path}".strip()}
        return named | Normaliser(self._root).record(answer)

    def _fill(self, text: str) -> str:
        text = text.replace("@(root)", str(self._root))
        return re.sub(r"@\(([\w-]+)\)", lambda match: self._kept[match[1]], text)


def replay(root: Path) -> dict[str, list[Record]]:
    """Every group's answers. `root`: an empty folder for models and logs."""
    models.write_all(root)
    with ThreadPoolExecutor(1) as pool, ExitStack() as servers:
        pages = pool.submit(lambda: [*command_pages(), settings(root / "adapters")])
        ports = {name: servers.enter_context(served.serving(root / f"{name}.toml")) for name in ("open", "keyed")}
        replaying = Replay(root, ports)
        answers = {group: [replaying.send(request) for request in requests] for group, requests in GROUPS.items()}
        return {**answers, COMMANDS: pages.result()}


def recorded() -> dict[str, list[Record]]:
    """What the files hold."""
    files = {group: (ANSWERS / f"{group}.jsonl").read_text() for group in (*GROUPS, COMMANDS)}
    return {group: [json.loads(line) for line in text.splitlines()] for group, text in files.items()}


def command_pages() -> list[Record]:
    """The commands and flags that each page of help lists, from `tripos` down."""
    pages, waiting = [], [()]
    while waiting:
        path: tuple[str, ...] = waiting.pop(0)
        command = [str(served.COMMAND), *path, "--help"]
        done = subprocess.run(command, capture_output=True, text=True, env=served.environment(), timeout=60)
        lines = done.stdout.splitlines()
        flags = [match[1] for line in lines if (match := OPTION.match(line))]
        listed = lines[lines.index("Commands:") + 1 :] if "Commands:" in lines else []
        commands = [match[1] for line in listed if (match := COMMAND.match(line))]
        waiting += [(*path, name) for name in commands]
        usage = lines[0] if lines else ""
        pages.append(
            {
                "name": " ".join(("tripos", *path)),
                "status": done.returncode,
                "usage": usage,
                "flags": flags,
                "commands": commands,
            }
        )
    return pages


def settings(folder: Path) -> Record:
    """Every setting and its default, as a server in a folder without a service file has them."""
    command = [str(served.COMMAND), "config", "show"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=served.environment(), cwd=folder, timeout=60, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()[1:]]
    return {"name": "settings", "settings": {line[0]: " ".join(line[1:]) for line in lines}}
