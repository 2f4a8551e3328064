"""Which settings a running gateway can take over."""

from __future__ import annotations

import pytest

from headgate.adapters.config import Config
from headgate.gateway.server import needs_restart


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
    ],
)
def test_what_needs_a_restart_is_named(change: dict[str, dict[str, object]], named: str) -> None:
    assert needs_restart(config(), config(**change)) == named


def test_no_setting_is_forgotten() -> None:
    """A new section of the config fails here until somebody has decided whether a reload takes it."""
    assert set(Config.model_fields) == {
        "version", "pool", "gateway", "policy", "cache", "redis", "tenants", "log_level",
    }  # fmt: skip
