"""Orders to purge on a real server: who hears of them, who cannot, how long they live, what they delete."""

from __future__ import annotations

import asyncio
import json
import random
import time
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from headgate.adapters import cache_news
from headgate.adapters.cache_news import KEPT_S, ORDERS, PAGE, STREAM, CacheNews, News
from headgate.adapters.config import CacheConfig
from headgate.adapters.ports import SideRoomError
from headgate.adapters.redis_client import connect
from headgate.adapters.redis_rooms import Rooms
from headgate.gateway import answer_cache
from headgate.gateway.answer_cache import AnswerCache, Key
from headgate.gateway.entries import FACTS_BYTES, Entry, facts, sealed
from headgate.gateway.purges import SKEW_S, Purges, Scope
from headgate.gateway.purging import Purging
from headgate.gateway.recent import Recent
from headgate.gateway.reuse import MOST_TAGS
from headgate.v1 import router_pb2, types_pb2
from tests.integration.gateway_rig import Valkey, eventually

KEY = Key("acme", bytes(32))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    server = Valkey(tmp_path_factory.mktemp("valkey"))
    yield server
    server.stop()


@pytest.fixture
def server(started: Valkey) -> Iterator[Valkey]:
    """An empty server with a user `ear`, who may do all."""
    started.client.acl_setuser("ear", enabled=True, nopass=True, keys=["*"], categories=["+@all"])
    yield started
    started.client.client_unpause()
    started.client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], categories=["+@all"])
    started.client.flushall()


@dataclass(frozen=True, slots=True)
class Process:
    """One gateway's part; it hears as the user `ear`."""

    rooms: Rooms
    recent: Recent
    cache: AnswerCache
    purging: Purging


@pytest.fixture
async def process(server: Valkey) -> AsyncIterator[Callable[[], Process]]:
    """Begins another one."""
    begun: list[Process] = []

    def begin() -> Process:
        rooms, recent = Rooms(server.url, 100), Recent(1 << 20)
        cache = AnswerCache(rooms.answers, 3600, recent)
        purging = Purging(rooms, cache, server.url.replace("//", "//ear:any@"))
        one = Process(rooms, recent, cache, purging)
        one.purging.start()
        begun.append(one)
        return one

    yield begin
    for one in begun:
        await one.cache.settle()
        await one.purging.close()
        await one.rooms.close()


async def hears(*some: Process) -> None:
    for one in some:
        await eventually(lambda one=one: one.cache.hears(), what="a process to hear")  # type: ignore[misc]


def answer(text: str = "42", model: str = "small") -> router_pb2.GenerateResponse:
    message = types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, parts=[types_pb2.Part(text=text)])
    return router_pb2.GenerateResponse(
        message=message,
        finish_reason=types_pb2.FINISH_REASON_STOP,
        decision=types_pb2.Decision(model=model),
    )


def made(one: Process, took_s: float = 0.1) -> Entry:
    entry = one.cache.entry(answer(), took_s)
    assert entry is not None
    return entry


def covers(cache: AnswerCache, scope: Scope) -> bool:
    """Whether an answer that was begun before now would be taken for purged."""
    now = time.time()
    tags = (scope.tag,) if scope.tag else ()
    entry = Entry(b"", answer(model=scope.model), now - 10, now + 60, 0.1, tags=tags)
    return cache.purges.cover(scope.tenant, entry)


# What is heard.

STRANGE: dict[str, dict[bytes, bytes]] = {
    "of a later version": {b"kind": b"of a later version"},
    "no text": {b"tenant": b"\xff\xfe", b"model": b"", b"tag": b"", b"at": b"1.0"},
    "a field less": {b"tenant": b"acme", b"model": b"", b"at": b"1.0"},
    "no number": {b"tenant": b"acme", b"model": b"", b"tag": b"", b"at": b"soon"},
    "no instant": {b"tenant": b"acme", b"model": b"", b"tag": b"", b"at": b"nan"},
    "no digest": {b"replaced": b"a better one"},
}


