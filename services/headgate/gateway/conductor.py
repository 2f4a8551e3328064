"""Performs what the brain's cascade commands, for one request after the other.

decide ─▶ answer cache ─▶ worker ─▶ Answer, or again, or another model, or give up
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Final

from headgate.adapters import logs, status_map, traces
from headgate.adapters import trace_words as words
from headgate.adapters.status_map import ServiceError, WorkerUnavailableError
from headgate.adapters.telemetry import Metrics
from headgate.gateway import answer_cache, convert, failures, records, traced, upgrades
from headgate.gateway.answer_cache import Key
from headgate.gateway.calls import Calls
from headgate.gateway.decider import Decider
from headgate.gateway.delivery import Delivery
from headgate.gateway.drain import Drain
from headgate.gateway.entries import Entry
from headgate.gateway.hedge import Hedge
from headgate.gateway.journey import Arrival, Deliver, Event, Journey
from headgate.gateway.looks import StoppedError
from headgate.gateway.records import Ended, Recorder
from headgate.gateway.reuse import Reuse, read_again
from headgate.gateway.sessions import Sessions
from headgate.gateway.shadow import Answered, Shadow
from headgate.gateway.upgrades import Upgrade, Upgrades
from headgate.gateway.workers import Workers
from headgate.router.cascade import (
    Answer,
    CallModel,
    Cascade,
    Command,
    Failed,
    Finished,
    GiveUp,
    Offer,
    Stopped,
)
from headgate.router.cost import call_cost
from headgate.router.errors import RouterError
from headgate.v1 import router_pb2, types_pb2

_TO_BE_REPLACED: Final = frozenset({"CANCELLED", "DEADLINE_EXCEEDED"})
"""Codes of a caller that has left: another one's request may well come to an answer."""
_KEPT: Final = frozenset({types_pb2.CACHE_STATUS_HIT, types_pb2.CACHE_STATUS_SEMANTIC_HIT})


