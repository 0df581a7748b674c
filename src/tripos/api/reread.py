"""Read again what may change while the server runs: API keys, the certificate, and the service file with its models."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tripos.api.auth import Keys
from tripos.api.http.tls import Certificate
from tripos.errors import Conflict, EnvironmentProblem
from tripos.repository import ModelRepository

log = logging.getLogger(__name__)

SETTLE_S = 0.25
MAX_LOOKS = 40


async def reread(
    repository: ModelRepository | None, keys: Keys, certificate: Certificate | None = None
) -> dict[str, Any]:
    """A report. Keys come first and stay, whatever happens to the models: a removed key must not remain valid because
    a model is wrong. A wrong certificate does not prevent the other changes.

    Raises TriposError: then nothing else has changed.
    """
    paths = (keys.path, repository.settings.file if repository else "", *(certificate.paths if certificate else ()))
    await _settled([path for path in paths if path])
    try:
        changed = await asyncio.to_thread(keys.reread)
    except EnvironmentProblem as problem:
        raise Conflict(problem.message) from None
    if changed:
        log.info("API keys: %s", ", ".join(f"{number} {what}" for what, number in changed.items()))
    shown = {} if certificate is None else {"certificate": await _read(certificate)}
    report = {} if repository is None else await repository.reread()
    return {**report, "keys": changed, **shown}


async def _read(certificate: Certificate) -> str:
    try:
        await asyncio.to_thread(certificate.read)
    except EnvironmentProblem as problem:
        log.error("the certificate is the old one: %s", problem.message)
        return f"the old one: {problem.message}"
    return "read again"


async def _settled(paths: Iterable[str]) -> None:
    """Waits until the files stop changing: half a file may be valid too. Raises Conflict."""
    before = _states(paths)
    for _ in range(MAX_LOOKS if before else 0):
        await asyncio.sleep(SETTLE_S)
        now = _states(paths)
        if now == before:
            return
        before = now
    if before:
        raise Conflict("a configuration file keeps changing: retry when it is complete")


def _states(paths: Iterable[str]) -> list[tuple[int, ...]]:
    states: list[tuple[int, ...]] = []
    for path in paths:
        try:
            found = Path(path).stat()
        except OSError:  # reading it raises the error
            continue
        states.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
    return states
