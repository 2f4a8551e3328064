"""The rooms on a real server: it may be frozen, it may be full, and it may be set up to forget the ledger."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from headgate.adapters import redis_client
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_rooms import ACCOUNT_S, LEDGER_STREAM, Rooms
from headgate.local import valkey
from tests.integration.gateway_rig import Valkey, scrubbed

OPTIONS = "socket_timeout=60&socket_connect_timeout=60&timeout=60&retry_on_timeout=True&protocol=3"
ANSWER = bytes(256 << 10)
MANY = 100


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def server(started: Valkey) -> Iterator[Valkey]:
    """An empty server with the policy that it came with."""
    yield started
    started.popen.send_signal(signal.SIGCONT)
    started.client.config_set("maxmemory-policy", "noeviction")
    started.client.config_set("maxmemory", 0)
    started.client.flushall()


@pytest.mark.parametrize("options", ["", f"?{OPTIONS}"], ids=["plain", "a URL that asks for a minute"])
async def test_a_live_connection_gives_up_on_a_frozen_server_in_time(server: Valkey, options: str) -> None:
    client = redis_client.connect(f"{server.url}{options}")
    await client.set("k", "v")
    server.popen.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises((RedisError, TimeoutError)):
        await client.get("k")
    assert time.monotonic() - began < 2, "the library's own default is five seconds, and again, and again"
    await client.aclose()


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_a_policy_that_may_evict_the_ledger_is_told(server: Valkey, policy: str) -> None:
    server.client.config_set("maxmemory-policy", policy)
    rooms = Rooms(server.url, 100)
    assert await rooms.may_evict_ledger() == policy
    await rooms.close()


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru", "volatile-lfu", "volatile-ttl"])
async def test_a_policy_that_evicts_only_what_expires_is_none(server: Valkey, policy: str) -> None:
    server.client.config_set("maxmemory-policy", policy)
    rooms = Rooms(server.url, 100)
    assert await rooms.may_evict_ledger() == ""
    await rooms.close()


async def test_a_server_that_is_away_is_no_answer() -> None:
    rooms = Rooms("redis://127.0.0.1:1", 100)
    with pytest.raises(SideRoomError):
        await rooms.may_evict_ledger()
    await rooms.close()


async def test_a_full_server_forgets_answers_and_keeps_the_ledger(server: Valkey) -> None:
    """With the policy that the private Valkey gets."""
    server.client.config_set("maxmemory-policy", valkey.POLICY)
    server.client.config_set("maxmemory", 8 << 20)
    rooms = Rooms(server.url, 100)
    await rooms.ledger.append([{"kind": "request"}])
    async with asyncio.timeout(60):
        while server.client.info("stats")["evicted_keys"] < MANY:
            await _put(rooms)
    assert server.client.xlen(LEDGER_STREAM) == 1
    await rooms.close()


async def test_two_processes_never_take_the_same_money(server: Valkey) -> None:
    both = [Rooms(server.url, 100) for _ in range(2)]
    asked = [rooms.budget.reserve("budget:acme:shadow:day", 30, 100) for rooms in both * 10]
    granted = sum(await asyncio.gather(*asked))
    assert 1 <= granted <= 3
    assert await both[0].budget.taken("budget:acme:shadow:day") == 30 * granted
    assert 0 < server.client.ttl("headgate:budget:acme:shadow:day") <= ACCOUNT_S
    for rooms in both:
        await rooms.close()


async def test_what_is_given_back_can_be_taken_again(server: Valkey) -> None:
    rooms = Rooms(server.url, 100)
    assert await rooms.budget.reserve("a", 100, 100)
    assert not await rooms.budget.reserve("a", 1, 100)
    await rooms.budget.give_back("a", 60)
    assert await rooms.budget.reserve("a", 60, 100)
    assert await rooms.budget.taken("a") == 100
    await rooms.close()


async def test_a_budget_that_cannot_be_asked_gives_nothing() -> None:
    rooms = Rooms("redis://127.0.0.1:1", 100)
    with pytest.raises(SideRoomError):
        await rooms.budget.reserve("a", 1, 100)
    await rooms.close()


async def _put(rooms: Rooms) -> None:
    try:
        await rooms.store.put(f"answer:{time.monotonic()}", ANSWER, 600)
    except SideRoomError:
        return  # A busy machine: the next one will fit.


def test_the_gateway_does_not_start_on_a_server_that_may_forget_the_ledger(
    server: Valkey, tmp_path: Path
) -> None:
    server.client.config_set("maxmemory-policy", "allkeys-lru")
    code, said = _start(tmp_path, server.url)
    assert code == 1
    sentence = r"headgate gateway: redis\.url: .*allkeys-lru.*volatile-lru"
    assert [line for line in said if re.match(sentence, line)] == said[-1:]
    assert not [line for line in said if "Traceback" in line]


def _start(directory: Path, redis_url: str) -> tuple[int, list[str]]:
    """Exit code and last words of a gateway that ends by itself."""
    config = directory / "headgate.yaml"
    config.write_text("version: 1\ngateway: {open: true}\npool: {small: {worker: '127.0.0.1:1'}}\n")
    free = [f"--{name}=127.0.0.1:0" for name in ("listen", "admin-listen", "metrics-listen")]
    flags = ["--config", str(config), "--redis-url", redis_url, *free]
    command = [sys.executable, "-m", "headgate.gateway", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=scrubbed())
    return ended.returncode, ended.stderr.splitlines()
