from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from headgate.adapters.config import Config, is_loopback, of_process

OPEN = {"version": 1, "gateway": {"open": True}}
TENANT = {"keys": [{"id": "k", "hmac_sha256": "a" * 64}]}


def refusal(data: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(data)
    return str(caught.value)


def test_open_needs_every_listener_on_loopback():
    for listener in ("listen", "admin_listen", "metrics_listen"):
        assert "only allowed while" in refusal(
            {"version": 1, "gateway": {"open": True, listener: "0.0.0.0:7070"}}
        )


def test_without_tenants_only_an_open_gateway_is_allowed():
    assert "add one" in refusal({"version": 1})
    assert "required when there are tenants" in refusal({"version": 1, "tenants": {"a": TENANT}})
    Config.model_validate({"version": 1, "gateway": {"pepper": "env:PEPPER"}, "tenants": {"a": TENANT}})


def test_a_tenant_may_only_name_models_of_the_pool():
    tenant = {**TENANT, "models": ["small", "huge"]}
    assert "no model 'huge'" in refusal(
        {"version": 1, "gateway": {"pepper": "env:P"}, "tenants": {"a": tenant}}
    )


@pytest.mark.parametrize("expires", ["2027-02-30", "soon", "31.01.2027"])
def test_an_expiry_is_a_real_date(expires):
    tenant = {"keys": [{"id": "k", "hmac_sha256": "a" * 64, "expires": expires}]}
    assert "must be a date" in refusal(
        {"version": 1, "gateway": {"pepper": "env:P"}, "tenants": {"a": tenant}}
    )


@pytest.mark.parametrize("address", ["localhost", ":7070", "host:port", "127.0.0.1:70000", "a b:1", "[::1]"])
def test_what_is_no_address_is_refused(address):
    refusal({"version": 1, "gateway": {"open": True, "listen": address}})


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/0",
        "redis://[::1]:1?db=2",
        "rediss://h",
        "unix:///tmp/x.sock",
        "unix:///srv/a@b/x.sock?db=1",
        "env:REDIS",
        "file:/run/redis@b",
    ],
)
def test_redis_urls_and_references(url):
    assert Config.model_validate({**OPEN, "redis": {"url": url}}).redis.url == url


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@h:1/0",
        "rediss://me:hunter2@h",
        "redis://:hun/ter2@h",
        "redis://:hun?ter2@h",
        "unix://me:hunter2@/tmp/x.sock",
        "unix://me:hun/ter2@/tmp/x.sock",
        "redis://h?db=1&password=hunter2",
        "unix:///tmp/x.sock?password=hunter2",
        "rediss://h?ssl_password=hunter2",
    ],
)
def test_a_redis_password_is_only_referred_to(url):
    said = refusal({**OPEN, "redis": {"url": url}})
    assert "redis.url" in said
    assert "write env:NAME or file:PATH" in said


@pytest.mark.parametrize(
    "url", ["redis://h:1/0", "amqp://h", "amqps://h:5671/jobs", "env:BROKER", "file:/run/b@c"]
)
def test_broker_urls_and_references(url):
    assert Config.model_validate({**OPEN, "jobs": {"broker": url}}).jobs.broker == url


@pytest.mark.parametrize(
    "url",
    ["amqp://me:hunter2@h", "amqps://me@h/v", "amqp://h/v?password=hunter2", "amqp://", "redis://:hunter2@h"],
)
def test_a_brokers_password_is_only_referred_to(url):
    said = refusal({**OPEN, "jobs": {"broker": url}})
    assert "jobs.broker" in said
    assert "write env:NAME or file:PATH" in said


@pytest.mark.parametrize(
    "url",
    ["http://engine:8000/v1", "https://[::1]:8000/v1", "https://h/accounts/@me/v1", "http://h:1/@a/b:c@d"],
)
def test_a_base_url_says_where(url):
    config = Config.model_validate({**OPEN, "pool": {"m": {"base_url": url}}})
    assert config.pool["m"].base_url == url


@pytest.mark.parametrize(
    "url",
    [
        "https://me:hunter2@h/v1",
        "https://hunter2@h/v1",
        "https://:hunter2@h",
        "https://me:hun/ter2@h/v1",
        "https://me:hun?ter2@h/v1",
        "me:hunter2@h/v1",
    ],
)
def test_a_base_url_never_says_as_whom(url):
    said = refusal({**OPEN, "pool": {"m": {"base_url": url}}})
    assert "pool.m.base_url" in said
    assert "api_key: env:NAME or file:PATH" in said


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ({"a": ["k"], "b": ["j", "k"]}, "tenants.b.keys: the id 'k' is also used by tenant 'a'"),
        ({"a": ["k", "k"]}, "tenants.a.keys: the id 'k' is also used by another of its keys"),
    ],
)
def test_no_two_keys_share_an_id(ids, expected):
    key = TENANT["keys"][0]
    tenants = {name: {"keys": [{**key, "id": one} for one in own]} for name, own in ids.items()}
    assert expected in refusal({"version": 1, "gateway": {"pepper": "env:P"}, "tenants": tenants})


