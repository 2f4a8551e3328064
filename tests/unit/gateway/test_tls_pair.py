"""Certificate and key of the public port: that they fit, and that a renewal is taken from the files."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from pathlib import Path

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from headgate.adapters.config import TlsConfig
from headgate.adapters.settings import ConfigError
from headgate.gateway import tls_pair
from tests.authority import Authority

TLS = Path(__file__).parents[2] / "integration/tls"
CERTIFICATE, KEY = TLS / "cert.pem", TLS / "key.pem"


@pytest.mark.parametrize(
    ("certificate", "key"),
    [(CERTIFICATE, CERTIFICATE), (KEY, KEY), (KEY, CERTIFICATE), (CERTIFICATE, __file__)],
)
def test_a_pair_that_does_not_fit_is_said_to_be_one(certificate: Path, key: Path) -> None:
    """gRPC would take it and say, when it binds, that the port is in use."""
    with pytest.raises(ConfigError, match=r"^gateway\.tls: .* are no certificate and key that fit"):
        tls_pair.credentials(TlsConfig(certificate=str(certificate), key=str(key)))


def test_a_good_pair_is_taken() -> None:
    assert tls_pair.credentials(TlsConfig(certificate=str(CERTIFICATE), key=str(KEY)))


async def test_a_renewed_pair_is_shown_to_the_next_connection(tmp_path: Path) -> None:
    """One that does not fit is not: the old one goes on, and the log says why, once."""
    folder = tmp_path / "authority"
    folder.mkdir()
    authority = Authority(folder)
    first, second = authority.pair("first", "localhost"), authority.pair("second", "localhost")
    tls = TlsConfig(certificate=str(tmp_path / "tls.crt"), key=str(tmp_path / "tls.key"))

    def place(certificate: Path, key: Path) -> None:
        shutil.copy(certificate, tls.certificate)
        shutil.copy(key, tls.key)

    place(*first)
    credentials = tls_pair.credentials(tls)
    assert credentials is not None
    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()

    async def shown() -> str:
        return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port))

    try:
        with capture_logs() as logs:
            assert (await shown()).split() == first[0].read_text().split()
            place(second[0], first[1])
            for _ in range(2):
                assert (await shown()).split() == first[0].read_text().split()
            place(*second)
            assert (await shown()).split() == second[0].read_text().split()
            Path(tls.key).unlink()
            assert (await shown()).split() == second[0].read_text().split()
        assert [one["event"] for one in logs] == ["tls not renewed", "tls renewed", "tls not renewed"]
    finally:
        await server.stop(0)
