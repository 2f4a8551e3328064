"""When an answer may be used again: every rule of the answer cache stands in this file.

1. Only greedy queries are looked up and only their answers kept: temperature 0.
2. Only an answer that ended by itself is kept: not a cut one, not a declined one (a decline is the model's
   excuse, not an answer), nothing but text. Who keeps it sees to it that it is no fallback's, whose model is
   not the one in the key. Degradations do not touch the text.
3. The key digests everything that an answer depends on: tenant, every sampling field, every message, the
   model that answers and its version, and where a draft is to be read who else may answer. They are known
   only after the decision, which is pure and takes a fraction of a millisecond: hence the brain decides
   first, then the cache is asked, the worker last.
4. What a model wrote does not hang on bundle, policy and λ; whether a draft is the answer does. An entry says
   what its draft was read under. Under other terms the reference's answer holds (nothing is lost against it),
   and an accepted draft is read again.
5. A query with tags gets only what carries them all, so that what is purged by one of them is all that was
   given under it. An answer that is made anew for that carries the earlier one's tags too.
6. A value carries its key's digest and is thrown away when read under another key.
7. Of equal misses one asks a model (`flights`). Shortly before an entry expires one request asks again,
   beside its answer: the sooner, the longer that takes (XFetch; Vattani, Chierichetti & Lowenstein, Optimal
   probabilistic cache stampede prevention, VLDB 2015).
8. What this process gave last it gives from memory, while it hears of purges and upgrades.
9. Whatever goes wrong here costs the caller 25 ms at most, or a lease's time where it waits for another's
   answer, and never its own. So who has waited for half of its time asks a model as well, and takes what
   comes first.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

from headgate.adapters.ports import Answers, Role, SideRoomError
from headgate.gateway.entries import DIGEST_BYTES, STAMP_BYTES, Entry, opened, sealed
from headgate.gateway.flights import LEASE_S, Flight, Landing
from headgate.gateway.purges import Purges, Scope
from headgate.gateway.recent import Recent
from headgate.router.types import Decision
from headgate.v1 import router_pb2, types_pb2

JITTER: Final = 0.1
"""Share by which a time to live varies, so that entries made together do not expire together."""
MOST_PENDING: Final = 64
"""Writes under way; further ones are skipped."""
EAGERNESS: Final = 1.0
"""XFetch's β: how many times earlier than needed an entry is renewed, on average."""
POLL_S: Final = 0.015
"""Between two looks at what another process leads: a follower is late by so much, and it costs the store some
60 commands a second for each process and answer that is waited for."""
HEAR_S: Final = 0.1
"""The same of who asks a model as well, and is in less of a hurry."""
_FORMAT: Final = b"headgate answer 3"
_BYPASSED: Final = types_pb2.CACHE_STATUS_BYPASS
_MISS: Final = types_pb2.CACHE_STATUS_MISS
_HIT: Final = types_pb2.CACHE_STATUS_HIT
_AWAY: Final = types_pb2.CACHE_STATUS_UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Key:
    """Where an answer is kept: the tenant in clear, so that its answers can be found, and a digest."""

    tenant: str
    digest: bytes

    def __str__(self) -> str:
        return f"answer:{self.tenant}:{self.digest.hex()}"


def key(tenant: str, query: types_pb2.Query, decision: Decision, model_version: str) -> Key:
    """The key of the answer that `decision.model` gives to the tenant's query."""
    parts = [
        _FORMAT,
        tenant.encode(),
        decision.model.encode(),
        model_version.encode(),
        _course(decision),
        query.sampling.SerializeToString(deterministic=True),
        *(message.SerializeToString(deterministic=True) for message in query.messages),
    ]
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(len(part).to_bytes(8, "big"))
        hashed.update(part)
    return Key(tenant, hashed.digest())


def _course(decision: Decision) -> bytes:
    """What else can become the answer. Who answers without a draft is in the key already; but where that may
    be upgraded, a better model's answer takes its place, under the terms of that doubt."""
    if decision.prior is None:
        return f"to be upgraded by {decision.upgrade} {terms(decision)}".encode() if decision.upgrade else b""
    held_back = decision.certificate.hold_back if decision.certificate else "at once"
    may = sorted(one.model for one in decision.estimates if not one.excluded_because)
    return f"{held_back} {' '.join(may)}".encode()


def terms(decision: Decision) -> str:
    """What a draft is read under."""
    return f"{decision.bundle_version} {decision.policy_version} {decision.lam!r}"


def repeatable(query: types_pb2.Query) -> bool:
    """Whether the same query gets the same answer again: rule 1."""
    return query.sampling.temperature == 0


