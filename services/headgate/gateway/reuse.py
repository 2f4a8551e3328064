"""Where a request meets earlier answers: what spares it a call, and what it leaves to later ones.

key ─▶ the same query's answer, kept or under way ─▶ a like question's ─▶ a model's ─▶ kept

When an answer may be used again stands in `answer_cache`, whose question counts as like in `semantic_cache`.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from headgate.adapters.config import SemanticConfig
from headgate.adapters.telemetry import Metrics
from headgate.gateway import answer_cache, convert
from headgate.gateway.answer_cache import AnswerCache, Found, Key
from headgate.gateway.entries import Entry
from headgate.gateway.journey import Journey
from headgate.gateway.like_questions import LikeQuestions
from headgate.gateway.workers import Workers
from headgate.router.cascade import Answer, CallModel, Cascade, Finished
from headgate.v1 import router_pb2, types_pb2

PATIENCE: Final = 0.5
"""Share of the time left that a request waits for another's answer: the rest is for one of its own."""
STALLED_S: Final = 0.5
"""How long who waits for an answer waits for its first caller to read a piece of it."""
MOST_RENEWALS: Final = 8
"""At a time in a process: what nobody waits for must not take the place of what somebody does."""
MOST_TAGS: Final = 64
"""Of an entry, which many queries may have given it. Over them it has the last one's only."""
NOTHING: Final = Found(types_pb2.CACHE_STATUS_BYPASS)

Renew = Callable[[Journey, Key], Coroutine[None, None, None]]


