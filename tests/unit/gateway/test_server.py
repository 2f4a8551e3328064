"""Which settings a running gateway can take over."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from headgate.adapters import settings
from headgate.adapters.config import Config
from headgate.adapters.status_map import InvalidRequestError
from headgate.gateway.purges import Scope
from headgate.gateway.server import Gateway, Sources, check_names, needs_restart

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
        ({"cache": {"semantic": {"enabled": True}}}, "cache.semantic.enabled"),
        ({"cache": {"semantic": {"wrong_hits": 0.05}}}, ""),
        ({"shadow": {"share": 0.5}}, ""),
    ],
)
def test_what_needs_a_restart_is_named(change: dict[str, dict[str, object]], named: str) -> None:
    assert needs_restart(config(), config(**change)) == named


TENANT = {"keys": [{"id": "a", "hmac_sha256": "0" * 64}]}


@pytest.mark.parametrize(
    ("scope", "sentence"),
    [
        (Scope("acme", "small", "any"), ""),
        (Scope("", "", "any"), ""),
        (Scope("acem"), "the config has no tenant 'acem', only acme, beta"),
        (Scope("open"), "the config has no tenant 'open', only acme, beta"),
        (Scope("acme", "smal"), "the config has no model 'smal', only small, large"),
    ],
)
def test_an_order_to_purge_with_a_slip_of_the_pen_is_refused_with_the_names_that_there_are(
    scope: Scope, sentence: str
) -> None:
    keyed = config(
        gateway={"open": False, "pepper": "env:P"},
        tenants={"acme": TENANT, "beta": {"keys": [{"id": "b", "hmac_sha256": "1" * 64}]}},
    )
    if not sentence:
        check_names(scope, keyed)
        return
    with pytest.raises(InvalidRequestError, match=rf"^{sentence}; one that was removed .*--unknown"):
        check_names(scope, keyed)


def test_who_calls_without_a_key_is_a_tenant_that_can_be_purged() -> None:
    check_names(Scope("open"), config())
    with pytest.raises(InvalidRequestError, match="no tenant 'acme', only open"):
        check_names(Scope("acme"), config())


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
        "version", "pool", "gateway", "policy", "cache", "redis", "jobs", "shadow", "telemetry", "tenants",
        "log_level",
    }  # fmt: skip
