"""Performs what the brain's cascade commands, for one request after the other. Only this file calls workers.

decide ─▶ answer cache ─▶ worker ─▶ Answer, or again, or another model, or give up
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

import grpc
import grpc.aio
import structlog

from headgate.adapters import logs, status_map, traces
from headgate.adapters import trace_words as words
from headgate.adapters.config import CascadeConfig
from headgate.adapters.status_map import (
    ContextTooLongError,
    DeadlineError,
    JobsOffError,
    ModelUnknownError,
    PermissionDeniedError,
    ServiceError,
    Violation,
    WorkerUnavailableError,
)
from headgate.adapters.telemetry import Metrics
from headgate.gateway import answer_cache, convert, failures, records, traced, upgrades
from headgate.gateway.admission import Caller
from headgate.gateway.answer_cache import Key
from headgate.gateway.bundle_store import BundleStore
from headgate.gateway.drain import Drain
from headgate.gateway.entries import Entry
from headgate.gateway.failures import CutError
from headgate.gateway.hedge import Hedge
from headgate.gateway.journey import Arrival, Deliver, Event, Held, Journey
from headgate.gateway.looks import Looks, StoppedError
from headgate.gateway.records import Ended, Recorder
from headgate.gateway.reuse import Reuse, read_again
from headgate.gateway.sessions import Sessions
from headgate.gateway.shadow import Answered, Shadow
from headgate.gateway.upgrades import Upgrade, Upgrades
from headgate.gateway.workers import Call, Worker, Workers
from headgate.router.cascade import (
    Answer,
    CallModel,
    Cascade,
    Command,
    Failed,
    Finished,
    GiveUp,
    Offer,
    Received,
    Stopped,
    Unread,
)
from headgate.router.cost import call_cost, estimate_tokens
from headgate.router.decided import Decided
from headgate.router.errors import ContextError, ObjectiveError, RouterError
from headgate.router.types import Objective, Pool, Query, Reason
from headgate.v1 import router_pb2, types_pb2, worker_pb2

_LOG = structlog.get_logger(__name__)
_TO_BE_REPLACED: Final = frozenset({"CANCELLED", "DEADLINE_EXCEEDED"})
"""Codes of a caller that has left: another one's request may well come to an answer."""
_KEPT: Final = frozenset({types_pb2.CACHE_STATUS_HIT, types_pb2.CACHE_STATUS_SEMANTIC_HIT})
WITHOUT_BUNDLE: Final = Objective(risk_target=0.05)
"""Aimed at when neither tenant, config nor bundle say; without a bundle it changes nothing."""


