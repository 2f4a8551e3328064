"""The rules of the answer cache: what the key digests, what is kept, for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.adapters.memory import MemoryAnswers
from headgate.adapters.ports import Role, SideRoomError
from headgate.gateway import answer_cache
from headgate.gateway.answer_cache import AnswerCache, Found
from headgate.gateway.entries import Entry, sealed
from headgate.gateway.flights import LEASE_S
from headgate.gateway.purges import Scope
from headgate.gateway.recent import Recent
from headgate.router.types import Decision, ModelEstimate, Prior, Reason
from headgate.v1 import router_pb2, types_pb2
from tests.integration.gateway_rig import eventually

DECISION = Decision("small", Reason.POLICY, "why", (), bundle_version="b1", policy_version="p1")
TEXTS = st.text(min_size=1, max_size=20)


@st.composite
def queries(draw: st.DrawFn) -> types_pb2.Query:
    """Queries with every field that an answer may depend on."""
    messages = [
        types_pb2.Message(
            role=draw(
                st.sampled_from([types_pb2.ROLE_SYSTEM, types_pb2.ROLE_USER, types_pb2.ROLE_ASSISTANT])
            ),
            parts=[types_pb2.Part(text=text) for text in draw(st.lists(TEXTS, min_size=1, max_size=3))],
        )
        for _ in range(draw(st.integers(1, 3)))
    ]
    sampling = types_pb2.Sampling(
        temperature=draw(st.sampled_from([0.0, 0.5])),
        top_p=draw(st.sampled_from([0.5, 1.0])),
        max_tokens=draw(st.integers(0, 3)),
        stop=draw(st.lists(TEXTS, max_size=2)),
        seed=draw(st.integers(0, 3)),
    )
    return types_pb2.Query(messages=messages, sampling=sampling)


def _role(query: types_pb2.Query) -> None:
    query.messages[0].role = (query.messages[0].role + 1) % 4  # type: ignore[assignment]


def _shift(query: types_pb2.Query) -> None:
    """The same characters, cut into parts elsewhere."""
    part = query.messages[0].parts[0]
    query.messages[0].parts.insert(0, types_pb2.Part(text=part.text[:1]))
    query.messages[0].parts[1].text = part.text[1:]


CHANGES: dict[str, Callable[[types_pb2.Query], object]] = {
    "text": lambda q: setattr(q.messages[0].parts[0], "text", q.messages[0].parts[0].text + "!"),
    "parts": _shift,
    "role": _role,
    "another turn": lambda q: q.messages.add(role=types_pb2.ROLE_USER).parts.add(text="more"),
    "temperature": lambda q: setattr(q.sampling, "temperature", q.sampling.temperature + 0.25),
    "top_p": lambda q: setattr(q.sampling, "top_p", q.sampling.top_p / 2),
    "max_tokens": lambda q: setattr(q.sampling, "max_tokens", q.sampling.max_tokens + 1),
    "stop": lambda q: q.sampling.stop.append("stop"),
    "seed": lambda q: setattr(q.sampling, "seed", q.sampling.seed + 1),
}


def key_of(
    query: types_pb2.Query, tenant: str = "acme", decision: Decision = DECISION, version: str = "v1"
) -> str:
    return str(answer_cache.key(tenant, query, decision, version))


def test_bundle_policy_and_lambda_are_terms_and_no_part_of_the_place() -> None:
    """What a model wrote does not hang on them: after a recalibration its answers are there still."""
    query, prior = types_pb2.Query(), Prior((0.0, 0.0), (0.1, 1.0), 5.0)
    for of in (DECISION, replace(DECISION, prior=prior)):
        others = [
            replace(of, lam=0.01),
            replace(of, bundle_version="b2"),
            replace(of, policy_version="p2"),
        ]
        assert {key_of(query, decision=one) for one in others} == {key_of(query, decision=of)}
        assert len({answer_cache.terms(one) for one in (of, *others)}) == 4


def test_an_answer_and_a_draft_stand_in_different_places() -> None:
    prior = Prior((0.0, 0.0), (0.1, 1.0), 5.0)
    query = types_pb2.Query()
    assert key_of(query) != key_of(query, decision=replace(DECISION, prior=prior))


def test_what_may_be_upgraded_is_another_answer() -> None:
    query = types_pb2.Query()
    assert key_of(query) != key_of(query, decision=replace(DECISION, upgrade="large"))


def test_where_a_draft_is_read_the_models_that_may_answer_count() -> None:
    """After a draft any of them may: one that lacks what is required now must not have answered then."""
    query, prior = types_pb2.Query(), Prior((0.0,) * 3, (0.1, 0.2, 1.0), 5.0)
    barred = ("", "without the capability json")
    drafting = [
        replace(DECISION, prior=prior, estimates=(ModelEstimate("mid", 1, excluded_because=why),))
        for why in barred
    ]
    assert len({key_of(query, decision=one) for one in drafting}) == 2
    assert len({key_of(query, decision=replace(one, prior=None)) for one in drafting}) == 1


def test_every_field_of_sampling_is_among_the_changes() -> None:
    """A new field fails here until somebody has thought about the key."""
    assert {field.name for field in types_pb2.Sampling.DESCRIPTOR.fields} <= set(CHANGES)
    assert {field.name for field in types_pb2.Message.DESCRIPTOR.fields} == {"role", "parts"}
    others = {field.name for field in types_pb2.Query.DESCRIPTOR.fields} - {"messages", "sampling"}
    for_the_decision = {"model", "policy_override", "session", "required_capabilities"}
    assert others == {"request_id", "metadata", "cache"} | for_the_decision


@pytest.mark.parametrize("change", CHANGES)
@given(query=queries())
def test_each_field_flips_the_key(change: str, query: types_pb2.Query) -> None:
    before = key_of(query)
    CHANGES[change](query)
    assert key_of(query) != before


@given(query=queries())
def test_who_and_what_decided_flip_the_key(query: types_pb2.Query) -> None:
    keys = [
        key_of(query),
        key_of(query, tenant="beta"),
        key_of(query, version="v2"),
        key_of(query, decision=replace(DECISION, model="large")),
    ]
    digests = {one.rpartition(":")[2] for one in keys}
    assert len(digests) == len(keys), "the tenant, too, is inside of the digest"


@given(query=queries(), name=TEXTS)
def test_names_and_labels_do_not(query: types_pb2.Query, name: str) -> None:
    before = key_of(query)
    query.request_id = query.session = name
    query.metadata[name] = name
    assert key_of(query) == before


@given(st.lists(TEXTS, min_size=2, max_size=4))
def test_the_borders_between_fields_count(parts: list[str]) -> None:
    """Moving a character over the border of two digested fields makes another key."""
    query = types_pb2.Query(messages=[types_pb2.Message(parts=[types_pb2.Part(text="".join(parts))])])
    one, other = replace(DECISION, model="ab"), replace(DECISION, model="a")
    assert key_of(query, decision=one, version="c") != key_of(query, decision=other, version="bc")


def answer(
    finish: types_pb2.FinishReason.ValueType = types_pb2.FINISH_REASON_STOP,
    degraded: tuple[types_pb2.Degradation.ValueType, ...] = (),
) -> router_pb2.GenerateResponse:
    message = types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, parts=[types_pb2.Part(text="42")])
    return router_pb2.GenerateResponse(
        message=message,
        finish_reason=finish,
        usage=types_pb2.Usage(completion_tokens=2),
        decision=types_pb2.Decision(model="small", cost_nanousd=7, degraded=degraded),
    )


KEY = answer_cache.key("acme", types_pb2.Query(), DECISION, "v1")
MISS, HIT = types_pb2.CACHE_STATUS_MISS, types_pb2.CACHE_STATUS_HIT


def fits(_: Entry) -> bool:
    return True


async def find(cache: AnswerCache, at: answer_cache.Key = KEY, wait_s: float = 5) -> Found:
    return await cache.find(at, fits, wait_s)


def made(cache: AnswerCache, took_s: float = 0.1, terms: str = "", tags: tuple[str, ...] = ()) -> Entry:
    entry = cache.entry(answer(), took_s, terms, tags)
    assert entry is not None
    return entry


async def keep(cache: AnswerCache, kept: router_pb2.GenerateResponse, at: answer_cache.Key = KEY) -> None:
    cache.keep(at, cache.entry(kept, 0.1))
    await cache.settle()


def text(found: Found) -> str:
    assert found.entry is not None
    return found.entry.answer.message.parts[0].text


async def test_what_is_kept_comes_back_with_what_it_came_from_and_without_its_costs() -> None:
    cache = AnswerCache(MemoryAnswers(), ttl_s=60)
    told = answer()
    told.decision.bundle_version, told.decision.certificate.id = "b1", "c1"
    await keep(cache, told)
    found = await find(cache)
    assert (found.status, found.source, text(found)) == (HIT, "redis", "42")
    assert found.entry is not None
    kept = found.entry.answer.decision
    assert (kept.model, kept.bundle_version, kept.certificate.id) == ("small", "b1", "c1")
    assert kept.cost_nanousd == 0


def _with_a_part_that_is_no_text() -> router_pb2.GenerateResponse:
    told = answer()
    told.message.parts.add()
    return told


@pytest.mark.parametrize(
    "bad",
    [
        answer(types_pb2.FINISH_REASON_LENGTH),
        answer(types_pb2.FINISH_REASON_DECLINED),
        answer(types_pb2.FINISH_REASON_UNSPECIFIED),
        _with_a_part_that_is_no_text(),
    ],
    ids=["cut", "declined", "unfinished", "another part"],
)
async def test_only_whole_answers_are_kept(bad: router_pb2.GenerateResponse) -> None:
    cache = AnswerCache(MemoryAnswers(), ttl_s=60, recent=Recent(1 << 20))
    await keep(cache, bad)
    assert (await find(cache)).status == MISS


@pytest.mark.parametrize(
    ("temperature", "repeatable"), [(None, True), (0.0, True), (0.01, False), (1.0, False)]
)
def test_only_greedy_queries_are_repeatable(temperature: float | None, repeatable: bool) -> None:
    query = types_pb2.Query(sampling=types_pb2.Sampling(temperature=temperature))
    assert answer_cache.repeatable(query) is repeatable


def test_times_to_live_vary_by_a_tenth() -> None:
    draws = iter([0.0, 0.5, 0.999999])
    cache = AnswerCache(MemoryAnswers(), 100, draw=lambda: next(draws), clock=lambda: 1000.0)
    expiries = [made(cache, 0).expires_at - 1000 for _ in range(3)]
    assert expiries == pytest.approx([90, 100, 110], abs=1e-3)


async def test_a_value_under_a_foreign_key_is_a_miss() -> None:
    store = MemoryAnswers()
    cache = AnswerCache(store, ttl_s=60)
    other = answer_cache.key("beta", types_pb2.Query(), DECISION, "v1")
    await keep(cache, answer(), other)
    store.values[str(KEY)] = store.values[str(other)]
    assert (await find(cache)).status == MISS


@pytest.mark.parametrize("junk", [b"", b"short", b"12345678" + KEY.digest + b"\xff\xff\xff"])
async def test_junk_is_a_miss(junk: bytes) -> None:
    store = MemoryAnswers()
    await store.put(str(KEY), junk, 60, b"", None)
    began = time.monotonic()
    assert (await find(AnswerCache(store, ttl_s=60))).status == MISS
    assert time.monotonic() - began < 10, "it was asked for again until it expired"


class _Broken(MemoryAnswers):
    """A store that is not there."""

    async def find(self, key: str, known: bytes, leader: bytes, lease_s: float) -> bytes | Role:
        raise SideRoomError("gone")

    async def put(self, key: str, value: bytes, ttl_s: float, leader: bytes, known: bytes | None) -> bool:
        raise SideRoomError("gone")


async def test_a_broken_store_is_unavailable_and_nothing_worse() -> None:
    cache = AnswerCache(_Broken(), ttl_s=60)
    found = await find(cache)
    assert found.status == types_pb2.CACHE_STATUS_UNAVAILABLE
    assert cache.degraded
    assert found.flight is not None, "in this process one asks for all, with or without a store"
    cache.keep(KEY, made(cache, 0), found.flight)
    await cache.settle()


class _Full(MemoryAnswers):
    """A store that takes no writes."""

    async def find(self, key: str, known: bytes, leader: bytes, lease_s: float) -> bytes | Role:
        told = await super().find(key, known, leader, lease_s)
        return told if isinstance(told, bytes) else Role.REFUSED


async def test_a_store_that_takes_no_writes_gives_what_it_has_and_is_degraded() -> None:
    full = _Full()
    cache = AnswerCache(full, ttl_s=60)
    found = await find(cache)
    assert found.status == MISS
    assert cache.degraded
    cache.leave(found.flight, alone=True)
    await keep(cache, answer())
    assert (await find(cache)).status == HIT
    assert not cache.degraded


async def test_without_a_store_or_switched_off_it_is_bypassed() -> None:
    off = AnswerCache(MemoryAnswers(), ttl_s=60, recent=Recent(1 << 20))
    off.enabled = False
    for cache in (AnswerCache(None, ttl_s=60), off):
        assert (await find(cache)).status == types_pb2.CACHE_STATUS_BYPASS
        await keep(cache, answer())
    off.enabled = True
    assert (await find(off)).status == MISS


# In memory.


async def test_what_this_process_gave_last_comes_from_memory_while_it_hears_of_purges() -> None:
    store = MemoryAnswers()
    cache = AnswerCache(store, ttl_s=60, recent=Recent(1 << 20))
    await keep(cache, answer())
    store.values.clear()
    assert (await find(cache)).source == "memory"
    cache.hears = lambda: False
    assert (await find(cache)).status == MISS


async def test_what_redis_gave_is_in_memory_from_then_on() -> None:
    store = MemoryAnswers()
    await keep(AnswerCache(store, ttl_s=60), answer())
    cache = AnswerCache(store, ttl_s=60, recent=Recent(1 << 20))
    assert [(await find(cache)).source for _ in range(2)] == ["redis", "memory"]


@pytest.mark.parametrize("memory", [0, 1 << 20])
async def test_an_expired_answer_is_a_miss_wherever_it_stands(memory: int) -> None:
    now = [1000.0]
    cache = AnswerCache(MemoryAnswers(), 100, Recent(memory), draw=lambda: 0.5, clock=lambda: now[0])
    await keep(cache, answer())
    now[0] = 1099.0
    assert (await find(cache)).status == HIT
    now[0] = 1100.0
    assert (await find(cache)).status == MISS


async def test_an_answer_that_takes_another_s_place_is_told_and_forgotten_elsewhere() -> None:
    store, told = MemoryAnswers(), []
    here, there = (AnswerCache(store, 60, Recent(1 << 20)) for _ in range(2))
    here.replaced = lambda at: told.append(at.digest)
    await keep(here, answer())
    assert text(await find(there)) == "42"
    better = answer()
    better.message.parts[0].text = "43"
    here.replace(KEY, here.entry(better, 0))
    await here.settle()
    assert told == [KEY.digest]
    there.forget(told[0])
    assert [text(await find(one)) for one in (here, there)] == ["43", "43"]


# Purges.


@pytest.mark.parametrize("memory", [0, 1 << 20])
@pytest.mark.parametrize(
    ("scope", "goes"),
    [
        (Scope(), True),
        (Scope(tenant="acme"), True),
        (Scope(tenant="beta"), False),
        (Scope(model="small"), True),
        (Scope(model="large"), False),
        (Scope(tag="prices"), True),
        (Scope(tag="weather"), False),
        (Scope("acme", "small", "prices"), True),
        (Scope("acme", "large", "prices"), False),
    ],
)
async def test_what_is_purged_is_not_given_again(scope: Scope, goes: bool, memory: int) -> None:
    now = [1000.0]
    recent = Recent(memory)
    cache = AnswerCache(MemoryAnswers(), 3600, recent, clock=lambda: now[0])
    cache.keep(KEY, made(cache, 1.0, tags=("prices", "eu")))
    await cache.settle()
    before = recent.bytes
    cache.purge(scope, 1000.0)
    await cache.settle()
    assert recent.bytes == (0 if goes else before), "memory lets go of it"
    found = await find(cache)
    assert found.status == (MISS if goes else HIT)
    now[0] = 1010.0
    cache.keep(KEY, made(cache, 1.0, tags=("prices", "eu")), found.flight, over=found.known)
    await cache.settle()
    assert (await find(cache)).status == HIT, "what is made later is no part of the order"


async def test_an_answer_that_was_begun_before_a_purge_is_not_kept_after_it() -> None:
    store, now = MemoryAnswers(), [1000.0]
    cache = AnswerCache(store, 3600, Recent(1 << 20), clock=lambda: now[0])
    found = await find(cache)
    cache.purges.order(Scope(tenant="acme"), 1005.0)
    now[0] = 1020.0
    cache.keep(KEY, made(cache, 18.0), found.flight)
    await cache.settle()
    assert not store.values


# Single-flight.


async def test_of_equal_misses_one_asks_and_the_others_get_its_answer() -> None:
    store = MemoryAnswers()
    caches = [AnswerCache(store, 60, Recent(1 << 20)) for _ in range(4)]
    asking = [asyncio.create_task(find(caches[n % 4])) for n in range(500)]
    done, others = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
    (leading,) = (one.result() for one in done)
    assert (leading.status, len(others)) == (MISS, 499)
    assert leading.flight is not None
    caches[0].keep(KEY, made(caches[0], 0.1), leading.flight)
    found = await asyncio.gather(*others)
    assert {(one.status, one.source) for one in found} == {(HIT, "flight")}
    assert {text(one) for one in found} == {"42"}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in this process", "in another one"])
async def test_who_leads_and_leaves_is_replaced_by_one(elsewhere: bool) -> None:
    store = MemoryAnswers()
    first = AnswerCache(store, 60)
    second = AnswerCache(store, 60) if elsewhere else first
    leading = await find(first)
    waiting = [asyncio.create_task(find(second)) for _ in range(20)]
    await asyncio.sleep(0)
    first.leave(leading.flight, alone=False)
    done, others = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    (next_one,) = (one.result() for one in done)
    assert (next_one.status, len(others)) == (MISS, 19)
    assert next_one.flight is not None
    second.keep(KEY, made(second, 0.1), next_one.flight)
    assert {one.status for one in await asyncio.gather(*others)} == {HIT}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["in this process", "in another one"])
async def test_where_nothing_can_be_shared_everybody_asks_for_himself(elsewhere: bool) -> None:
    store = MemoryAnswers()
    first = AnswerCache(store, 60)
    second = AnswerCache(store, 60) if elsewhere else first
    leading = await find(first)
    waiting = [asyncio.create_task(find(second)) for _ in range(20)]
    await asyncio.sleep(0)
    first.keep(KEY, first.entry(answer(types_pb2.FINISH_REASON_LENGTH), 0.1), leading.flight)
    found = await asyncio.gather(*waiting)
    assert {(one.status, one.flight) for one in found} == {(MISS, None)}


class _Shaky(MemoryAnswers):
    """Says nothing as often as it is told to, and is slow to write."""

    silent = 0
    writing_s = 0.0
    asked = 0
    looked = 0

    async def get(self, key: str) -> bytes | None:
        self.looked += 1
        return await super().get(key)

    async def find(self, key: str, known: bytes, leader: bytes, lease_s: float) -> bytes | Role:
        self.asked += 1
        if self.silent:
            self.silent -= 1
            raise SideRoomError("silent")
        return await super().find(key, known, leader, lease_s)

    async def put(self, key: str, value: bytes, ttl_s: float, leader: bytes, known: bytes | None) -> bool:
        await asyncio.sleep(self.writing_s)
        return await super().put(key, value, ttl_s, leader, known)


async def test_a_store_that_is_silent_for_a_moment_ends_no_wait() -> None:
    store = _Shaky()
    first, second = AnswerCache(store, 60), AnswerCache(store, 60)
    leading = await find(first)
    waiting = asyncio.create_task(find(second, wait_s=60))
    await eventually(lambda: store.asked >= 3)
    store.silent = 5
    await eventually(lambda: not store.silent)
    assert not waiting.done()
    first.keep(KEY, made(first, 0.1), leading.flight)
    found = await waiting
    assert (found.status, found.source) == (HIT, "flight")
    assert found.waited > 0


async def test_a_store_that_stays_silent_is_waited_for_no_longer_than_a_lease() -> None:
    store = _Shaky()
    await find(AnswerCache(store, 60))
    waiting = asyncio.create_task(find(AnswerCache(store, 60), wait_s=60))
    await eventually(lambda: store.asked >= 3)
    store.silent = 10**9
    began = time.monotonic()
    assert (await waiting).status == types_pb2.CACHE_STATUS_UNAVAILABLE
    assert time.monotonic() - began < LEASE_S + 1


async def test_who_has_waited_in_vain_hears_of_it_when_it_comes() -> None:
    store = MemoryAnswers()
    first, second = AnswerCache(store, 60), AnswerCache(store, 60)
    leading = await find(first)
    for cache in (first, second):
        late = await find(cache, wait_s=0.05)
        assert (late.status, late.flight, late.late) == (MISS, None, True)
        assert late.waited >= 0.04
    hearing = [asyncio.create_task(cache.hear(KEY, fits, 5)) for cache in (first, second)]
    first.keep(KEY, made(first, 0.1), leading.flight)
    assert {entry.model for entry in await asyncio.gather(*hearing) if entry} == {"small"}
    assert await second.hear(answer_cache.Key("acme", bytes(32)), fits, 0.05) is None


async def test_who_asks_for_what_no_flight_brings_waits_for_two_at_most() -> None:
    """As with as many tags as requests: each would be the next one's leader."""
    cache = AnswerCache(MemoryAnswers(), 60)

    async def asked(tag: str) -> float:
        began = time.monotonic()
        found = await cache.find(KEY, lambda entry: tag in entry.tags, 60)
        assert found.status == MISS
        await asyncio.sleep(0.1)  # A model.
        cache.keep(KEY, made(cache, tags=(tag,)), found.flight, over=found.known)
        return time.monotonic() - began

    took = await asyncio.gather(*(asked(f"user-{number}") for number in range(30)))
    assert sorted(took)[0] < 0.3
    assert max(took) < 1.5, "thirty models one after the other take 3 s"