@pytest.mark.parametrize("news", STRANGE.values(), ids=STRANGE)
async def test_news_that_is_not_understood_is_passed_over_and_told_once(
    server: Valkey, process: Callable[[], Process], news: dict[bytes, bytes]
) -> None:
    one = process()
    await hears(one)
    one.recent.put(KEY.digest, made(one), KEY.tenant)
    with capture_logs() as logged:
        for _ in range(3):
            server.client.xadd(STREAM, dict(news))  # type: ignore[arg-type]
        server.client.xadd(STREAM, {"tenant": "beta", "model": "", "tag": "", "at": repr(time.time())})
        await eventually(lambda: covers(one.cache, Scope("beta")), what="the order after it")
    assert [line["event"] for line in logged] == ["cache news of an unknown kind"]
    assert not covers(one.cache, Scope("acme"))
    assert one.recent.bytes == 0, "it may have been an order: memory is given up"
    one.recent.put(KEY.digest, made(one), KEY.tenant)
    assert (await one.cache.find(KEY, lambda _: True, 1)).source == "memory", "and used from then on"


@pytest.mark.parametrize("strange", ["[]", "{", '{"tenant": 7, "model": "", "tag": ""}', '{"kind": "later"}'])
async def test_orders_that_are_not_understood_are_passed_over(
    server: Valkey, process: Callable[[], Process], strange: str
) -> None:
    plain = json.dumps({"tenant": "beta", "model": "", "tag": ""})
    server.client.zadd(ORDERS, {strange: time.time(), plain: time.time()})
    with capture_logs() as logged:
        one = process()
        await hears(one)
    assert covers(one.cache, Scope("beta"))
    assert len(one.cache.purges) == 1
    assert [line["event"] for line in logged] == ["cache news of an unknown kind"]


async def test_whatever_goes_wrong_while_it_hears_it_begins_anew(
    server: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_news, "AGAIN_S", 0.01)
    heard: list[News] = []
    lost: list[None] = []

    def hear(news: News) -> None:
        heard.append(news)
        if "fault" in news:
            raise AssertionError("a fault of ours")

    news = CacheNews(connect(server.url, 3.0, 3.0), lambda _: None, hear, lambda: lost.append(None))
    news.start()
    await eventually(lambda: news.hears, what="it to hear")
    with capture_logs() as logged:
        for times in (1, 2):
            await news.tell({"fault": "1"})
            await eventually(lambda times=times: len(lost) == 1 + times, what="a new begin")  # type: ignore[misc]
        await news.tell({"word": "later"})
        await eventually(lambda: {"word": "later"} in heard, what="what is told later")
    assert [(line["event"], line["because"]) for line in logged] == [("cache news failed", "AssertionError")]
    await news.close()


async def test_who_cannot_hear_keeps_nothing_and_gives_nothing_that_was_purged_meanwhile(
    server: Valkey, process: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_news, "DEAF_AFTER_S", 2.0)
    here = process()
    await hears(here)
    server.client.acl_setuser("ear", commands=["-xread", "-xrevrange"])
    with capture_logs() as logged:
        await eventually(lambda: not here.cache.hears(), what="it to be deaf")
    assert [line["event"] for line in logged] == ["cache news are not heard"]

    found = await here.cache.find(KEY, lambda _: True, 1)
    waiting = asyncio.create_task(here.cache.find(KEY, lambda _: True, 5))
    await asyncio.sleep(0)
    there = Purging(here.rooms, AnswerCache(here.rooms.answers, 3600), server.url)
    await there.purge(Scope("acme"))
    here.cache.keep(KEY, made(here, took_s=30.0), found.flight)
    await here.cache.settle()
    assert server.client.keys("headgate:answer:*") == []
    assert (await waiting).entry is None, "who waited asks himself"
    assert (await here.cache.find(KEY, lambda _: True, 1)).entry is None

    server.client.acl_setuser("ear", categories=["+@all"])
    await hears(here)
    assert covers(here.cache, Scope("acme"))
    assert (await here.cache.find(KEY, lambda _: True, 1)).entry is None
    await there.close()


# How long orders live.


def test_an_order_outlives_every_answer_that_it_speaks_of() -> None:
    longest = next(one.le for one in CacheConfig.model_fields["ttl_s"].metadata if hasattr(one, "le"))
    assert longest * (1 + answer_cache.JITTER) + SKEW_S < KEPT_S


