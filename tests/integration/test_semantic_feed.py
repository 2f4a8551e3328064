"""What processes hear on a real server: one that is trimmed, emptied, frozen, full, slow, a replica."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from headgate.adapters import semantic_feed
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import connect
from headgate.adapters.semantic_events import Added, Audited, Begin, Purged
from headgate.adapters.semantic_feed import REPLY_S, SILENT_S, STAYS_S, SemanticFeed
from headgate.adapters.semantic_stream import Told
from tests.faults.proxy import Fault, FaultProxy
from tests.integration.gateway_rig import Valkey

ROUTE = bytes(16)
SOON_S = 15.0


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def server(started: Valkey) -> Iterator[Valkey]:
    yield started
    started.popen.send_signal(signal.SIGCONT)
    if started.popen.poll() is not None:
        started.start()
    started.client.config_set("maxmemory", 0)
    started.client.replicaof("NO", "ONE")
    started.client.flushall()


class Process:
    """What one gateway process makes of the streams."""

    def __init__(self, url: str, kept: int = semantic_feed.KEPT) -> None:
        self.dropped = 0
        self.later_s = 0.0
        client = connect(url, REPLY_S, REPLY_S, REPLY_S)
        self.feed = SemanticFeed(client, self._drop, lambda: time.monotonic() + self.later_s, kept)
        self.entries: dict[str, set[bytes]] = {}
        self.audits: dict[str, list[Audited]] = {}
        self.feed.start(self._fold)

    def _drop(self, count: int) -> None:
        self.dropped += count

    def _fold(self, tenant: str, told: Told) -> None:
        entries, audits = self.entries.setdefault(tenant, set()), self.audits.setdefault(tenant, [])
        match told:
            case Begin():
                entries.clear()
                audits.clear()
            case Added():
                entries.add(told.id)
            case Audited():
                audits.append(told)
            case Purged():
                entries.clear()
            case _:
                entries.difference_update(told.gone)
                audits[:] = told.audits

    def knows(self, tenant: str) -> tuple[set[bytes], list[Audited]]:
        return self.entries.get(tenant, set()), self.audits.get(tenant, [])


@asynccontextmanager
async def processes(url: str, count: int, kept: int = semantic_feed.KEPT) -> AsyncIterator[list[Process]]:
    them = [Process(url, kept) for _ in range(count)]
    try:
        yield them
    finally:
        for one in them:
            await one.feed.close()


async def until(condition: Callable[[], bool], what: str, within_s: float = SOON_S) -> None:
    by = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < by, what
        await asyncio.sleep(0.01)


async def hear(them: list[Process], *tenants: str) -> None:
    for one in them:
        for tenant in tenants:
            await until(lambda one=one, tenant=tenant: one.feed.hears(tenant), "a stream to be heard")  # type: ignore[misc]


def entry(number: int) -> Added:
    name = number.to_bytes(16, "big")
    return Added(name, bytes(32), ROUTE, bytes(32), bytes(512), b"", "small", (), 0.0, 1.0)


def audit(number: int) -> Audited:
    return Audited(ROUTE, number.to_bytes(16, "big"), 0.5, number % 2 == 0)


async def test_processes_agree_whatever_was_said_by_whom(server: Valkey, seed: int) -> None:
    """Streams are cut meanwhile, and processes come late. Nothing of one tenant is told of another."""
    draw, tenants = random.Random(seed), ["acme", "beta"]
    async with processes(server.url, 2, kept=150) as them:
        await hear(them, *tenants)
        for tenant in tenants:
            # Two that begin a stream at once may forget each other's first events.
            them[0].feed.say(tenant, entry(tenants.index(tenant)))
            await until(lambda tenant=tenant: bool(them[1].entries.get(tenant)), "the first")  # type: ignore[misc]
        said = 0
        for number in range(3_000):
            tenant = draw.choice(tenants)
            feed = draw.choice(them).feed
            match draw.choices("eap.", [60, 30, 1, 9])[0]:
                case "e":
                    feed.say(tenant, entry(2 * draw.randrange(500) + tenants.index(tenant)))
                case "a":
                    said += 1
                    feed.say(tenant, audit(2 * number + tenants.index(tenant)))
                case "p":
                    await feed.purge(tenant, Purged("", "", 0.0))
                case ".":
                    await asyncio.sleep(0.01)
        await until(lambda: sum(len(one) for one in them[0].audits.values()) == said, "all audits")
        for tenant in tenants:
            them[0].feed.say(tenant, entry(1_000_000 + tenants.index(tenant)))
        assert all(server.client.xlen(f"headgate:semantic:{tenant}") < 700 for tenant in tenants), "cut"
        late = Process(server.url)
        them.append(late)
        await hear([late], *tenants)
        for number, tenant in enumerate(tenants):
            await until(
                lambda tenant=tenant: (
                    all(one.knows(tenant) == late.knows(tenant) for one in them)  # type: ignore[misc]
                    and any(int.from_bytes(one, "big") >= 1_000_000 for one in late.entries[tenant])
                ),
                f"all to know the same of {tenant}",
            )
            names = [*late.entries[tenant], *(one.entry for one in late.audits[tenant])]
            assert {int.from_bytes(one, "big") % 2 for one in names} == {number}
        assert [one.dropped for one in them] == [0, 0, 0]


async def test_every_stream_expires(server: Valkey) -> None:
    async with processes(server.url, 1) as (one,):
        await hear([one], "acme")
        one.feed.say("acme", entry(1))
        await until(lambda: bool(one.entries.get("acme")), "the entry")
    names = server.client.keys("headgate:*")
    assert names == [b"headgate:semantic:acme"]
    assert 0 < server.client.ttl(names[0]) <= semantic_feed.QUIET_S


async def test_a_stream_that_lost_events_is_read_again(server: Valkey) -> None:
    async with processes(server.url, 2) as them:
        await hear(them, "acme")
        for number in range(20):
            them[0].feed.say("acme", entry(number))
        await until(lambda: all(len(one.knows("acme")[0]) == 20 for one in them), "all entries")
        server.client.xtrim("headgate:semantic:acme", maxlen=5, approximate=False)
        await until(lambda: all(len(one.knows("acme")[0]) == 5 for one in them), "those that are left")
        await hear(them, "acme")


@pytest.mark.parametrize("how", ["flushed", "restarted"])
async def test_a_server_that_comes_back_empty_has_nothing_left_over(server: Valkey, how: str) -> None:
    async with processes(server.url, 2) as them:
        await hear(them, "acme")
        them[0].feed.say("acme", entry(1))
        them[0].feed.say("acme", audit(1))
        await until(lambda: all(one.knows("acme")[1] for one in them), "the audit")
        if how == "flushed":
            server.client.flushall()
        else:
            server.popen.kill()
            server.popen.wait(10)
            server.start()
        await until(lambda: all(one.knows("acme") == (set(), []) for one in them), "both to forget")
        await hear(them, "acme")
        them[1].feed.say("acme", entry(2))
        await until(lambda: all(len(one.knows("acme")[0]) == 1 for one in them), "the new entry")


async def test_a_frozen_server_is_silence_and_holds_nobody_up(server: Valkey) -> None:
    async with processes(server.url, 1) as (one,):
        await hear([one], "acme")
        server.popen.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        longest = 0.0
        while one.feed.hears("acme"):
            at = time.monotonic()
            one.feed.say("acme", entry(1))
            longest = max(longest, time.monotonic() - at)
            assert at - began < SILENT_S + 1
            await asyncio.sleep(0.01)
        assert time.monotonic() - began > 0.5
        assert longest < 0.025
        with pytest.raises(SideRoomError):
            await one.feed.purge("acme", Purged("", "", 0.0))
        await until(lambda: one.feed.degraded and one.dropped > 0, "events to be dropped")
        server.popen.send_signal(signal.SIGCONT)
        await hear([one], "acme")


async def test_a_full_server_drops_what_is_said_and_is_heard(server: Valkey) -> None:
    async with processes(server.url, 1) as (one,):
        await hear([one], "acme")
        server.client.config_set("maxmemory", 1)
        one.feed.say("acme", entry(1))
        await until(lambda: one.dropped == 1, "the event to be dropped")
        assert one.feed.degraded
        with pytest.raises(SideRoomError):
            await one.feed.purge("acme", Purged("", "", 0.0))
        heard = time.monotonic()
        while time.monotonic() - heard < SILENT_S + 0.5:
            assert one.feed.hears("acme")
            await asyncio.sleep(0.05)


async def test_a_replica_is_not_heard(server: Valkey, tmp_path: Path) -> None:
    """Its master may be away, and a purge with it."""
    master = Valkey(tmp_path)
    try:
        async with processes(server.url, 1) as (one,):
            await hear([one], "acme")
            server.client.replicaof("127.0.0.1", master.port)
            await until(lambda: not one.feed.hears("acme"), "silence", SILENT_S + 2)
            one.feed.say("acme", entry(1))
            await until(lambda: one.dropped == 1, "the event to be dropped")
            server.client.replicaof("NO", "ONE")
            await hear([one], "acme")
    finally:
        master.stop()


async def test_a_slow_server_is_heard_and_holds_nobody_up(server: Valkey) -> None:
    async with FaultProxy(f"127.0.0.1:{server.port}") as proxy:
        proxy.inject(Fault(latency_s=0.1))
        async with processes(f"redis://{proxy.address}", 1) as (one,):
            await hear([one], "acme")
            began = time.monotonic()
            one.feed.say("acme", entry(1))
            assert time.monotonic() - began < 0.025
            await until(lambda: bool(one.knows("acme")[0]), "the entry")
            while time.monotonic() - began < SILENT_S + 1:
                assert one.feed.hears("acme")
                await asyncio.sleep(0.05)
        assert one.dropped == 0


async def test_more_events_than_wait_are_dropped_and_counted(server: Valkey) -> None:
    async with processes(server.url, 1) as (one,):
        await hear([one], "acme")
        for number in range(semantic_feed.MOST_WAITING + 7):
            one.feed.say("acme", entry(number))
        assert one.dropped == 7
        await until(lambda: len(one.knows("acme")[0]) == semantic_feed.MOST_WAITING, "the others")


async def test_the_tenant_asked_for_longest_ago_is_forgotten(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semantic_feed, "MOST_TENANTS", 2)
    async with processes(server.url, 1) as (one,):
        await hear([one], "acme")
        one.feed.say("acme", entry(1))
        await until(lambda: bool(one.knows("acme")[0]), "the entry")
        await hear([one], "beta", "acme")
        one.later_s += STAYS_S
        assert not one.feed.hears("acme"), "nothing was read for so long"
        await hear([one], "acme", "gamma")
        await hear([one], "acme")
        assert one.knows("acme")[0], "asked for after beta"
        one.later_s += STAYS_S
        await hear([one], "gamma", "beta")
        assert not one.knows("acme")[0]
        one.later_s += STAYS_S
        await hear([one], "acme")
        await until(lambda: bool(one.knows("acme")[0]), "the entry again")


async def test_more_tenants_than_there_is_room_for_do_not_push_each_other_out(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ones are heard all the time, and another one when one of those is not asked for."""
    monkeypatch.setattr(semantic_feed, "MOST_TENANTS", 3)
    names = [f"t{number}" for number in range(5)]
    async with processes(server.url, 1) as (one,):
        assert not one.feed.degraded
        await hear([one], *names[:3])
        assert not one.feed.degraded
        until_s = time.monotonic() + 1
        while time.monotonic() < until_s:
            assert [one.feed.hears(name) for name in names] == [True, True, True, False, False]
            assert [one.feed.follows(name) for name in names] == [True, True, True, False, False]
            await asyncio.sleep(0.02)
        assert one.feed.degraded
        one.later_s += SILENT_S
        await hear([one], *names[:2])
        assert not one.feed.degraded, "nobody was sent away for a while"
        one.later_s += STAYS_S - SILENT_S - 1
        await hear([one], *names[:2])
        one.later_s += SILENT_S
        await hear([one], names[3])
        await hear([one], *names[:2], names[3])
        assert not one.feed.follows(names[2])
        one.feed.hears(names[4])
        assert not one.feed.follows(names[4]), "the others were there for long, and asked for just now"