class Conductor:
    """Answers queries."""

    def __init__(
        self,
        workers: Workers,
        bundles: BundleStore,
        reuse: Reuse,
        sessions: Sessions,
        recorder: Recorder,
        metrics: Metrics,
        objective: Objective | None,
        cascade: CascadeConfig,
        drain: Drain,
        shadow: Shadow | None = None,
        later: Upgrades | None = None,
    ) -> None:
        """`objective` is the operator's; None means the bundle's own. Without `shadow` nothing is sampled,
        without `later` nothing is upgraded."""
        self.objective = objective
        self.cascade = cascade
        self._workers = workers
        self._bundles = bundles
        self._reuse = reuse
        self._sessions = sessions
        self._recorder = recorder
        self._metrics = metrics
        self._drain = drain
        self._shadow = shadow
        self._upgrades = later
        self._decided = Decided()

    def default_objective(self) -> Objective:
        """What queries aim at whose tenant has no objective: the operator's, else the bundle's."""
        bundle = self._bundles.current
        own = Objective(risk_target=bundle.default_risk_target) if bundle else WITHOUT_BUNDLE
        return self.objective or own

    async def route(self, arrival: Arrival, query: types_pb2.Query) -> types_pb2.Decision:
        """Decides and calls nobody. Raises what `answer` raises before it calls a worker."""
        journey = Journey.of(arrival, query)
        # This call's own deadline is not that of the answer, which somebody may ask for later.
        _, command = await self._decide(journey, math.inf)
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
            self._drop_hedge(journey)
            self._reuse.leave(journey, alone=code not in _TO_BE_REPLACED)
            self._record(journey, code, final, last)
        return answer

    async def _answer(self, journey: Journey) -> router_pb2.GenerateResponse:
        cascade, command = await self._decide(journey, journey.seconds_left())
        at = self._reuse.key(journey, command)
        span = traces.begun("internal", words.LOOK_UP)
        found = await self._reuse.find(journey, at, command, self._renew)
        traced.looked_up(span, found)
        if journey.deliver is not None:
            await self._send(journey, Event(decision=self._decision(journey, command.model)))
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
        self._drop_hedge(journey)
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
            last, stale = self._next(journey, cascade, event), None
            journey.decision = last.decision
            if not _may_need(journey.hedge, last):
                self._drop_hedge(journey)
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
        await self._tell_offer(journey)
        return answer

    async def _decide(self, journey: Journey, seconds_left: float) -> tuple[Cascade, CallModel]:
        span = traces.begun("internal", words.DECIDE)
        decided = await self._first_decision(journey, seconds_left)
        traced.decided(span, journey)
        return decided

    async def _first_decision(self, journey: Journey, seconds_left: float) -> tuple[Cascade, CallModel]:
        pool = self._pool(journey)
        session = await self._sessions.model(journey.arrival.caller.tenant, journey.wire.session)
        if session is None:
            journey.degraded.add(types_pb2.DEGRADATION_CACHE)
        wanted = self._objective(journey)
        allowed, usual = journey.arrival.caller.allowed, journey.arrival.caller.cascade or self.cascade
        terms = convert.cascade(usual, journey.wire.policy_override, journey.deliver is not None)
        if terms.hold_back_s is not None and journey.deliver is not None:
            journey.patience = terms.hold_back_s
        terms = self._with_upgrades(journey, terms)
        query = convert.query(journey.wire, wanted, allowed, session or "", seconds_left, terms)
        cascade, command = self._first_command(journey, query, pool)
        journey.decision = command.decision
        journey.model = command.model
        if command.decision.reason is Reason.NO_CERTIFICATE:
            journey.degraded.add(types_pb2.DEGRADATION_CERTIFICATE)
        if any(worker.name not in pool for worker in self._workers):
            journey.degraded.add(types_pb2.DEGRADATION_WORKER)
        if command.decision.reason is Reason.BRAIN_FAILED:
            journey.degraded.add(types_pb2.DEGRADATION_BRAIN)
        self._metrics.decisions.labels(command.model, command.decision.reason.value).inc()
        return cascade, command

    def _with_upgrades(self, journey: Journey, terms: CascadeConfig) -> CascadeConfig:
        """The terms; a job's own query has time, and is answered once and well."""
        if not terms.upgrade_later:
            return terms
        if journey.arrival.caller.runs_jobs:
            return terms.model_copy(update={"upgrade_later": False})
        if self._upgrades is None:
            raise JobsOffError("query.policy_override.upgrade_later: this gateway takes no jobs")
        journey.upgrade_within_s = terms.upgrade_within_s
        return terms

    def _first_command(self, journey: Journey, query: Query, pool: Pool) -> tuple[Cascade, CallModel]:
        cascade = Cascade(self._bundles.current, pool, now=time.time(), decide=self._decided.decide)
        try:
            return cascade, _call(cascade.feed(Received(query)))
        except ObjectiveError:
            # Only who asked for the impossible is told no; an operator's objective that no certificate meets
            # leaves everything to the reference model.
            if convert.objective(journey.wire.policy_override) is not None:
                raise
            reason = Reason.NO_CERTIFICATE
        except ContextError as error:
            raise ContextTooLongError(str(error), [Violation("query.messages", str(error))]) from None
        except RouterError:
            raise
        except Exception:
            _LOG.exception("the brain failed", request_id=journey.request_id)
            self._metrics.brain_failures.labels("decision").inc()
            reason = Reason.BRAIN_FAILED
        cascade = Cascade(None, pool, now=time.time())
        command = _call(cascade.feed(Received(query)))
        return cascade, replace(command, decision=replace(command.decision, reason=reason))

    def _next(self, journey: Journey, cascade: Cascade, event: Finished | Stopped | Failed) -> Command:
        """What comes after a call. A brain that fails over a draft leaves the query to the reference."""
        try:
            return cascade.feed(event)
        except Exception:
            if not isinstance(event, Finished) or event.draft is None:
                raise
            _LOG.exception("the brain failed over a draft", request_id=journey.request_id)
            self._metrics.brain_failures.labels("draft").inc()
            journey.degraded.add(types_pb2.DEGRADATION_BRAIN)
            return cascade.feed(Unread(event.model, event.draft))

    def _pool(self, journey: Journey) -> Pool:
        """The pool for this query. Says no to a pin that the tenant may not use or the pool does not have."""
        pinned, allowed = journey.wire.model, journey.arrival.caller.allowed
        if pinned and pinned not in self._workers:
            there = [one.name for one in self._workers if allowed is None or one.name in allowed]
            raise ModelUnknownError(f"query.model: the pool has no such model; there are: {', '.join(there)}")
        if pinned and allowed is not None and pinned not in allowed:
            raise PermissionDeniedError("query.model: the tenant may not use this model")
        pool = self._workers.pool
        if pool is None or (pinned and pinned not in pool):
            raise WorkerUnavailableError(self._nobody(), retry_after_s=failures.COME_BACK_S)
        return pool

    def _nobody(self) -> str:
        """Why no model can answer, in one sentence."""
        causes = [f"{worker.name}: {worker.out_because}" for worker in self._workers if worker.out_because]
        return "no worker serves yet" + (f" ({'; '.join(causes)})" if causes else "")

    def _objective(self, journey: Journey) -> Objective:
        caller = journey.arrival.caller
        wanted = convert.objective(journey.wire.policy_override)
        if wanted is not None:
            _check_permitted(caller, wanted)
            return wanted
        return caller.objective or self.default_objective()

    async def _renew(self, journey: Journey, at: Key) -> None:
        """Answers a query whose kept answer expires soon; nobody waits for it."""
        with suppress(ServiceError, RouterError):
            cascade, command = await self._decide(journey, journey.seconds_left())
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
            await self._tell_switch(journey, model, escalation=True)
        journey.finish_reason = kept.finish_reason
        journey.usage = kept.usage
        await self._keep_session(journey, model)
        await self._deliver(journey, convert.text(kept.message))
        if kept.HasField("escalation_offered"):
            journey.offered = kept.escalation_offered
        await self._tell_offer(journey)
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
            self._begin_beside(journey, command.beside)
        try:
            await self._call(journey, worker, cascade)
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
        await self._tell_switch(journey, command.model, command.escalation)

    def _waste(self, written: Mapping[str, int]) -> None:
        """Counts tokens of drafts that are not the answer, by model."""
        for model, tokens in written.items():
            self._metrics.wasted_draft_tokens.labels(model).inc(tokens)

    async def _tell_switch(self, journey: Journey, model: str, escalation: bool) -> None:
        """Tells the caller that another model answers, if it is another than it takes to be answering."""
        left, journey.model = journey.model, model
        if journey.deliver is not None and left != model:
            switched = router_pb2.ModelSwitched(
                from_model=left,
                to_model=model,
                escalation=escalation,
                explanation=_why_switched(journey, left, model, escalation),
                draft=_left_draft(journey, left),
            )
            await self._send(journey, Event(model_switched=switched))

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
        await self._tell_switch(journey, answer.model, escalation=preferred)
        await self._release(journey, held)

    async def _call(self, journey: Journey, worker: Worker, cascade: Cascade) -> None:
        """Calls the worker once and delivers its text, or holds it back. An attempt is always noted.

        Raises ServiceError, and StoppedError for a draft that is not worth its end.
        """
        left = journey.seconds_left()
        if left <= 0:
            raise DeadlineError("the deadline passed")
        last, code = None, grpc.StatusCode.CANCELLED
        hedge = self._needed_hedge(journey, worker)
        started = time.perf_counter()
        call = hedge or _begin(journey, worker, left)
        try:
            last = await self._read(journey, call, Looks(cascade, journey, worker.name))
            code = grpc.StatusCode.OK
            worker.breaker.succeeded()
        except grpc.aio.AioRpcError as error:
            code = error.code()
            raise failures.of_call(worker, error) from None
        except CutError:
            code = grpc.StatusCode.UNAVAILABLE
            worker.breaker.failed()
            raise failures.unreachable(worker) from None
        finally:
            _end(worker, call)
            seconds = hedge.seconds if hedge else time.perf_counter() - started
            self._note(journey, worker, code, last, seconds)

    async def _read(
        self, journey: Journey, call: Call | Hedge, watch: Looks
    ) -> worker_pb2.WorkerServiceGenerateResponse:
        """Delivers chunks up to the last one, which is returned. Raises CutError when there is none."""
        while True:
            asked = time.perf_counter()
            try:
                chunk = await call.read()
            except asyncio.CancelledError:
                if failures.cancelled_from_outside():
                    raise
                raise CutError from None
            finally:
                journey.waited += time.perf_counter() - asked
            if not isinstance(chunk, worker_pb2.WorkerServiceGenerateResponse):
                raise CutError
            await self._deliver(journey, chunk.text, (token.logprob for token in chunk.tokens))
            journey.logprobs.extend(token.logprob for token in chunk.tokens)
            if chunk.finish_reason:
                journey.finish_reason = chunk.finish_reason
                journey.usage = chunk.usage
                if _ends_well(journey) and watch.ends(len(chunk.text), chunk.usage.completion_tokens):
                    await self._release(journey, journey.so_far())
                return chunk
            tokens = len(chunk.tokens) or estimate_tokens(chunk.text)
            if journey.holding and watch.accepts(tokens, len(chunk.text)):
                await self._release(journey, journey.so_far())
                if journey.delivered:
                    # Nothing can be retracted any more: the hedge would only cost.
                    self._drop_hedge(journey)

    async def _release(self, journey: Journey, held: Held) -> None:
        """What was held back is the answer; from here on text is delivered as it comes."""
        journey.holding = False
        journey.text.clear()
        if journey.watched is not None:
            journey.watched.clear()
        for piece in held.pieces or [router_pb2.Delta(text="".join(held.text))]:
            await self._deliver(journey, piece.text, piece.logprobs)

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

    async def _tell_offer(self, journey: Journey) -> None:
        if journey.offered is not None and journey.deliver is not None:
            await journey.deliver(Event(escalation_offered=journey.offered))

    def _begin_beside(self, journey: Journey, model: str) -> None:
        """Begins the answer of `model` beside a draft; not where that would be a trial or a late one."""
        worker, left = self._workers[model], journey.seconds_left()
        if worker.serving and not worker.breaker.open and left > 0:
            journey.hedge = Hedge(worker, _begin(replace(journey, holding=False), worker, left))

    def _needed_hedge(self, journey: Journey, worker: Worker) -> Hedge | None:
        """The hedge, where it is that worker's: from now on it is an attempt as any other."""
        hedge = journey.hedge
        if hedge is None or hedge.worker is not worker:
            return None
        journey.hedge = None
        self._metrics.hedges.labels(worker.name, "yes").inc()
        return hedge

    def _drop_hedge(self, journey: Journey) -> None:
        """Nobody needs the hedge: it ends, and what it wrote is counted and paid."""
        hedge, journey.hedge = journey.hedge, None
        if hedge is None:
            return
        hedge.cancel()
        self._metrics.hedges.labels(hedge.worker.name, "no").inc()
        usage = hedge.usage or types_pb2.Usage(estimated=True)
        if hedge.usage is None and (hedge.written or hedge.code is grpc.StatusCode.CANCELLED):
            usage = journey.estimated_usage(hedge.written)
        attempt = self._attempt(journey, hedge.worker, hedge.code, usage, hedge.seconds)
        self._metrics.wasted_hedge_tokens.labels(hedge.worker.name).inc(attempt.usage.completion_tokens)
        journey.wasted_nanousd += attempt.cost_nanousd

    async def _deliver(self, journey: Journey, text: str, logprobs: Iterable[float] = ()) -> None:
        piece = journey.watched.add(text, logprobs) if journey.watched is not None else None
        if text:
            journey.text.append(text)
            if journey.deliver is not None and not journey.holding:
                await self._send(journey, Event(delta=piece or router_pb2.Delta(text=text)))
                if not journey.given:
                    journey.given = True
                    self._metrics.first_token.labels(journey.model).observe(journey.took)
                    journey.span.event(words.FIRST_TEXT)

    async def _send(self, journey: Journey, event: Event) -> None:
        if journey.deliver is not None:
            with self._reuse.while_read(journey):
                await journey.deliver(event)

    def _note(
        self,
        journey: Journey,
        worker: Worker,
        code: grpc.StatusCode,
        last: worker_pb2.WorkerServiceGenerateResponse | None,
        seconds: float,
    ) -> None:
        """Adds an attempt; one without a last chunk is charged for what it is seen to have used."""
        if last is not None:
            usage = last.usage
        elif journey.usage.completion_tokens and journey.holding:
            usage = journey.usage
        else:
            usage = journey.estimated_usage() if journey.text else types_pb2.Usage(estimated=True)
        if not (journey.holding and code is grpc.StatusCode.CANCELLED):
            _tell_pace(worker, code, seconds, usage.completion_tokens)
        attempt = self._attempt(journey, worker, code, usage, seconds)
        if last is not None and last.HasField("speculation"):
            attempt.speculation.CopyFrom(last.speculation)

    def _attempt(
        self,
        journey: Journey,
        worker: Worker,
        code: grpc.StatusCode,
        usage: types_pb2.Usage,
        seconds: float,
    ) -> types_pb2.Attempt:
        price = worker.model.price if worker.model else None
        cost = call_cost(price, usage.prompt_tokens, usage.completion_tokens) if price else 0
        attempt = types_pb2.Attempt(model=worker.name, code=code.value[0], usage=usage, cost_nanousd=cost)
        attempt.duration.FromNanoseconds(round(seconds * 1e9))
        journey.attempts.append(attempt)
        self._metrics.attempts.labels(worker.name, code.name).inc()
        self._metrics.cost.labels(worker.name).inc(cost)
        traced.attempted(journey, attempt, code)
        return attempt

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


