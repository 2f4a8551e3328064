"""Two gateway processes' semantic caches on one real server: what one learns the other serves."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import resources

import pytest
from redis.asyncio import Redis

from headgate.adapters.config import Config
from headgate.adapters.redis_client import connect
from headgate.adapters.semantic_feed import REPLY_S, SILENT_S, SemanticFeed
from headgate.gateway.answer_cache import Key
from headgate.gateway.semantic_cache import Candidate, SemanticCache
from headgate.router.embedding import Embedding
from headgate.router.hits import clean_audits
from tests.integration.gateway_rig import Valkey

EMBEDDING = Embedding.read(resources.files("headgate.router").joinpath("words.npz").read_bytes())
CONFIG = Config.model_validate(
    {"version": 1, "gateway": {"open": True}, "cache": {"semantic": {"enabled": True, "audit": 0.001}}}
)
TENANT, ROUTE, SCOPE = "open", bytes(16), bytes(32)
FOR_EVER = 1e11
ASKED, AGAIN = "How do I cancel my order?", "how can i cancel my order"


@asynccontextmanager
async def cache(url: str) -> AsyncIterator[SemanticCache]:
    """Of one process; it draws nothing for audits."""
    feed = SemanticFeed(connect(url, REPLY_S, REPLY_S, REPLY_S))
    one = SemanticCache(EMBEDDING, feed, CONFIG, draw=lambda: 0.5)
    one.start()
    try:
        yield one
    finally:
        await one.close()


async def until(condition: Callable[[], bool], what: str, within_s: float = 15.0) -> None:
    by = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < by, what
        await asyncio.sleep(0.01)


def keep(one: SemanticCache, text: str = ASKED) -> None:
    one.keep(SCOPE, ROUTE, Key(TENANT, hashlib.sha256(text.encode()).digest()), text, "small", FOR_EVER)


def find(one: SemanticCache, text: str = AGAIN) -> Candidate | None:
    return one.look_up(SCOPE, Key(TENANT, bytes(32)), text)


def finds(one: SemanticCache, *, served: bool = False) -> bool:
    found = find(one)
    return found is not None and (found.served or not served)


async def learn(first: SemanticCache, second: SemanticCache) -> None:
    """Each process audits half of what the bound takes."""
    await until(lambda: find(first) is None and first._feed.hears(TENANT), "the first")
    await until(lambda: find(second) is None and second._feed.hears(TENANT), "the second")
    keep(first)
    await until(lambda: finds(first) and finds(second), "the entry")
    for number in range(clean_audits(0.01, 0.9)):
        one = (first, second)[number % 2]
        found = find(one, ASKED)
        assert found is not None
        one.audit(found, "42", "42")
    served = lambda one: (c := find(one, ASKED)) is not None and c.served  # noqa: E731
    await until(lambda: served(first) and served(second), "both to serve")


async def test_what_two_processes_audit_a_third_one_serves(valkey: Valkey, client: Redis) -> None:
    async with cache(valkey.url) as first, cache(valkey.url) as second:
        await learn(first, second)
        assert first.standing(TENANT) == second.standing(TENANT)
        async with cache(valkey.url) as third:
            await until(lambda: finds(third), "the third to catch up")
            assert third.standing(TENANT) == first.standing(TENANT)
            found = find(third, ASKED)
            assert found is not None
            assert found.served
            await third.purge(TENANT)
            assert not finds(third)
            await until(lambda: not finds(first) and not finds(second), "the purge")
            assert first.standing(TENANT).HasField("similarity"), "audits stay"


@pytest.mark.parametrize("fault", ["frozen", "replica"])
async def test_a_purge_that_may_be_missed_stops_hits(valkey: Valkey, client: Redis, fault: str) -> None:
    async with cache(valkey.url) as first, cache(valkey.url) as second:
        await learn(first, second)
        began = time.monotonic()
        try:
            if fault == "frozen":
                valkey.popen.send_signal(19)
            else:
                valkey.client.replicaof("127.0.0.1", 1)
            await until(lambda: not finds(first) and not finds(second), "hits to stop", SILENT_S + 1)
            assert time.monotonic() - began < SILENT_S + 1
            await until(lambda: first.degraded and second.degraded, "both to say so")
        finally:
            valkey.popen.send_signal(18)
            valkey.client.replicaof("NO", "ONE")
        await until(lambda: finds(first) and finds(second), "hits to go on")
