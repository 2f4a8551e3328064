"""Has the brain decide: on a query, under its own pool, objective and terms, and after each call of a model.

A brain that fails costs no answer: the reference model gets the query.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import structlog

from headgate.adapters import trace_words as words
from headgate.adapters import traces
from headgate.adapters.config import CascadeConfig
from headgate.adapters.status_map import (
    ContextTooLongError,
    JobsOffError,
    ModelUnknownError,
    PermissionDeniedError,
    Violation,
    WorkerUnavailableError,
)
from headgate.adapters.telemetry import Metrics
from headgate.gateway import convert, failures, traced
from headgate.gateway.admission import Caller
from headgate.gateway.bundle_store import BundleStore
from headgate.gateway.journey import Journey
from headgate.gateway.sessions import Sessions
from headgate.gateway.workers import Workers
from headgate.router.cascade import CallModel, Cascade, Command, Failed, Finished, Received, Stopped, Unread
from headgate.router.decided import Decided
from headgate.router.errors import ContextError, ObjectiveError, RouterError
from headgate.router.types import Objective, Pool, Query, Reason
from headgate.v1 import types_pb2

_LOG = structlog.get_logger(__name__)
WITHOUT_BUNDLE: Final = Objective(risk_target=0.05)
"""Aimed at when neither tenant, config nor bundle say; without a bundle it changes nothing."""


class Decider:
    """Between requests and the brain."""

    def __init__(
        self,
        workers: Workers,
        bundles: BundleStore,
        sessions: Sessions,
        metrics: Metrics,
        objective: Objective | None,
        cascade: CascadeConfig,
        takes_jobs: bool = False,
    ) -> None:
        """`objective` is the operator's; None means the bundle's own. Without jobs there are no upgrades."""
        self.objective = objective
        self.cascade = cascade
        self._workers = workers
        self._bundles = bundles
        self._sessions = sessions
        self._metrics = metrics
        self._takes_jobs = takes_jobs
        self._decided = Decided()

    async def decide(self, journey: Journey, seconds_left: float) -> tuple[Cascade, CallModel]:
        """The cascade of a query that has so many seconds, and its first command.

        The journey knows what was decided. Raises ServiceError or RouterError.
        """
        span = traces.begun("internal", words.DECIDE)
        decided = await self._first_decision(journey, seconds_left)
        traced.decided(span, journey)
        return decided

    def next(self, journey: Journey, cascade: Cascade, event: Finished | Stopped | Failed) -> Command:
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

    def default_objective(self) -> Objective:
        """What queries aim at whose tenant has no objective: the operator's, else the bundle's."""
        bundle = self._bundles.current
        own = Objective(risk_target=bundle.default_risk_target) if bundle else WITHOUT_BUNDLE
        return self.objective or own

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
        if not self._takes_jobs:
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