def keepable(answer: router_pb2.GenerateResponse) -> bool:
    """Whether the answer may be given again: rule 2."""
    text = all(part.WhichOneof("kind") == "text" for part in answer.message.parts)
    return answer.finish_reason == types_pb2.FINISH_REASON_STOP and text


@dataclass(frozen=True, slots=True)
class Found:
    """What a look-up came to."""

    status: types_pb2.CacheStatus.ValueType
    source: str = ""
    """Who had it: memory, redis, semantic, or flight, which is one who asked just before."""
    entry: Entry | None = None
    stale: Entry | None = None
    """An entry that does not fit: read under other terms, or without a tag that is asked for."""
    known: bytes = b""
    """The stamp of what is there and is not given, where there is something."""
    flight: Flight | None = None
    """Others wait for this request's answer. Whoever holds it hands it to `keep` or `leave`."""
    due: bool = False
    """Whether the entry is to be renewed."""
    waited: float = 0.0
    """Seconds that another's answer was waited for."""
    refused: bool = False
    """Whether the store replies, and takes nothing in."""
    late: bool = False
    """Whether it was waited for in vain: `hear` tells when it comes."""


@dataclass(slots=True)
class _Wait:
    """For what another process leads; instants of `time.monotonic`."""

    since: float | None = None
    misfits: int = 0
    """Entries that came meanwhile and did not fit."""
    heard: float | None = None
    """When the store said last that it does."""

    def goes_on(self) -> None:
        self.since = self.since or time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since if self.since else 0.0


