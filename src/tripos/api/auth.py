"""API keys: who asks. Deny by default as soon as one key is configured.

Keeps SHA-256 digests only. Keys are random, so a plain hash is enough; comparison takes the same time wherever two
digests differ. Refuses to know routes: the app asks for every endpoint that is not public.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from pathlib import Path

from tripos.errors import ConfigError, EnvironmentProblem, Unauthorized

MIN_KEY_CHARS, MAX_KEY_CHARS = 16, 512
_PATTERNS = {
    b"authorization": re.compile(rb"(?i:bearer) +([\x21-\x7e]{1,512})"),
    b"x-api-key": re.compile(rb"([\x21-\x7e]{1,512})"),
}


class Keys:
    """The keys that open this server; none: everyone may ask."""

    def __init__(self, keys: list[str] | tuple[str, ...] = ()) -> None:
        digests = [_digest(key.encode()) for key in keys]
        self._digests = {digest: f"key-{digest.hex()[:12]}" for digest in digests}

    def __bool__(self) -> bool:
        return bool(self._digests)

    def principal(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The id of the key in Authorization or x-api-key; one of them. Raises Unauthorized."""
        if not self._digests:
            return ""
        sent = [(name, value) for name, value in headers if name in _PATTERNS and value.strip()]
        if not sent:
            raise Unauthorized("send Authorization: Bearer <key>, or x-api-key: <key>", code="missing_api_key")
        name, value = sent[0]
        match = _PATTERNS[name].fullmatch(value) if len(sent) == 1 else None
        if match is None:
            raise Unauthorized("send one key: Authorization: Bearer <key>, or x-api-key: <key>")
        given = _digest(match[1])
        found = ""
        for digest, key_id in self._digests.items():
            if hmac.compare_digest(given, digest):
                found = key_id
        if not found:
            raise Unauthorized("this API key is not known")
        return found


def read_keys(path: str) -> Keys:
    """Keys from a file, one per line; empty lines and lines with # in front are skipped.

    Raises EnvironmentProblem (cannot be read), ConfigError (no usable key).
    """
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"the API key file cannot be read: {type(error).__name__}") from None
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for number, key in enumerate(keys, 1):
        if not MIN_KEY_CHARS <= len(key) <= MAX_KEY_CHARS or not key.isprintable() or " " in key:
            raise ConfigError(
                f"API key {number} of the key file must have {MIN_KEY_CHARS} to {MAX_KEY_CHARS} visible characters"
            )
    if not keys:
        raise ConfigError("the API key file holds no key: nobody could ask")
    return Keys(keys)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
