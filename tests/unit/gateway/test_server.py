"""Which settings a running gateway can take over."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from headgate.adapters import settings
from headgate.adapters.config import Config, TlsConfig
from headgate.adapters.settings import ConfigError
from headgate.gateway.server import Gateway, Sources, _credentials, needs_restart

TLS = Path(__file__).parents[2] / "integration/tls"
CERTIFICATE, KEY = TLS / "cert.pem", TLS / "key.pem"


def config(**changes: dict[str, object]) -> Config:
    base: dict[str, object] = {"version": 1, "gateway": {"open": True, **changes.pop("gateway", {})}}
    return Config.model_validate({**base, **changes})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"gateway": {"listen": "127.0.0.1:1"}}, "gateway.listen"),
        ({"gateway": {"drain_s": 1}}, "gateway.drain_s"),
        ({"gateway": {"processes": 2}}, "gateway.processes"),
        ({"pool": {"small": {"source": "small"}}}, "pool"),
        ({"redis": {"ledger_length": 500}}, "redis"),
        ({"policy": {"reference": "small"}}, "policy.reference"),
        ({"gateway": {"max_concurrent": 7}}, ""),
        ({"policy": {"risk_target": 0.2}}, ""),
        ({"cache": {"enabled": False}}, ""),
        ({"shadow": {"share": 0.5}}, ""),
    ],
)
def test_what_needs_a_restart_is_named(change: dict[str, dict[str, object]], named: str) -> None:
    assert needs_restart(config(), config(**change)) == named


@pytest.mark.parametrize(
    ("certificate", "key"),
    [(CERTIFICATE, CERTIFICATE), (KEY, KEY), (KEY, CERTIFICATE), (CERTIFICATE, __file__)],
)
def test_a_pair_that_does_not_fit_is_said_to_be_one(certificate: Path, key: Path) -> None:
    """gRPC would take it and say, when it binds, that the port is in use."""
    with pytest.raises(ConfigError, match=r"^gateway\.tls: .* are no certificate and key that fit"):
        _credentials(TlsConfig(certificate=str(certificate), key=str(key)))


def test_a_good_pair_is_taken() -> None:
    assert _credentials(TlsConfig(certificate=str(CERTIFICATE), key=str(KEY)))


@pytest.mark.parametrize(("share", "warned"), [(0, False), (0.5, True)])
async def test_who_samples_without_a_redis_is_told_that_nothing_is_sampled(
    share: float, warned: bool
) -> None:
    loaded = settings.read(f"{settings.BUILT_IN}shadow: {{share: {share}}}\n", None, {})
    workers = dict.fromkeys(loaded.config.pool, "127.0.0.1:1")
    gateway = Gateway(Sources(loaded, b"", None, None, workers), pytest.fail)
    with capture_logs() as lines:
        await gateway._check_redis()
    await gateway.close()
    assert any("nothing is sampled" in line["event"] for line in lines) is warned


def test_no_setting_is_forgotten() -> None:
    """A new section of the config fails here until somebody has decided whether a reload takes it."""
    assert set(Config.model_fields) == {
        "version", "pool", "gateway", "policy", "cache", "redis", "jobs", "shadow", "tenants", "log_level",
    }  # fmt: skip
