"""Asks a running server, for the command line. Knows HTTP, streams of events and the error body, no models."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import urllib.parse
from collections.abc import Iterator
from typing import Any

import msgspec

from tripos.errors import ConfigError, EnvironmentProblem, RemoteError
from tripos.models.files.opening import open_regular

TIMEOUT_S = 3600.0  # a large model takes its time
MAX_ANSWER_BYTES = 1 << 24


class Client:
    """`url`: where the server listens, unix:PATH for a socket of the file system. `key_file`: in the format of the
    server's; its first key of `scope` is used. Raises ConfigError, EnvironmentProblem (the key file)."""

    def __init__(self, url: str, key_file: str = "", scope: str = "generate") -> None:
        self._connection, self._path = _connection(url)
        self._url = url
        self._headers = {"content-type": "application/json"}
        if key_file:
            self._headers["authorization"] = f"Bearer {_key(key_file, scope)}"

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, form: Any = dict[str, Any]) -> Any:
        """The answer's JSON, of type `form`. Raises EnvironmentProblem (nobody answers, or no Tripos), RemoteError."""
        try:
            with self._request(method, path, body) as response:
                return self._shaped(self._read(response), form)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            self.close()

    def stream(self, path: str, body: dict[str, Any], form: Any = dict[str, Any]) -> Iterator[Any]:
        """The JSON of each event that the server sends. Letting go of it hangs up. Raises as `ask`."""
        try:
            with self._request("POST", path, body) as response:
                if response.status != 200:
                    self._read(response)
                while line := response.readline(MAX_ANSWER_BYTES):
                    data = line.removeprefix(b"data:").strip() if line.startswith(b"data:") else b""
                    if data == b"[DONE]":
                        return
                    if data:
                        yield self._shaped(self._checked(self._decoded(data, response.status), 200), form)
                raise EnvironmentProblem(f"the server at {self._url} hung up in the middle of an answer")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from None
        finally:
            self.close()

    def close(self) -> None:
        """Hang up; the next request connects again."""
        self._connection.close()

    def _request(self, method: str, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, self._path + path, data, self._headers)
        return self._connection.getresponse()

    def _read(self, response: http.client.HTTPResponse) -> Any:
        return self._checked(self._decoded(response.read(MAX_ANSWER_BYTES), response.status), response.status)

    def _decoded(self, data: bytes, status: int) -> Any:
        try:
            return msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise EnvironmentProblem(f"what answers at {self._url} is no Tripos server (status {status})") from None

    def _shaped(self, value: Any, form: Any) -> Any:
        try:
            msgspec.convert(value, form)
        except msgspec.ValidationError as error:
            raise EnvironmentProblem(f"what answers at {self._url} is no Tripos server: {error}") from None
        return value

    def _checked(self, value: Any, status: int) -> Any:
        error = value.get("error") if isinstance(value, dict) else None
        if status == 200 and not error:
            return value
        code = error.get("code") if isinstance(error, dict) else None
        raise RemoteError(_message(error, status), code=code if isinstance(code, str) else None)

    def _unreachable(self, error: Exception) -> EnvironmentProblem:
        if isinstance(error, ssl.SSLCertVerificationError):
            return EnvironmentProblem(
                f"the certificate of {self._url} is not trusted: {error.verify_message.rstrip('.')}: give the name "
                "that it is for as --url, and a file with its issuer's certificate in the variable SSL_CERT_FILE"
            )
        reason = getattr(error, "strerror", None) or type(error).__name__
        return EnvironmentProblem(f"no server answers at {self._url}: {reason}: give its address as --url")


class _SocketConnection(http.client.HTTPConnection):
    """To a socket of the file system."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._socket_path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._socket_path)


def _connection(url: str) -> tuple[http.client.HTTPConnection, str]:
    """A connection that is not open yet, and what goes before every path. Raises ConfigError."""
    if url.startswith("unix:"):
        return _SocketConnection(url.removeprefix("unix:")), ""
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    wrong = ConfigError(f"--url {url[:80]!r} is not an address such as http://127.0.0.1:8000 or unix:/path")
    try:
        parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        host = (parts.hostname or "").encode("idna").decode()
        connection = kinds[parts.scheme](host, parts.port, timeout=TIMEOUT_S)
        path = urllib.parse.quote(parts.path, safe="/%:@!$&'()*+,;=")
    except (ValueError, KeyError, http.client.HTTPException):
        raise wrong from None
    if not parts.hostname:
        raise wrong
    return connection, path.rstrip("/").removesuffix("/v1")


def _message(error: Any, status: int) -> str:
    return str(error.get("message", status)) if isinstance(error, dict) else f"the server answered {status}"


def _key(path: str, scope: str) -> str:
    try:
        with open_regular(path) as file:
            lines = file.read().decode("ascii").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise EnvironmentProblem(f"the API key file {path} cannot be read: {reason}") from None
    for line in lines:
        key, _, scopes = line.strip().partition(" ")
        if key and not line.startswith("#") and scope in (each.strip() for each in (scopes or "generate").split(",")):
            return key
    raise ConfigError(f"{path} holds no key with the scope {scope}: add a line with a key, a space and {scope}")