class Conductor:
    """Answers queries."""

    def __init__(
        self,
        workers: Workers,
        decider: Decider,
        reuse: Reuse,
        sessions: Sessions,
        recorder: Recorder,
        metrics: Metrics,
        drain: Drain,
        shadow: Shadow | None = None,
        later: Upgrades | None = None,
    ) -> None:
        """Without `shadow` nothing is sampled, without `later` nothing is upgraded."""
        self._workers = workers
        self._decider = decider
        self._delivery = Delivery(reuse, metrics)
        self._calls = Calls(workers, self._delivery, metrics)
        self._reuse = reuse
        self._sessions = sessions
        self._recorder = recorder
        self._metrics = metrics
        self._drain = drain
        self._shadow = shadow
        self._upgrades = later

    async def route(self, arrival: Arrival, query: types_pb2.Query) -> types_pb2.Decision:
        """Decides and calls nobody. Raises what `answer` raises before it calls a worker."""
        journey = Journey.of(arrival, query)
        # This call's own deadline is not that of the answer, which somebody may ask for later.
        _, command = await self._decider.decide(journey, math.inf)
        wire = self._decision(journey, command.model)
        if command.draft:
            # The certificate speaks of answers whose draft was read, and here nobody reads one.
            wire.ClearField("certificate")
        return wire

    async def answer(
        self,
        arrival: Arrival,
        query: types_pb2.Query,
        deliver: Deliver | None = None,
        watch: bool = False,
    ) -> router_pb2.GenerateResponse:
        """The answer; with `deliver` its decision, text and switches go there as they come about.

        With `watch` log-probabilities and drafts that were not accepted go there too.

        Raises ServiceError or RouterError. Whatever happens, a record is written and no call is left running.
        """
        journey = Journey.of(arrival, query, deliver, watch)
        journey.span = traces.current()
        logs.about({"request_id": journey.request_id, "tenant": arrival.caller.tenant})
        return await self._recorded(journey, self._answer(journey))

    async def _recorded(
        self, journey: Journey, answering: Coroutine[None, None, router_pb2.GenerateResponse]
    ) -> router_pb2.GenerateResponse:
        code = "INTERNAL"
        final = None
        try:
            async with self._drain.limit(journey.arrival.deadline):
                answer = await answering
            code, final = "OK", answer.decision
        except asyncio.CancelledError:
            code = "CANCELLED"
            raise
        except (ServiceError, RouterError) as error:
            code = status_map.code_of(error)[0].name
            raise
        finally:
            last = journey.last_model
            self._calls.drop_hedge(journey)
            self._reuse.leave(journey, alone=code not in _TO_BE_REPLACED)
            self._record(journey, code, final, last)
        return answer

    async def _answer(self, journey: Journey) -> router_pb2.GenerateResponse:
        cascade, command = await self._decider.decide(journey, journey.seconds_left())
        at = self._reuse.key(journey, command)
        span = traces.begun("internal", words.LOOK_UP)
        found = await self._reuse.find(journey, at, command, self._renew)
        traced.looked_up(span, found)
        if journey.deliver is not None:
            await self._delivery.send(journey, Event(decision=self._decision(journey, command.model)))
        if found.entry is not None:
            return await self._replay(journey, found.entry, command.model)
        asking = self._ask(journey, cascade, command, at, found.stale)
        if at is None or not found.late:
            return await asking
        return await self._race(journey, asking, self._reuse.hear(journey, at, command), command)

    async def _race(
        self,
        journey: Journey,
        asking: Coroutine[None, None, router_pb2.GenerateResponse],
        hearing: Coroutine[None, None, Entry | None],
        command: CallModel,
    ) -> router_pb2.GenerateResponse:
        """What a model answers, or another request comes to, but for who has a part of the first already."""
        asked, heard = asyncio.create_task(asking), asyncio.create_task(hearing)
        entry = None
        try:
            await asyncio.wait({asked, heard}, return_when=asyncio.FIRST_COMPLETED)
            begun = journey.delivered or journey.model != command.model
            if heard.done() and not begun and (not asked.done() or asked.exception() is not None):
                entry = heard.result()
            if entry is None:
                self._reuse.count(types_pb2.CACHE_STATUS_MISS)
                return await asked
        finally:
            asked.cancel()
            heard.cancel()
            await asyncio.wait({asked, heard})
        self._reuse.count(types_pb2.CACHE_STATUS_HIT, "flight")
        self._calls.drop_hedge(journey)
        journey.start(drafting=False, holding=False)
        journey.held.clear()
        journey.failure = journey.offered = journey.read_again = None
        journey.decision, journey.cache_status = command.decision, types_pb2.CACHE_STATUS_HIT
        return await self._replay(journey, entry, command.model)

    async def _ask(
        self,
        journey: Journey,
        cascade: Cascade,
        command: CallModel,
        at: Key | None,
        stale: Entry | None = None,
    ) -> router_pb2.GenerateResponse:
        """Has the pool answer, as the brain says; a draft that is kept already is not written again."""
        last: Command = command
        while isinstance(last, CallModel):
            event = read_again(journey, last, cascade, stale) or await self._perform(journey, last, cascade)
            last, stale = self._decider.next(journey, cascade, event), None
            journey.decision = last.decision
            if not _may_need(journey.hedge, last):
                self._calls.drop_hedge(journey)
        if isinstance(last, GiveUp):
            raise journey.failure or WorkerUnavailableError("no worker answered")
        if last.draft:
            await self._deliver_draft(journey, last)
        kept_by = at if last.decision.certificate or not command.decision.certificate else None
        if last.offer is not None:
            journey.offered = await self._offered(journey, last.model, last.offer, at)
            if journey.upgrade_within_s and not journey.offered.job_id:
                # Who asks again shall have another try.
                kept_by = None
        # Kept before anybody is told: a caller may be slow to read, and the upgrade is not to be overwritten.
        answer = await self._finish(journey, last, kept_by)
        await self._delivery.offer(journey)
        return answer

    async def _renew(self, journey: Journey, at: Key) -> None:
        """Answers a query whose kept answer expires soon; nobody waits for it."""
        with suppress(ServiceError, RouterError):
            cascade, command = await self._decider.decide(journey, journey.seconds_left())
            # What is decided otherwise now, or only within a session, is kept in another place.
            if self._reuse.key(journey, command) == at:
                await self._recorded(journey, self._ask(journey, cascade, command, at))

    async def _replay(self, journey: Journey, entry: Entry, model: str) -> router_pb2.GenerateResponse:
        kept = entry.answer
        if journey.decision is not None and kept.decision.drafted_by:
            model = kept.decision.model
            same_terms = entry.terms in ("", answer_cache.terms(journey.decision))
            reference = self._workers.pool.reference if self._workers.pool is not None else ""
            journey.decision = convert.kept(journey.decision, kept.decision, reference, same_terms)
            await self._delivery.switch(journey, model, escalation=True)
        journey.finish_reason = kept.finish_reason
        journey.usage = kept.usage
        await self._keep_session(journey, model)
        await self._delivery.text(journey, convert.text(kept.message))
        if kept.HasField("escalation_offered"):
            journey.offered = kept.escalation_offered
        await self._delivery.offer(journey)
        response = self._response(journey, model)
        self._upgraded(journey, response)
        return response

    async def _perform(
        self, journey: Journey, command: CallModel, cascade: Cascade
    ) -> Finished | Stopped | Failed:
        """One call of a worker, or none where it has no chance."""
        worker = self._workers[command.model]
        if not worker.serving:
            return failures.left_out(journey, worker)
        repeats = command.repeats and failures.called_in_vain(journey)
        if repeats and not worker.retries.spend():
            return Failed(worker.name, retryable=False, delivered=False)
        # Asked last: an open breaker's yes is its one trial, which must not go to a call that is not made.
        if not worker.breaker.allows():
            if repeats:
                worker.retries.take_back()
            return failures.left_out(journey, worker)
        if command.fallback or command.escalation:
            await self._switch(journey, command)
        journey.start(command.draft, holding=command.draft and not command.at_once)
        if command.beside:
            self._calls.begin_beside(journey, command.beside)
        try:
            await self._calls.call(journey, worker, cascade)
        except StoppedError as stopped:
            # The worker did nothing wrong.
            worker.breaker.succeeded()
            worker.retries.earn()
            self._metrics.stopped_drafts.labels(worker.name).inc()
            return Stopped(worker.name, stopped.draft)
        except ServiceError as failure:
            journey.failure = failure
            retryable = isinstance(failure, WorkerUnavailableError)
            return Failed(worker.name, retryable, journey.delivered, again=failures.worth_repeating(journey))
        worker.retries.earn()
        return Finished(worker.name, journey.hold(worker.name) if command.draft else None)

    async def _switch(self, journey: Journey, command: CallModel) -> None:
        """Another model goes on, because of a failure or of uncertainty."""
        left = journey.model
        if command.escalation:
            why = _why_not_accepted(journey)
            self._metrics.escalations.labels(left, command.model, why).inc()
            traced.switched(journey, command.model, why, escalation=True)
            if not command.draft:
                written = {name: held.usage.completion_tokens for name, held in journey.held.items()}
                self._waste(written | {left: journey.usage.completion_tokens})
        else:
            traced.switched(journey, command.model, "failed", escalation=False)
            _fell_back(journey)
        await self._delivery.switch(journey, command.model, command.escalation)

    def _waste(self, written: Mapping[str, int]) -> None:
        """Counts tokens of drafts that are not the answer, by model."""
        for model, tokens in written.items():
            self._metrics.wasted_draft_tokens.labels(model).inc(tokens)

    async def _deliver_draft(self, journey: Journey, answer: Answer) -> None:
        """A draft that was held back: accepted, or all there is where the escalation failed."""
        held = journey.held.get(answer.model)
        if held is None:
            raise TypeError("the cascade answers with a draft that was never written")
        preferred = answer.model == answer.decision.model
        if not preferred:
            _fell_back(journey)
        else:
            others = {name: one for name, one in journey.held.items() if name != answer.model}
            self._waste({name: one.usage.completion_tokens for name, one in others.items()})
        journey.finish_reason, journey.usage = held.finish_reason, held.usage
        await self._delivery.switch(journey, answer.model, escalation=preferred)
        await self._delivery.release(journey, held)

    async def _offered(
        self, journey: Journey, model: str, offer: Offer, at: Key | None
    ) -> router_pb2.EscalationOffered:
        """The end of an answer is doubtful whose beginning was delivered: nothing is retracted."""
        self._metrics.escalations_offered.labels(model).inc()
        job = ""
        if self._upgrades is not None and journey.upgrade_within_s:
            job = await self._upgrades.queue(journey, offer.model, at)
            self._metrics.upgrades.labels(offer.model, "queued" if job else "unqueued").inc()
        return router_pb2.EscalationOffered(model=offer.model, gain=offer.gain, job_id=job)

    async def _finish(self, journey: Journey, end: Answer, at: Key | None) -> router_pb2.GenerateResponse:
        await self._keep_session(journey, end.model)
        if journey.read_again is not None and not journey.attempts:
            journey.cache_status = types_pb2.CACHE_STATUS_HIT
        response = self._response(journey, end.model)
        if at is not None:
            self._reuse.keep(journey, at, end, response)
        self._upgraded(journey, response)
        return response

    def _upgraded(self, journey: Journey, response: router_pb2.GenerateResponse) -> None:
        """Where this is the answer of a job that upgrades an earlier one: takes its place."""
        caller = journey.arrival.caller
        if not caller.upgrades or caller.run is None or caller.run.ticket.job != journey.request_id:
            return
        first = Upgrade.read(caller.upgrades)
        if first is None:
            return
        journey.upgraded = upgrades.facts(first, response)
        became = "changed" if journey.upgraded["changed"] == "yes" else "same"
        self._metrics.upgrades.labels(journey.model, became).inc()
        place = upgrades.replaced(caller.tenant, first, response)
        if place is not None:
            at, answer = place
            self._reuse.replace(at, journey, answer)

    async def _keep_session(self, journey: Journey, model: str) -> None:
        if not await self._sessions.keep(journey.arrival.caller.tenant, journey.wire.session, model):
            journey.degraded.add(types_pb2.DEGRADATION_CACHE)

    def _response(self, journey: Journey, model: str) -> router_pb2.GenerateResponse:
        part = types_pb2.Part(text="".join(journey.text))
        return router_pb2.GenerateResponse(
            message=types_pb2.Message(role=types_pb2.ROLE_ASSISTANT, parts=[part]),
            finish_reason=journey.finish_reason,
            usage=journey.usage,
            decision=self._decision(journey, model),
            escalation_offered=journey.offered,
        )

    def _decision(self, journey: Journey, model: str) -> types_pb2.Decision:
        """The decision as it stands now."""
        if journey.decision is None:
            return types_pb2.Decision(request_id=journey.request_id)
        if self._recorder.degraded:
            journey.degraded.add(types_pb2.DEGRADATION_LEDGER)
        wire = convert.decision(journey.decision, journey.request_id, model)
        wire.cost_nanousd = sum(attempt.cost_nanousd for attempt in journey.attempts)
        self._reuse.tell(journey, wire)
        wire.attempts.extend(journey.attempts)
        wire.degraded.extend(sorted(journey.degraded))
        wire.overhead.FromNanoseconds(round(journey.overhead * 1e9))
        return wire

    def _record(self, journey: Journey, code: str, final: types_pb2.Decision | None, last_model: str) -> None:
        decision = final or self._decision(journey, last_model)
        took = time.perf_counter() - journey.arrival.at
        finish = types_pb2.FinishReason.Name(journey.finish_reason)
        self._metrics.overhead.observe(journey.overhead)
        traced.ended(journey, decision, finish)
        if final is not None and journey.cache_status != types_pb2.CACHE_STATUS_RENEWED:
            self._count(journey, final, took)
        ended = Ended(code, took, finish, journey.usage)
        caller = journey.arrival.caller
        labels, now = journey.wire.metadata, time.time()
        record = records.request(caller.tenant, decision, labels, ended, now, caller.run)
        record = {**record, **journey.upgraded}
        records.log(record)
        if self._shadow is not None and self._shadow.on and final is not None:
            record = self._shadow.offer(record, self._answered(journey, final.model))
        self._recorder.record(record)

    def _count(self, journey: Journey, final: types_pb2.Decision, took: float) -> None:
        """Counts an answer that a caller was given, and what the reference would have charged for it."""
        pool, usage = self._workers.pool, journey.usage
        price = pool[pool.reference].price if pool is not None and pool.reference in pool else None
        # An upgrade is the second answer to its question, and the reference would have been asked once.
        if price is None or journey.upgraded:
            cost = 0
        else:
            cost = call_cost(price, usage.prompt_tokens, usage.completion_tokens)
        kept = journey.cache_status in _KEPT
        self._metrics.answers.given(
            final.model, took, journey.request_id, cost, kept=kept, certified=final.HasField("certificate")
        )
        if journey.fell_back and not kept:
            self._metrics.fallbacks.labels(final.model).inc()

    def _answered(self, journey: Journey, model: str) -> Answered:
        pool = self._workers.pool
        return Answered(
            caller=journey.arrival.caller,
            wire=journey.wire,
            decision=journey.decision,
            model=model,
            pieces=journey.text,
            usage=journey.usage,
            reference=pool.reference if pool else "",
            wasted_nanousd=journey.wasted(model),
        )


def _fell_back(journey: Journey) -> None:
    journey.fell_back = True
    journey.degraded.add(types_pb2.DEGRADATION_WORKER)


def _may_need(hedge: Hedge | None, command: Command) -> bool:
    """Whether what comes next is the hedge's answer, or may lead to it."""
    if hedge is None or not isinstance(command, CallModel):
        return False
    return command.draft or command.model == hedge.worker.name


def _why_not_accepted(journey: Journey) -> str:
    """A draft that has ended was doubtful, declined or cut; one that was still written was stopped."""
    names = {
        types_pb2.FINISH_REASON_UNSPECIFIED: "stopped",
        types_pb2.FINISH_REASON_STOP: "doubtful",
        types_pb2.FINISH_REASON_DECLINED: "declined",
    }
    return names.get(journey.finish_reason, "cut")