async def test_who_listens_together_asks_the_store_once() -> None:
    store = _Shaky()
    cache = AnswerCache(store, 60)
    hearing = [asyncio.create_task(cache.hear(KEY, fits, 30)) for _ in range(100)]
    await eventually(lambda: store.looked >= 3)
    assert store.looked < 20
    cache.keep(KEY, made(cache))
    assert {entry.model for entry in await asyncio.gather(*hearing) if entry} == {"small"}


async def test_who_listens_passes_over_what_does_not_fit_in_memory() -> None:
    store = MemoryAnswers()
    here, there = AnswerCache(store, 60, Recent(1 << 20)), AnswerCache(store, 60)
    here.keep(KEY, made(here, tags=("a",)))
    await here.settle()
    there.keep(KEY, made(there, tags=("a", "b")), replaces=True)
    await there.settle()
    heard = await here.hear(KEY, lambda entry: "b" in entry.tags, 5)
    assert heard is not None
    assert heard.tags == ("a", "b")


async def test_memory_does_not_give_what_redis_did_not_take() -> None:
    store = MemoryAnswers()
    here, there = AnswerCache(store, 60, Recent(1 << 20)), AnswerCache(store, 60)
    late = await find(here)
    assert late.flight is not None
    late.flight.land(answer_cache.Landing.REPLACE)
    store.leaders.clear()
    better = answer()
    better.message.parts[0].text = "better"
    there.replace(KEY, there.entry(better, 0.1))
    await there.settle()
    here.keep(KEY, made(here), late.flight)
    await here.settle()
    assert text(await find(here)) == "better"


