"""How servers are set up, as real ones say it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headgate.adapters import job_servers
from headgate.adapters.settings import ConfigError
from tests.integration.gateway_rig import Valkey

AWAY = "redis://127.0.0.1:1"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Valkey, Valkey]]:
    """One that keeps an AOF, and one that does not."""
    both = tuple(Valkey(tmp_path_factory.mktemp("valkey"), keeps=keeps) for keeps in (True, False))
    yield both[0], both[1]
    for one in both:
        one.stop()


@pytest.fixture
def keeping(servers: tuple[Valkey, Valkey]) -> Iterator[Valkey]:
    yield servers[0]
    servers[0].client.config_set("maxmemory-policy", "noeviction")


@pytest.fixture
def forgetting(servers: tuple[Valkey, Valkey]) -> Iterator[Valkey]:
    yield servers[1]
    servers[1].client.config_set("maxmemory-policy", "noeviction")


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "volatile-lfu", "volatile-ttl"])
async def test_a_server_that_keeps_what_does_not_expire_needs_no_word(keeping: Valkey, policy: str) -> None:
    keeping.client.config_set("maxmemory-policy", policy)
    assert await job_servers.check(keeping.url, keeping.url) == []


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
@pytest.mark.parametrize("setting", ["redis.url", "jobs.broker"])
async def test_a_server_that_may_evict_any_key_is_refused(
    keeping: Valkey, forgetting: Valkey, setting: str, policy: str
) -> None:
    evicting, other = (keeping, forgetting) if setting == "redis.url" else (forgetting, keeping)
    evicting.client.config_set("maxmemory-policy", policy)
    with pytest.raises(ConfigError, match=rf"^{setting}: this Redis may evict .*{policy}.*noeviction"):
        await job_servers.check(keeping.url, forgetting.url)
    assert other.client.ping()


async def test_records_without_an_aof_are_told_of_and_a_broker_without_one_is_not(
    keeping: Valkey, forgetting: Valkey
) -> None:
    (told,) = await job_servers.check(forgetting.url, keeping.url)
    assert told.startswith("redis.url: this Redis keeps no AOF: jobs accepted since its last save are lost")
    assert len(await job_servers.check(forgetting.url, forgetting.url)) == 1
    assert await job_servers.check(keeping.url, forgetting.url) == [], "its tasks are queued again"


async def test_a_user_who_may_ask_for_nothing_but_info_is_enough(forgetting: Valkey) -> None:
    forgetting.client.execute_command("ACL", "SETUSER", "asks", "on", ">word", "+info", "+client")
    url = forgetting.url.replace("redis://", "redis://asks:word@")
    forgetting.client.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(ConfigError, match="allkeys-lru"):
        await job_servers.check(url, url)


async def test_a_server_that_is_away_or_may_not_be_asked_is_no_reason(forgetting: Valkey) -> None:
    forgetting.client.execute_command("ACL", "SETUSER", "silent", "on", ">word", "~*", "+get", "+client")
    silent = forgetting.url.replace("redis://", "redis://silent:word@")
    assert await job_servers.check(silent, AWAY) == [
        "redis.url: this Redis does not say what it evicts and keeps (NoPermissionError)",
        "jobs.broker: this Redis does not say what it evicts and keeps (ConnectionError)",
    ]


async def test_a_broker_that_is_no_redis_is_not_asked(keeping: Valkey) -> None:
    assert await job_servers.check(keeping.url, "amqp://127.0.0.1:1") == []