class Reuse:
    """One gateway's."""

    def __init__(
        self, cache: AnswerCache, workers: Workers, metrics: Metrics, like: LikeQuestions | None = None
    ) -> None:
        """Without `like` only the same query gets a kept answer."""
        self.semantic = SemanticConfig()
        self._cache = cache
        self._workers = workers
        self._metrics = metrics
        self._like = like
        self._renewing: dict[bytes, asyncio.Task[None]] = {}

    def key(self, journey: Journey, command: CallModel) -> Key | None:
        """Where the answer is kept; None where it is neither looked up nor kept."""
        pool, repeatable = self._workers.pool, answer_cache.repeatable(journey.wire)
        if not self._cache.enabled or not repeatable or pool is None or command.model not in pool:
            return None
        if journey.wire.cache.bypass:
            return None
        # Where a draft is read any model may answer in the end: their versions count as well.
        names = (
            [one.name for one in pool.models]
            if command.draft or command.decision.upgrade
            else [command.model]
        )
        versions = " ".join(pool[name].version for name in names)
        tenant = journey.arrival.caller.tenant
        if self._like is not None:
            journey.place = self._like.place(
                tenant,
                journey.wire,
                lambda rest: answer_cache.key(tenant, rest, command.decision, versions),
            )
        return answer_cache.key(tenant, journey.wire, command.decision, versions)

    async def find(self, journey: Journey, at: Key | None, command: CallModel, renew: Renew) -> Found:
        """What is kept, or what another request that asks the same comes to meanwhile.

        `renew` asks again, beside this request, for an answer that expires soon.
        """
        if at is None:
            return NOTHING
        fits = self._fits(journey, command)
        found = await self._cache.find(at, fits, PATIENCE * journey.seconds_left())
        # At once: whoever is cancelled from here on has to let those go who wait for it.
        journey.flight = found.flight
        journey.over, journey.tags = found.known, _tags(journey, found.stale)
        if found.entry is None and found.status == types_pb2.CACHE_STATUS_MISS:
            found = await self._find_like(journey, at, fits, found)
        journey.waited += found.waited
        journey.cache_status = found.status
        if found.status == types_pb2.CACHE_STATUS_UNAVAILABLE or found.refused:
            journey.degraded.add(types_pb2.DEGRADATION_CACHE)
        if not found.late:
            self.count(found.status, found.source)
        if found.due and found.entry is not None:
            self._begin_renewal(journey, at, found.entry, renew)
        return found

    def count(self, status: types_pb2.CacheStatus.ValueType, source: str = "") -> None:
        """What a look-up came to."""
        self._metrics.cache.labels(types_pb2.CacheStatus.Name(status), source).inc()

    async def hear(self, journey: Journey, at: Key, command: CallModel) -> Entry | None:
        """What another request comes to that was waited for in vain, while this one asks a model."""
        return await self._cache.hear(at, self._fits(journey, command), journey.seconds_left())

    def keep(self, journey: Journey, at: Key, end: Answer, response: router_pb2.GenerateResponse) -> None:
        """Keeps the answer, where it may be given again, and hands it to all who wait for it."""
        entry = None if journey.fell_back else self._entry(journey, end, response)
        self._cache.keep(at, entry, journey.flight, over=journey.over)
        if self._like is None or journey.place is None:
            return
        # Nothing is learned from a fallback's answer, nor from a draft that was kept already.
        if journey.comparison is not None and journey.attempts and not journey.fell_back:
            self._like.compare(journey.comparison, response)
        if entry is not None:
            self._like.keep(journey.place, at, entry)

    def replace(self, at: Key, journey: Journey, answer: router_pb2.GenerateResponse) -> None:
        """Keeps the answer in the place of an earlier one, for all processes."""
        entry = self._cache.entry(answer, journey.took, tags=journey.wire.cache.tags)
        self._cache.replace(at, None if journey.fell_back else entry)

    def leave(self, journey: Journey, *, alone: bool) -> None:
        """The request brings no answer to who waits for it. `alone` where none could be shared."""
        self._cache.leave(journey.flight, alone=alone)
        if self._like is not None and journey.comparison is not None:
            self._like.leave(journey.comparison)

    @contextmanager
    def while_read(self, journey: Journey) -> Iterator[None]:
        """Delivers text to a caller, who may not read it: nobody else waits for that for long."""
        if journey.flight is None or journey.flight.landed is not None:
            yield
            return
        leave = functools.partial(self._cache.leave, journey.flight, alone=False)
        stalled = asyncio.get_running_loop().call_later(STALLED_S, leave)
        try:
            yield
        finally:
            stalled.cancel()

    def tell(self, journey: Journey, decision: types_pb2.Decision) -> None:
        """Adds to the decision what comes of earlier answers."""
        decision.cache_status = journey.cache_status
        candidate = journey.candidate
        if candidate is not None and journey.cache_status == types_pb2.CACHE_STATUS_SEMANTIC_HIT:
            decision.semantic_hit.similarity = candidate.similarity
            decision.semantic_hit.wrong_hits = candidate.wrong_hits
            decision.semantic_hit.confidence = self.semantic.confidence
        if journey.place is not None and decision.HasField("certificate"):
            convert.add_wrong_hits(decision.certificate, self.semantic)

    async def close(self) -> None:
        """Ends renewals under way."""
        tasks = list(self._renewing.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._like is not None:
            await self._like.settle()

    async def _find_like(
        self, journey: Journey, at: Key, fits: Callable[[Entry], bool], missed: Found
    ) -> Found:
        """The answer to a question that means the same, where there is one that may be given."""
        if self._like is None or journey.place is None or journey.wire.cache.exact_only:
            return missed
        near = await self._like.find(journey.place, at, fits)
        journey.candidate, journey.comparison = near.candidate, near.comparison
        if near.entry is None:
            return missed
        # Who asks the same meanwhile finds this answer himself, all at the same time.
        self._cache.leave(missed.flight, alone=True)
        return Found(types_pb2.CACHE_STATUS_SEMANTIC_HIT, "semantic", near.entry, waited=missed.waited)

    def _entry(self, journey: Journey, end: Answer, response: router_pb2.GenerateResponse) -> Entry | None:
        drafted, logprobs = end.decision.drafted_by, journey.logprobs
        if end.draft:
            logprobs = list(journey.held[end.model].logprobs)
        entry = self._cache.entry(
            response,
            journey.took,
            answer_cache.terms(end.decision) if drafted else "",
            journey.tags,
            logprobs if drafted == end.model else (),
        )
        then = journey.read_again
        if entry is None or then is None or journey.attempts:
            return entry
        # No model was asked: what it says is as old as it was.
        return replace(entry, made_at=then.made_at, expires_at=then.expires_at, took_s=then.took_s)

    def _fits(self, journey: Journey, command: CallModel) -> Callable[[Entry], bool]:
        """Which entries are the answer: rules 4 and 5 of the answer cache."""
        tags = frozenset(journey.wire.cache.tags)
        if not command.draft or command.at_once:
            return lambda entry: tags.issubset(entry.tags)
        reference = self._workers.pool.reference if self._workers.pool is not None else ""
        terms = answer_cache.terms(command.decision)
        return lambda entry: (entry.terms == terms or entry.model == reference) and tags.issubset(entry.tags)

    def _begin_renewal(self, journey: Journey, at: Key, entry: Entry, renew: Renew) -> None:
        # What may have been upgraded is not asked of the model that was in doubt.
        upgraded = journey.decision is not None and journey.decision.upgrade
        if at.digest in self._renewing or len(self._renewing) >= MOST_RENEWALS or upgraded:
            return
        task = asyncio.create_task(self._renewed(journey, at, entry, renew))
        self._renewing[at.digest] = task
        task.add_done_callback(lambda _: self._renewing.pop(at.digest, None))

    async def _renewed(self, journey: Journey, at: Key, entry: Entry, renew: Renew) -> None:
        """A request of its own, with the same query and as much time, unless another process is at it."""
        flight = await self._cache.renewal(at, entry)
        if flight is None:
            return
        wire = types_pb2.Query()
        wire.CopyFrom(journey.wire)
        wire.session, wire.request_id = "", f"{journey.request_id[:120]}.renewal"
        now = time.perf_counter()
        allowed = journey.arrival.deadline - journey.arrival.at
        again = Journey.of(replace(journey.arrival, at=now, deadline=now + allowed), wire)
        again.cache_status, again.flight = types_pb2.CACHE_STATUS_RENEWED, flight
        again.over, again.tags = entry.stamp, _tags(again, entry)
        try:
            await renew(again, at)
        finally:
            self._cache.leave(flight, alone=False)


def _tags(journey: Journey, earlier: Entry | None) -> tuple[str, ...]:
    """The query's, and those of the entry whose place its answer takes, where they are not too many."""
    own = journey.wire.cache.tags
    every = dict.fromkeys([*own, *(earlier.tags if earlier is not None else ())])
    return tuple(every) if len(every) <= MOST_TAGS else tuple(own)


def read_again(
    journey: Journey, command: CallModel, cascade: Cascade, stale: Entry | None
) -> Finished | None:
    """The end of a draft that is kept already, accepted under other terms; None where there is none.

    Only one that is read whole: under a hold-back the certificate speaks of a look at its beginning.
    """
    if stale is None or not command.draft or command.at_once or stale.model != command.model:
        return None
    if stale.answer.usage.completion_tokens >= cascade.hold_back:
        return None
    journey.read_again = stale
    journey.start(drafting=True, holding=True)
    text = convert.text(stale.answer.message)
    journey.text.append(text)
    journey.logprobs.extend(stale.logprobs)
    if journey.watched is not None:
        journey.watched.add(text, stale.logprobs)
    journey.finish_reason, journey.usage = stale.answer.finish_reason, stale.answer.usage
    return Finished(command.model, journey.hold(command.model))