async def test_nobody_waits_for_an_answer_whose_write_was_skipped() -> None:
    store = _Shaky()
    store.writing_s = 0.05
    here, there = AnswerCache(store, 60), AnswerCache(store, 60)
    keys = [answer_cache.Key("acme", n.to_bytes(32, "big")) for n in range(answer_cache.MOST_PENDING + 1)]
    leading = [await find(here, at) for at in keys]
    for at, one in zip(keys, leading, strict=True):
        here.keep(at, made(here), one.flight)
    assert here.degraded
    began = time.monotonic()
    assert (await find(there, keys[-1])).flight is not None
    assert time.monotonic() - began < LEASE_S / 2
    await here.settle()
    assert len(store.values) == answer_cache.MOST_PENDING


async def test_a_leader_that_dies_is_replaced_when_its_lease_is_over() -> None:
    store = MemoryAnswers()
    dead = AnswerCache(store, 60)
    leading = await find(dead)
    assert leading.flight is not None
    leading.flight.land(answer_cache.Landing.REPLACE)  # Its process is gone: nothing renews the lease.
    began = time.monotonic()
    assert (await find(AnswerCache(store, 60))).flight is not None
    assert 0.8 * LEASE_S < time.monotonic() - began < LEASE_S + 1


async def test_a_leader_that_takes_longer_than_its_lease_keeps_it() -> None:
    store = MemoryAnswers()
    cache, other = AnswerCache(store, 60), AnswerCache(store, 60)
    leading = await find(cache)
    assert leading.flight is not None
    found = await find(other, wait_s=LEASE_S + 1)
    assert (found.status, found.flight) == (MISS, None), "it waited in vain, and asks for itself alone"
    cache.keep(KEY, made(cache, 0.1), leading.flight)
    await cache.settle()


