"""Asks a running server's admin endpoints, for the command line. Knows HTTP and the error body, no models."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from typing import Any

from tripos.errors import ConfigError, EnvironmentProblem, TriposError
from tripos.models.files import open_regular

TIMEOUT_S = 3600.0  # a large model takes its time
MAX_ANSWER_BYTES = 1 << 24


class Refused(TriposError):
    """The server said no; the message is the server's."""


class AdminClient:
    """`url`: where the server listens. `key_file`: in the format of the server's; its first admin key is used."""

    def __init__(self, url: str, key_file: str = "") -> None:
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        if parts.scheme not in ("http", "https") or not parts.hostname or port == -1:
            raise ConfigError(f"--url {url[:80]!r} is not an address such as http://127.0.0.1:8000")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, port, timeout=TIMEOUT_S)
        self._url = url
        self._headers = {"content-type": "application/json"}
        if key_file:
            self._headers["authorization"] = f"Bearer {_admin_key(key_file)}"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer's JSON. Raises EnvironmentProblem (nobody answers), Refused."""
        data = None if body is None else json.dumps(body).encode()
        try:
            self._connection.request(method, path, data, self._headers)
            response = self._connection.getresponse()
            status, answer = response.status, response.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise EnvironmentProblem(f"no server answers at {self._url}: {reason}: give its address as --url") from None
        finally:
            self._connection.close()
        try:
            value = json.loads(answer)
        except ValueError:
            raise EnvironmentProblem(f"what answers at {self._url} is no Tripos server (status {status})") from None
        if status != 200:
            raise Refused(_message(value, status))
        return value


def _message(value: Any, status: int) -> str:
    error = value.get("error") if isinstance(value, dict) else None
    return str(error.get("message", status)) if isinstance(error, dict) else f"the server answered {status}"


def _admin_key(path: str) -> str:
    try:
        with open_regular(path) as file:
            lines = file.read().decode("ascii").splitlines()
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(f"the API key file cannot be read: {type(error).__name__}") from None
    for line in lines:
        key, _, scopes = line.strip().partition(" ")
        if not line.startswith("#") and "admin" in [scope.strip() for scope in scopes.split(",")]:
            return key
    raise ConfigError("the API key file holds no key with the admin scope: add a line with a key, a space and admin")