def _ends_well(journey: Journey) -> bool:
    """Whether what has ended is a draft, and neither cut nor an excuse."""
    return journey.holding and journey.finish_reason == types_pb2.FINISH_REASON_STOP


def _may_need(hedge: Hedge | None, command: Command) -> bool:
    """Whether what comes next is the hedge's answer, or may lead to it."""
    if hedge is None or not isinstance(command, CallModel):
        return False
    return command.draft or command.model == hedge.worker.name


def _call(command: Command) -> CallModel:
    if not isinstance(command, CallModel):
        raise TypeError("the cascade's first command is a call")
    return command


def _check_permitted(caller: Caller, wanted: Objective) -> None:
    loosest = caller.loosest_risk_target
    if loosest is None:
        return
    if wanted.risk_target is None:
        raise PermissionDeniedError(
            "query.policy_override: the tenant has a risk target and may not ask for a budget"
        )
    if wanted.risk_target > loosest:
        raise PermissionDeniedError(
            f"query.policy_override.risk_target: the tenant may ask for {loosest:g} at most"
        )


def _begin(journey: Journey, worker: Worker, left: float) -> Call:
    """Starts a call of the worker, which has so many seconds."""
    worker.make_room()
    carried = traced.begun(journey, worker).carried or None
    call: Call = worker.stub.Generate(_request(journey, worker), timeout=left, metadata=carried)
    worker.calls.add(call)
    return call