async def test_who_waits_and_leaves_disturbs_nobody() -> None:
    store = MemoryAnswers()
    cache = AnswerCache(store, 60)
    leading = await find(cache)
    waiting = [asyncio.create_task(find(cache)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    assert leading.flight is not None
    assert leading.flight.landed is None
    cache.keep(KEY, made(cache, 0.1), leading.flight)
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(one, Found) and one.status == HIT for one in found[1:])


async def test_who_waits_for_another_process_and_leaves_is_replaced_here() -> None:
    """The one that looks for all who wait in its process is a caller like any other."""
    store = MemoryAnswers()
    cache, other = AnswerCache(store, 60), AnswerCache(store, 60)
    leading = await find(other)
    waiting = [asyncio.create_task(find(cache)) for _ in range(3)]
    await asyncio.sleep(0.01)
    waiting[0].cancel()
    assert leading.flight is not None
    other.keep(KEY, made(other, 0.1), leading.flight)
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(one, Found) and one.status == HIT for one in found[1:])


async def test_who_waits_long_enough_asks_for_himself() -> None:
    cache = AnswerCache(MemoryAnswers(), 60)
    await find(cache)
    found = await find(cache, wait_s=0.05)
    assert (found.status, found.flight) == (MISS, None)


# Terms.


async def test_what_does_not_fit_is_stale_and_its_place_is_taken_once() -> None:
    store = MemoryAnswers()
    cache, other = AnswerCache(store, 60, Recent(1 << 20)), AnswerCache(store, 60)
    cache.keep(KEY, made(cache, 0.1, "b1 p1 1.0"))
    await cache.settle()

    def under(terms: str) -> Callable[[Entry], bool]:
        return lambda entry: entry.terms == terms

    assert (await cache.find(KEY, under("b1 p1 1.0"), 1)).status == HIT
    for one in (cache, other):
        found = await one.find(KEY, under("b2 p2 1.0"), 0.05)
        assert found.status == MISS
        assert found.stale is not None
        assert found.stale.terms == "b1 p1 1.0"
        assert (found.flight is None) == (one is other), "one of them asks for both"
        if found.flight is not None:
            leading = found
    cache.keep(KEY, made(cache, 0.1, "b2 p2 1.0"), leading.flight)
    await cache.settle()
    assert (await other.find(KEY, under("b2 p2 1.0"), 1)).status == HIT


