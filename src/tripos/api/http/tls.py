"""The certificate that we show, read at the start and again while we run. Connections keep the one they began with."""

from __future__ import annotations

import ssl

from tripos.errors import EnvironmentProblem
from tripos.models.files.opening import open_regular


class Certificate:
    """`context` is what the door speaks TLS with: versions 1.2 and 1.3."""

    def __init__(self, cert: str, key: str = "") -> None:
        """`key` "": it stands in `cert`. Raises EnvironmentProblem."""
        self._cert, self._key = cert, key or cert
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.read()

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the files, each once."""
        return tuple(dict.fromkeys((self._cert, self._key)))

    def read(self) -> None:
        """New connections are shown what the files hold now. Raises EnvironmentProblem; then nothing changes."""
        try:
            for path in self.paths:  # OpenSSL would wait for what writes to a pipe
                open_regular(path).close()
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._cert, self._key, _no_password)
            self.context.load_cert_chain(self._cert, self._key, _no_password)
        except ssl.SSLError as error:
            reason = (error.reason or "not a certificate").replace("_", " ").lower()
            raise EnvironmentProblem(
                f"{self._cert} and {self._key} are no certificate and key in PEM: {reason}"
            ) from None
        except _Encrypted:
            raise EnvironmentProblem(
                f"{self._key} is encrypted: decrypt it, the server cannot ask for a password"
            ) from None
        except OSError as error:
            raise EnvironmentProblem(f"{' or '.join(self.paths)} cannot be read: {error.strerror}") from None


class _Encrypted(Exception):
    """The key asks for a password."""


def _no_password() -> str:
    raise _Encrypted