def _end(worker: Worker, call: Call | Hedge) -> None:
    call.cancel()
    if not isinstance(call, Hedge):
        worker.calls.discard(call)


def _request(journey: Journey, worker: Worker) -> worker_pb2.WorkerServiceGenerateRequest:
    """Of a draft, and by who watches, the log-probabilities are wanted, where the worker tells them."""
    wanted = journey.drafting or journey.watched is not None
    return worker_pb2.WorkerServiceGenerateRequest(
        messages=journey.wire.messages,
        sampling=journey.wire.sampling,
        request_id=journey.request_id,
        logprobs=wanted and worker.model is not None and worker.model.logprobs,
    )


def _why_not_accepted(journey: Journey) -> str:
    """A draft that has ended was doubtful, declined or cut; one that was still written was stopped."""
    names = {
        types_pb2.FINISH_REASON_UNSPECIFIED: "stopped",
        types_pb2.FINISH_REASON_STOP: "doubtful",
        types_pb2.FINISH_REASON_DECLINED: "declined",
    }
    return names.get(journey.finish_reason, "cut")


def _why_switched(journey: Journey, left: str, model: str, escalation: bool) -> str:
    """Why `model` goes on, in one sentence for people."""
    if escalation and journey.decision is not None:
        return journey.decision.explanation
    failed = str(journey.failure or f"the model {left} failed")
    return f"{failed[:1].upper()}{failed[1:]}, so {model} answers."


def _left_draft(journey: Journey, left: str) -> list[router_pb2.Delta]:
    """The draft of `left` that was not accepted, for who watches."""
    drafting = journey.decision.drafted_by if journey.decision is not None else ""
    return journey.watched.pieces if journey.watched is not None and left == drafting else []


def _tell_pace(worker: Worker, code: grpc.StatusCode, seconds: float, tokens: int) -> None:
    """A failure says nothing of how long answers take; a caller that did not wait for one says something."""
    if code is grpc.StatusCode.OK:
        worker.pace.finished(seconds, tokens, time.monotonic())
    elif code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        worker.pace.cut(seconds, tokens, time.monotonic())