def test_only_sampling_can_be_omitted():
    assert "omit" in refusal({**OPEN, "pool": {"m": {"omit": ["max_tokens"]}}})
    config = Config.model_validate({**OPEN, "pool": {"m": {"omit": ["temperature", "top_p"]}}})
    assert config.pool["m"].omit == ("temperature", "top_p")


def test_nothing_is_sampled_unless_somebody_says_so():
    assert Config.model_validate(OPEN).shadow.share == 0


@pytest.mark.parametrize(
    ("shadow", "expected"),
    [
        ({"share": 1.5}, "shadow.share"),
        ({"share": -0.1}, "shadow.share"),
        ({"share": float("nan")}, "shadow.share"),
        ({"budget_usd_per_day": -1}, "shadow.budget_usd_per_day"),
        ({"keep_text_days": 0}, "shadow.keep_text_days"),
        ({"models": ["huge"]}, "shadow.models: the pool has no model 'huge'"),
        ({"scorer": {"kind": "judge"}}, "model: required for the scorer judge"),
        ({"scorer": {"kind": "regex"}}, "pattern: required for the scorer regex"),
        ({"scorer": {"kind": "command"}}, "command: required for the scorer command"),
        ({"scorer": {"kind": "regex", "pattern": "("}}, "pattern: no regular expression"),
        ({"scorer": {"kind": "judge", "model": "huge"}}, "shadow.scorer.model: the pool has no model 'huge'"),
        ({"scorer": {"kind": "taste"}}, "shadow.scorer.kind"),
    ],
)
def test_shadow_sampling_that_cannot_work_is_refused(shadow, expected):
    assert expected in refusal({**OPEN, "shadow": shadow})


def test_nobody_shares_answers_with_whoever_calls_an_open_gateway():
    gateway = {"open": True, "pepper": "env:P"}
    tenants = {"version": 1, "tenants": {"open": TENANT}}
    assert "tenants.open: with gateway.open this is whoever" in refusal({**tenants, "gateway": gateway})
    Config.model_validate({**tenants, "gateway": {"pepper": "env:P"}})
    Config.model_validate({"version": 1, "gateway": gateway, "tenants": {"acme": TENANT}})


def test_nobody_is_answered_by_likeness_unless_operator_and_tenant_say_so():
    config = Config.model_validate(
        {"version": 1, "gateway": {"pepper": "env:P"}, "tenants": {"acme": TENANT}}
    )
    assert not config.cache.semantic.enabled
    assert not config.tenants["acme"].semantic_cache


@pytest.mark.parametrize(
    ("semantic", "expected"),
    [
        ({"wrong_hits": 0}, "cache.semantic.wrong_hits"),
        ({"wrong_hits": 1}, "cache.semantic.wrong_hits"),
        ({"confidence": 1}, "cache.semantic.confidence"),
        ({"audit": 0}, "cache.semantic.audit"),
        ({"audit": 1.1}, "cache.semantic.audit"),
        ({"ttl_s": 0}, "cache.semantic.ttl_s"),
        ({"ttl_s": 86_401}, "cache.semantic.ttl_s"),
        ({"answer": "("}, "answer: no regular expression: missing ), unterminated subpattern"),
        ({"threshold": 0.9}, "cache.semantic.threshold"),
    ],
)
def test_a_semantic_cache_that_cannot_keep_its_promise_is_refused(semantic, expected):
    assert expected in refusal({**OPEN, "cache": {"semantic": semantic}})


def test_a_shadow_budget_is_money():
    shadow = Config.model_validate({**OPEN, "shadow": {"share": 0.05, "budget_usd_per_day": 0.1}}).shadow
    assert shadow.budget_nanousd == 100_000_000


def test_a_loaded_config_never_changes():
    config = Config.model_validate(OPEN)
    with pytest.raises(ValidationError):
        config.gateway.processes = 2  # type: ignore[misc]


def test_ports_of_further_processes_count_up():
    assert [of_process(number, "[::1]:7072") for number in range(2)] == ["[::1]:7072", "[::1]:7073"]
    assert of_process(3, "127.0.0.1:0") == "127.0.0.1:0"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("0.0.0.0:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_loopback(address, expected):
    assert is_loopback(address) is expected