async def test_orders_are_let_go_when_all_that_they_speak_of_has_expired(
    server: Valkey, process: Callable[[], Process]
) -> None:
    """In Redis with the next order, in memory when it begins and with what it hears."""
    now = time.time()
    old = {json.dumps({"tenant": "", "model": "", "tag": f"old-{n}"}): now - KEPT_S - 1 for n in range(1500)}
    recent = {json.dumps({"tenant": "", "model": "", "tag": f"recent-{n}"}): now - n for n in range(1500)}
    server.client.zadd(ORDERS, old | recent)
    one = process()
    await hears(one)
    assert len(one.cache.purges) == 1500
    assert all(covers(one.cache, Scope(tag=f"recent-{n}")) for n in range(5))
    await one.purging.purge(Scope(tag="docs"))
    assert server.client.zcard(ORDERS) == 1501
    assert 0 < server.client.ttl(ORDERS) <= KEPT_S
    one.cache.purges.order(Scope(tag="old"), now - KEPT_S - 1)
    await one.purging.purge(Scope(tag="docs"))
    await eventually(lambda: len(one.cache.purges) == 1501, what="the old one to go")
    assert server.client.zcard(ORDERS) == 1501, "the same scope is one order"


async def test_many_orders_leave_room_for_others_and_memory_is_not_searched_for_each(
    server: Valkey, process: Callable[[], Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 20 * PAGE
    now = time.time()
    server.client.zadd(
        ORDERS, {json.dumps({"tenant": "", "model": "", "tag": f"doc-{n}"}): now - n for n in range(many)}
    )
    turns, at = [0], list[int]()

    async def turn() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    order = Purges.order

    def noted(self: Purges, scope: Scope, instant: float) -> None:
        at.append(turns[0])
        order(self, scope, instant)

    monkeypatch.setattr(Purges, "order", noted)
    monkeypatch.setattr(Recent, "drop", None)
    turning = asyncio.create_task(turn())
    one = process()
    await hears(one)
    turning.cancel()
    with suppress(asyncio.CancelledError):
        await turning
    assert len(one.cache.purges) == many
    assert max(at.count(moment) for moment in set(at)) <= PAGE


def test_purges_are_what_the_latest_order_of_each_scope_says(seed: int) -> None:
    draw = random.Random(seed)
    purges, plain = Purges(), dict[Scope, float]()
    for at in range(2000):
        given = float(draw.choice([at, at, at, draw.randrange(at + 1)]))
        scope = Scope(tag=f"tag-{draw.randrange(100)}")
        purges.order(scope, given)
        plain[scope] = max(given, plain.get(scope, given))
        before = at - 500
        purges.forget(before)
        for probe in draw.choices(list(plain), k=5):
            made_at = draw.uniform(max(before, 0), at) + SKEW_S
            entry = Entry(b"", answer(), made_at, at + 60.0, 0.1, tags=(probe.tag,))
            assert purges.cover("acme", entry) == (plain[probe] >= made_at - SKEW_S)
    purges.forget(2000.0)
    assert len(purges) == 0


def test_orders_that_are_recalled_after_a_break_are_let_go_when_their_time_is_up(seed: int) -> None:
    """Known ones are far older than what is recalled, and that comes from the newest on."""
    draw = random.Random(seed)
    purges, known = Purges(), [3.0, 5.0]
    recalled = sorted(draw.sample(range(50, 101), k=20), reverse=True)
    for at in (*known, *map(float, recalled)):
        purges.order(Scope(tag=f"tag-{at}"), at)
    purges.forget(50.0)
    assert len(purges) == 20
    middle = float(recalled[10])
    purges.forget(middle)
    assert len(purges) == 11
    purges.forget(101.0)
    assert len(purges) == 0


def test_a_scope_that_is_purged_again_and_again_takes_the_room_of_one() -> None:
    purges = Purges()
    purges.order(Scope(tag="once"), 0.0)
    tracemalloc.start()
    for at in range(1, 10_000):
        purges.order(Scope(tag="docs"), float(at))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(purges) == 2
    assert held < 10_000
    purges.forget(9_999.0)
    assert len(purges) == 1


async def test_orders_that_come_together_look_through_memory_once_more_at_most() -> None:
    recent, looks = Recent(8 << 20), [0]
    entries = [Entry(b"", answer(), 0.0, 60.0, 0.1, tags=(f"tag-{n}",)) for n in range(1500)]
    for number, entry in enumerate(entries):
        recent.put(number.to_bytes(32, "big"), entry, "acme")
    purged: set[str] = set()

    def gone(_: str, entry: Entry) -> bool:
        looks[0] += 1
        return entry.tags[0] in purged

    dropping = [asyncio.create_task(recent.drop(gone))]
    while not looks[0]:
        await asyncio.sleep(0)
    for number in range(50):
        dropping.append(asyncio.create_task(recent.drop(gone)))
        purged.add(f"tag-{number}")
    await asyncio.gather(*dropping)
    left = sum(recent.get(number.to_bytes(32, "big")) is not None for number in range(1500))
    assert left == 1450
    assert looks[0] <= 2 * 1500


# What is deleted.


def fill(server: Valkey, many: int, size: int, tenant: str = "acme", model: str = "small") -> None:
    now = time.time()
    line = server.client.pipeline(transaction=False)
    for number in range(many):
        digest = uuid.uuid4().bytes * 2
        entry = Entry(bytes(8), answer("x" * size, model), now - 10, now + 600, 0.1, tags=(f"tag-{number}",))
        line.set(f"headgate:{Key(tenant, digest)}", sealed(digest, entry), px=600_000)
    line.execute()


def kept(server: Valkey, tenant: str = "*") -> int:
    return len(server.client.keys(f"headgate:answer:{tenant}:*"))


async def test_long_answers_are_purged(server: Valkey, process: Callable[[], Process]) -> None:
    fill(server, 500, 160_000)
    fill(server, 3, 10, tenant="beta")
    fill(server, 2, 10, model="large")
    one = process()
    await hears(one)
    before = server.client.info("stats")["total_net_output_bytes"]
    assert await one.purging.purge(Scope("acme", model="small")) == 500
    assert (kept(server, "acme"), kept(server, "beta")) == (2, 3)
    sent = server.client.info("stats")["total_net_output_bytes"] - before
    assert sent < 500 * 2 * FACTS_BYTES, "it reads how an answer begins, not all of it"


async def test_a_purge_is_patient_with_a_server_that_is_busy(server: Valkey) -> None:
    fill(server, 10, 100)
    rooms = Rooms(server.url, 100)
    server.client.client_pause(1000)
    assert await rooms.purging.purge("acme", FACTS_BYTES, lambda *_: True) == 10
    await rooms.close()


async def test_a_purge_that_is_cut_in_the_middle_goes_on(server: Valkey) -> None:
    fill(server, 1000, 100)
    rooms, looked = Rooms(server.url, 100), [0]

    def falls(_key: str, _begin: bytes) -> bool:
        looked[0] += 1
        if looked[0] % 300 == 0:
            server.client.client_kill_filter(_type="normal", skipme=True)
        return True

    assert await rooms.purging.purge("acme", FACTS_BYTES, falls) == 1000
    assert looked[0] == 1000, "nothing is looked at twice"
    await rooms.close()


async def test_what_is_no_answer_holds_no_purge_up(server: Valkey, process: Callable[[], Process]) -> None:
    fill(server, 10, 100)
    for strange in (b"short", b"with:more:colons", b"\xff", b"z" * 64):
        server.client.set(b"headgate:answer:acme:" + strange, b"none")
    server.client.rpush("headgate:answer:acme:list", "of another kind")
    one = process()
    await hears(one)
    assert await one.purging.purge(Scope("acme")) == 14
    assert server.client.keys("headgate:answer:*") == [b"headgate:answer:acme:list"]


async def test_a_purge_that_fails_says_so_and_costs_no_request_its_cache(server: Valkey) -> None:
    """The default user may not read how an answer begins; then he may not walk."""
    fill(server, 1, 100)
    rooms = Rooms(server.url, 100)
    for forbidden in ("-getrange", "-scan"):
        server.client.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=[forbidden])
        for _ in range(4):
            with pytest.raises(SideRoomError):
                await rooms.purging.purge("acme", FACTS_BYTES, lambda *_: True)
    assert not rooms.breaker.open
    assert kept(server) == 1
    await rooms.close()


def test_the_facts_of_an_answer_stand_in_its_beginning() -> None:
    """With as many tags as there may be, each as long as it may be."""
    tags = tuple(f"{n:02}".ljust(64, "x") for n in range(MOST_TAGS))
    entry = Entry(
        bytes(8), answer("x" * 100_000, "m" * 128), 1.5, 2.5, 0.1, f"{'b' * 64} {'p' * 64} 0.1", tags
    )
    value = sealed(KEY.digest, entry)
    known = facts(KEY.digest, value[:FACTS_BYTES])
    assert known is not None
    assert (known.made_at, known.model, known.tags) == (1.5, "m" * 128, tags)
    assert facts(bytes(31) + b"1", value) is None, "it stands under a foreign key"