# Renewal.


@pytest.mark.parametrize(("left_s", "draw", "due"), [(50, 0.9, False), (2, 0.9, True), (2, 0.3, False)])
async def test_the_slower_the_answer_the_sooner_it_is_renewed(left_s: float, draw: float, due: bool) -> None:
    """XFetch: it is due if took · -ln(1 - draw) reaches what is left; -ln .1 = 2.3, -ln .7 = .36."""
    now = [1000.0]
    cache = AnswerCache(MemoryAnswers(), 100, draw=lambda: draw, clock=lambda: now[0])
    entry = made(cache, 1.0)
    cache.keep(KEY, entry)
    await cache.settle()
    now[0] = entry.expires_at - left_s
    assert (await find(cache)).due is due


async def test_one_of_all_processes_renews_and_the_others_go_on_giving() -> None:
    store = MemoryAnswers()
    here, there = AnswerCache(store, 60), AnswerCache(store, 60)
    entry = made(here, 0.1)
    here.keep(KEY, entry)
    await here.settle()
    flights = [await one.renewal(KEY, entry) for one in (here, there, here)]
    assert [one is not None for one in flights] == [True, False, False]
    assert (await find(there)).status == HIT
    fresh = made(here, 0.1)
    here.keep(KEY, fresh, flights[0])
    await here.settle()
    assert await there.renewal(KEY, entry) is None, "it has been renewed already"
    found = await find(there)
    assert found.entry is not None
    assert found.entry.stamp == fresh.stamp


def test_a_sealed_entry_begins_with_its_stamp() -> None:
    """Redis tells by it whether the entry that is known has been replaced."""
    entry = made(AnswerCache(MemoryAnswers(), 60))
    assert sealed(KEY.digest, entry).startswith(entry.stamp)
