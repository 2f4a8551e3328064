"""The certificate and key of the public port: read at the start, and again when others are in their place.

Whoever renews them only writes the files: the next connection is shown the new ones, and those that there
are go on.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import structlog

from headgate.adapters.config import TlsConfig
from headgate.adapters.settings import ConfigError

_LOG = structlog.get_logger(__name__)
_Pair = tuple[bytes, bytes]


def credentials(tls: TlsConfig | None) -> grpc.ServerCredentials | None:
    """The server's, which follow the files; None for plain text. Raises ConfigError with one sentence."""
    if tls is None:
        return None
    files = _Files(tls)
    # The stubs forget that None means "no change".
    return grpc.dynamic_ssl_server_credentials(files.shown(), files.renewed)  # type: ignore[arg-type]


class _Files:
    def __init__(self, tls: TlsConfig) -> None:
        self._tls = tls
        self._pair = self._read()
        _check(tls)
        self._said = ""

    def shown(self) -> grpc.ServerCertificateConfiguration:
        """What connections are shown."""
        return grpc.ssl_server_certificate_configuration([self._pair])

    def renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """The same where it has changed. gRPC asks before each handshake, in a thread of its own."""
        try:
            pair = self._read()
            if pair == self._pair:
                return None
            _check(self._tls)
            fits = self._read() == pair
        except ConfigError as error:
            if str(error) != self._said:
                _LOG.warning("tls not renewed", because=str(error))
            self._said = str(error)
            return None
        if not fits:
            # Changed while it was checked: the next connection finds the rest.
            return None
        self._pair, self._said = pair, ""
        _LOG.info("tls renewed", certificate=self._tls.certificate)
        return self.shown()

    def _read(self) -> _Pair:
        try:
            return Path(self._tls.key).read_bytes(), Path(self._tls.certificate).read_bytes()
        except OSError as error:
            raise ConfigError(f"gateway.tls: {error.filename} cannot be read: {error.strerror}") from None


def _check(tls: TlsConfig) -> None:
    """gRPC would fail when it binds, as if the port were in use: hence OpenSSL is asked first."""
    try:
        # An empty password, so that a key that wants one is refused instead of asked for on the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls.certificate, tls.key, password="")
    except (OSError, ValueError):
        sentence = f"gateway.tls: {tls.certificate} and {tls.key} are no certificate and key that fit"
        raise ConfigError(f"{sentence}, both PEM, the key without a password") from None
