"""API keys: which principal sends a request, and what it may do. With one key configured, all others are refused.

Three scopes: `generate` permits requests to models, `admin` changes of the server, `metrics` only /metrics, which the
other scopes permit too. A key has `generate` unless its line names scopes.

Keeps SHA-256 digests only. Keys are random, so a plain hash is enough; comparison takes the same time wherever two
digests differ. Knows no routes: the app checks every endpoint that is not public.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from tripos.errors import ConfigError, EnvironmentProblem, PermissionDenied, Unauthorized
from tripos.models.files.opening import open_regular

log = logging.getLogger(__name__)

Scope = Literal["generate", "admin", "metrics"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

MIN_KEY_CHARS, MAX_KEY_CHARS = 16, 512
MAX_KEYS, MAX_FILE_BYTES = 1024, 1 << 20
_PATTERNS = {
    b"authorization": re.compile(rb"(?i:bearer) +([\x21-\x7e]{1,512})"),
    b"x-api-key": re.compile(rb"([\x21-\x7e]{1,512})"),
}


class Keys:
    """The API keys of this server; without any, every request is accepted."""

    def __init__(self, keys: Iterable[str] | Mapping[str, frozenset[Scope]] = (), path: str = "") -> None:
        """`keys`: with their scopes, or keys with the scope generate. `path`: of the file that they come from."""
        scopes = keys if isinstance(keys, Mapping) else dict.fromkeys(keys, frozenset[Scope]({"generate"}))
        self._keys = {_digest(key.encode()): each for key, each in scopes.items()}
        self.path = path
        self.are_needed = bool(self._keys)  # stays: a file that is read again holds keys too

    def __bool__(self) -> bool:
        return bool(self._keys)

    def principal(self, headers: Iterable[tuple[bytes, bytes]], scope: Scope = "generate") -> str:
        """The id of the key in Authorization or x-api-key; one of them. Raises Unauthorized, PermissionDenied."""
        if not self._keys:
            return ""
        sent = [(name, value) for name, value in headers if name in _PATTERNS and value.strip()]
        if not sent:
            raise Unauthorized("send Authorization: Bearer <key>, or x-api-key: <key>", code="missing_api_key")
        name, value = sent[0]
        match = _PATTERNS[name].fullmatch(value) if len(sent) == 1 else None
        if match is None:
            raise Unauthorized("send exactly one key: Authorization: Bearer <key>, or x-api-key: <key>")
        given = _digest(match[1])
        found = None
        for digest, scopes in self._keys.items():
            if hmac.compare_digest(given, digest):
                found = scopes
        if found is None:
            raise Unauthorized("the API key is not valid")
        if scope != "metrics" and scope not in found:
            raise PermissionDenied(f"the API key does not have the {scope} scope")
        return f"key-{given.hex()[:12]}"

    def reread(self) -> dict[str, int]:
        """Reads the file again: how many keys were added, removed or got other scopes; {} for none.

        Raises EnvironmentProblem, ConfigError as read_keys; then the keys stay as they are.
        """
        if not self.path:
            return {}
        before, after = self._keys, read_keys(self.path)._keys
        self._keys = after
        removed = len(before.keys() - after.keys())
        changed = len(before.items() - after.items()) - removed
        numbers = {"added": len(after.keys() - before.keys()), "removed": removed, "changed": changed}
        return {what: number for what, number in numbers.items() if number}


def read_keys(path: str) -> Keys:
    """Keys from a file, one per line: the key, and after a space its scopes, separated by commas. Empty lines and lines
    with # in front are skipped.

    Raises EnvironmentProblem (cannot be read), ConfigError (no usable key).
    """
    found: dict[str, frozenset[Scope]] = {}
    for number, line in enumerate(_read(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key, _, scopes = line.strip().partition(" ")
        if not MIN_KEY_CHARS <= len(key) <= MAX_KEY_CHARS or not key.isprintable():
            raise ConfigError(
                f"line {number} of the API key file: a key has {MIN_KEY_CHARS} to {MAX_KEY_CHARS} visible characters"
            )
        if key in found:
            raise ConfigError(f"line {number} of the API key file: the key is listed twice")
        found[key] = _scopes(scopes, number)
        if len(found) > MAX_KEYS:
            raise ConfigError(f"the API key file holds more than {MAX_KEYS} keys")
    if not found:
        raise ConfigError("the API key file holds no key: every request would be refused")
    return Keys(found, path)


def _read(path: str) -> list[str]:
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_mode & 0o004:
                log.warning("the API key file %s can be read by every user of this machine: chmod 600 it", path)
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"the API key file is larger than {MAX_FILE_BYTES >> 20} MiB")
        return data.decode("ascii").splitlines()
    except ValueError:
        raise EnvironmentProblem(f"the API key file {path} cannot be read: it is not ASCII text") from None
    except OSError as error:
        raise EnvironmentProblem(f"the API key file {path} cannot be read: {error.strerror}") from None


def _scopes(text: str, number: int) -> frozenset[Scope]:
    given = [scope.strip() for scope in text.split(",")] if text.strip() else ["generate"]
    unknown = [scope for scope in given if scope not in SCOPES]
    if unknown:
        raise ConfigError(f"line {number} of the API key file: the scopes after a key are {', '.join(SCOPES)}")
    return frozenset(scope for scope in SCOPES if scope in given)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