class AnswerCache:
    """Answers of earlier requests."""

    def __init__(
        self,
        store: Answers | None,
        ttl_s: float,
        recent: Recent | None = None,
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without a store nothing is looked up and nothing kept, without `recent` nothing in memory.

        `draw` draws from [0, 1); `clock` tells POSIX seconds.
        """
        self.ttl_s = ttl_s
        self.enabled = store is not None
        self.purges = Purges()
        self.hears: Callable[[], bool] = lambda: True
        """Whether this process hears of purges and upgrades: while it does not, memory is not asked."""
        self.replaced: Callable[[Key], None] = lambda _: None
        """Tells the other processes that an answer took another one's place."""
        self.degraded = False
        """Whether the last use failed."""
        self._store = store
        self._recent = recent
        self._draw = draw
        self._clock = clock
        self._flights: dict[bytes, Flight] = {}
        self._polls: dict[bytes, asyncio.Task[Entry | None]] = {}
        self._pending: set[asyncio.Task[None]] = set()

    async def find(self, at: Key, fits: Callable[[Entry], bool], wait_s: float) -> Found:
        """The answer, kept or made by another request within `wait_s`; else what is to be done.

        An entry that does not fit is stale: one that fits is to take its place.
        """
        if self._store is None or not self.enabled:
            return Found(_BYPASSED)
        stale = self._remembered(at)
        if stale is not None and fits(stale):
            return self._hit(at, stale, "memory")
        began, misfits = time.monotonic(), 0
        until = began + wait_s
        while (flight := self._flights.get(at.digest)) is not None:
            landing, waited = await flight.wait(until), time.monotonic() - began
            if landing is Landing.ALONE:
                known = stale.stamp if stale else b""
                return Found(_MISS, stale=stale, known=known, waited=waited, late=flight.landed is None)
            if isinstance(landing, Entry):
                if fits(landing):
                    return replace(self._hit(at, landing, "flight"), waited=waited)
                stale, misfits = landing, misfits + 1
                if misfits > 1:
                    # Each of them asks for something else: to wait for one after the other helps nobody.
                    return Found(_MISS, stale=stale, known=landing.stamp, waited=waited)
        return await self._fly(self._store, at, fits, until, stale)

    async def hear(self, at: Key, fits: Callable[[Entry], bool], within_s: float) -> Entry | None:
        """The entry that another request comes to within that time."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            flight = self._flights.get(at.digest)
            landing = await (flight.wait(until) if flight is not None else asyncio.shield(self._poll(at)))
            if isinstance(landing, Entry) and fits(landing):
                return landing
        return None

    async def peek(self, at: Key, fits: Callable[[Entry], bool]) -> Entry | None:
        """The entry that is kept there, from memory if it fits: nobody waits, and nobody is waited for.

        Raises SideRoomError.
        """
        if self._store is None or not self.enabled:
            return None
        found = self._remembered(at)
        if found is not None and fits(found):
            return found
        try:
            value = await self._store.get(str(at))
        except SideRoomError:
            self.degraded = True
            raise
        return None if value is None else self._open(at, value)

    async def asks(self) -> bool:
        """Whether the store replies now; `degraded` is then what the next request would make of it."""
        found = await self.find(Key("", os.urandom(DIGEST_BYTES)), lambda _: True, 0)
        self.leave(found.flight, alone=False)
        return found.status != _AWAY

    async def renewal(self, at: Key, entry: Entry) -> Flight | None:
        """A flight that renews the entry while others still get it; None where one is under way."""
        if self._store is None:
            return None
        flight = Flight(str(at), at.digest, os.urandom(STAMP_BYTES))
        try:
            told = await self._store.find(str(at), entry.stamp, flight.leader, LEASE_S)
        except SideRoomError:
            return None
        if told is not Role.LEADS:
            return None
        flight.lead(self._store)
        return flight

    def keep(
        self,
        at: Key,
        entry: Entry | None,
        flight: Flight | None = None,
        *,
        over: bytes = b"",
        replaces: bool = False,
    ) -> None:
        """Keeps the entry, where there is one, and lands the flight. The write goes on beside.

        It takes no other's place than that of the one whose stamp is `over`, unless it leads or `replaces`
        whatever is there.
        """
        # Who hears nothing does not know whether what he began before was purged meanwhile.
        on = self._store is not None and self.enabled and self.hears()
        if entry is None or not on or self.purges.cover(at.tenant, entry):
            self.leave(flight, alone=True)
            return
        self._remember(at, entry)
        leader = flight.leader if flight is not None else b""
        # Begun before anybody here is told: who waits in another process is not to wait for all of them.
        if len(self._pending) < MOST_PENDING:
            known = None if replaces else over
            self._beside(self._write(at, entry, leader, known))
        else:
            self.degraded = True
            if leader and self._store is not None:
                # Nor for what is not written.
                self._beside(self._left(self._store, str(at), leader, alone=False))
        if flight is not None:
            self._land(flight, entry)

    def entry(
        self,
        answer: router_pb2.GenerateResponse,
        took_s: float,
        read_under: str = "",
        tags: Sequence[str] = (),
        logprobs: Sequence[float] = (),
    ) -> Entry | None:
        """The entry of an answer just made, which took so long; None where rule 2 is against it."""
        if not keepable(answer):
            return None
        now = self._clock()
        expires_at = now + self.ttl_s * (1 - JITTER + 2 * JITTER * self._draw())
        stamp = os.urandom(STAMP_BYTES)
        kept = _canonical(answer)
        return Entry(stamp, kept, now - took_s, expires_at, took_s, read_under, tuple(tags), tuple(logprobs))

    def replace(self, at: Key, entry: Entry | None) -> None:
        """Keeps an answer that takes another one's place, for all processes."""
        self.keep(at, entry, replaces=True)

    def leave(self, flight: Flight | None, *, alone: bool) -> None:
        """The flight brings no answer. `alone` where none could be shared; else another one tries."""
        if flight is None or flight.landed is not None:
            return
        leads = flight.leads
        self._land(flight, Landing.ALONE if alone else Landing.REPLACE)
        if leads and self._store is not None:
            self._beside(self._left(self._store, flight.key, flight.leader, alone=alone))

    def purge(self, scope: Scope, at: float) -> None:
        """From now on nothing is given of the scope that began up to `at`; memory lets it go beside."""
        self.purges.order(scope, at)
        if self._recent is not None:
            task = asyncio.create_task(self._recent.drop(self.purges.cover))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    def forget(self, digest: bytes) -> None:
        """Another answer has taken the place of the one in memory."""
        if self._recent is not None:
            self._recent.forget(digest)

    def forget_all(self) -> None:
        """What happened in the meantime is not known: nothing in memory is given any more."""
        if self._recent is not None:
            self._recent.clear()

    async def settle(self) -> None:
        """Waits for the writes under way."""
        while self._pending:
            await asyncio.gather(*self._pending)

    def _poll(self, at: Key) -> asyncio.Task[Entry | None]:
        """The next look at what is kept there, one for all who hear of it in this process."""
        task = self._polls.get(at.digest)
        if task is None:
            task = self._polls[at.digest] = asyncio.create_task(self._looked(at))
            task.add_done_callback(lambda _: self._polls.pop(at.digest, None))
        return task

    async def _looked(self, at: Key) -> Entry | None:
        await asyncio.sleep(HEAR_S)
        with suppress(SideRoomError):
            return await self.peek(at, lambda _: False)
        return None

    async def _fly(
        self, store: Answers, at: Key, fits: Callable[[Entry], bool], until: float, stale: Entry | None
    ) -> Found:
        """Asks the store for all who wait in this process."""
        flight = self._took_off(at)
        known, waits = stale.stamp if stale else b"", _Wait()
        try:
            while True:
                told = await self._ask_store(store, flight, known, waits)
                if isinstance(told, bytes):
                    entry = self._open(at, told)
                    if entry is not None and fits(entry):
                        self._land(flight, entry)
                        self._remember(at, entry)
                        found = self._hit(at, entry, "flight" if waits.since else "redis")
                        return replace(found, waited=waits.seconds)
                    stale, known = entry or stale, told[:STAMP_BYTES]
                    waits.misfits += waits.since is not None
                elif told is Role.LED and time.monotonic() < until and waits.misfits < 2:
                    waits.goes_on()
                    await asyncio.sleep(POLL_S)
                else:
                    late = told is Role.LED and waits.misfits < 2
                    return replace(
                        self._missed(store, flight, told, stale, late), known=known, waited=waits.seconds
                    )
        except SideRoomError:
            self.degraded = True
            return Found(_AWAY, stale=stale, known=known, flight=flight, waited=waits.seconds)
        except BaseException:
            self._land(flight, Landing.REPLACE)
            raise

    async def _ask_store(self, store: Answers, flight: Flight, known: bytes, waits: _Wait) -> bytes | Role:
        """What the store says. One that is late while somebody is waited for may be so for a lease's time."""
        try:
            told = await store.find(flight.key, known, flight.leader, LEASE_S)
        except SideRoomError:
            if waits.heard is None or time.monotonic() - waits.heard > LEASE_S:
                raise
            return Role.LED
        self.degraded = told is Role.REFUSED
        if told is Role.LED:
            waits.heard = time.monotonic()
        return told

    def _missed(self, store: Answers, flight: Flight, told: Role, stale: Entry | None, late: bool) -> Found:
        if told is Role.LEADS:
            flight.lead(store)
        elif told is not Role.REFUSED:
            # Too late to wait for who leads, or nothing to wait for; and nobody is to wait for this one.
            self._land(flight, Landing.ALONE if told is Role.ALONE else Landing.REPLACE)
            return Found(_MISS, stale=stale, late=late)
        return Found(_MISS, stale=stale, flight=flight, refused=told is Role.REFUSED)

    def _took_off(self, at: Key) -> Flight:
        flight = self._flights[at.digest] = Flight(str(at), at.digest, os.urandom(STAMP_BYTES))
        return flight

    def _land(self, flight: Flight, landing: Entry | Landing) -> None:
        if self._flights.get(flight.digest) is flight:
            del self._flights[flight.digest]
        flight.land(landing)

    def _hit(self, at: Key, entry: Entry, source: str) -> Found:
        left = entry.expires_at - self._clock()
        early = -entry.took_s * EAGERNESS * math.log(1 - self._draw())
        return Found(_HIT, source, entry, due=early >= left)

    def _remembered(self, at: Key) -> Entry | None:
        if self._recent is None or not self.hears():
            return None
        entry = self._recent.get(at.digest)
        if entry is None or self._gone(at, entry):
            return None
        return entry

    def _remember(self, at: Key, entry: Entry) -> None:
        if self._recent is not None:
            self._recent.put(at.digest, entry, at.tenant)

    def _open(self, at: Key, value: bytes) -> Entry | None:
        entry = opened(at.digest, value)
        return None if entry is None or self._gone(at, entry) else entry

    def _gone(self, at: Key, entry: Entry) -> bool:
        return entry.expires_at <= self._clock() or self.purges.cover(at.tenant, entry)

    def _beside(self, writing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(writing)
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _write(self, at: Key, entry: Entry, leader: bytes, known: bytes | None) -> None:
        if self._store is None:
            return
        left_s = entry.expires_at - self._clock()
        try:
            written = await self._store.put(str(at), sealed(at.digest, entry), left_s, leader, known)
        except SideRoomError:
            self.degraded = True
            return
        if not written:
            self.forget(at.digest)
        elif known is None:
            # Not before: who forgets the earlier answer reads again what is kept.
            self.replaced(at)

    async def _left(self, store: Answers, key: str, leader: bytes, *, alone: bool) -> None:
        try:
            await store.leave(key, leader, alone=alone)
        except SideRoomError:
            self.degraded = True


def _canonical(answer: router_pb2.GenerateResponse) -> router_pb2.GenerateResponse:
    """The answer without what belongs to its request alone."""
    kept = router_pb2.GenerateResponse(
        message=answer.message, finish_reason=answer.finish_reason, usage=answer.usage
    )
    if answer.HasField("escalation_offered"):
        kept.escalation_offered.CopyFrom(answer.escalation_offered)
    for name in ("model", "drafted_by", "explanation", "bundle_version", "policy_version"):
        setattr(kept.decision, name, getattr(answer.decision, name))
    kept.decision.certificate.id = answer.decision.certificate.id
    kept.decision.estimates.extend(answer.decision.estimates)
    return kept
