"""What happens to a request in which order: events in, commands out.

Rule 1: everything that decides what happens next to a request lives in this file.
Rule 2: no clock, no waiting, no calls; the gateway performs the commands and reports what became of them.

    Received ─▶ CallModel ─┬─ Finished ─▶ Answer
                           └─ Failed ─┬─ text delivered, or not retryable ─▶ GiveUp
                                      ├─ worth asking again, and a retry is left ─▶ CallModel, the same model
                                      ├─ a fallback is left ─▶ CallModel, another model
                                      └─ nothing is left ─▶ GiveUp

A retry or a fallback answers a *failure*; escalation, which answers uncertainty, does not exist yet.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headgate.router.bundle import Bundle
from headgate.router.decide import decide, exclusions
from headgate.router.types import Decision, Pool, Query, Reason

MOST_ATTEMPTS = 3
"""Calls of workers on behalf of one request, retries and fallbacks together."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request came in: the first event, and only once."""

    query: Query


@dataclass(frozen=True, slots=True)
class Finished:
    """The worker's stream ended well."""

    model: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The call failed.

    `delivered` means that text already reached the caller, who must not see a second beginning. `again` is
    false where the same model would fail the same way, or take as long to fail: only another one can help.
    """

    model: str
    retryable: bool
    delivered: bool
    again: bool = True


@dataclass(frozen=True, slots=True)
class CallModel:
    """Call this model's worker.

    `attempt` counts from 1 over the whole request; `fallback` if another model failed.
    """

    model: str
    decision: Decision
    attempt: int
    fallback: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The delivered answer stands."""

    model: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End with the status of the last failure."""

    model: str
    decision: Decision


Event = Received | Finished | Failed
Command = CallModel | Answer | GiveUp


class Cascade:
    """The state of one request. After Answer or GiveUp it takes no more events."""

    def __init__(
        self, bundle: Bundle | None, pool: Pool, *, now: float, max_attempts: int = 2, max_fallbacks: int = 1
    ) -> None:
        """`max_attempts` calls of the first model, then one call each of `max_fallbacks` others.

        At most 3 in all.
        """
        self._bundle, self._pool, self._now = bundle, pool, now
        self._max_attempts, self._max_fallbacks = max_attempts, max_fallbacks
        self._query: Query | None = None
        self._call: CallModel | None = None
        self._failed: list[str] = []

    def feed(self, event: Event) -> Command:
        """The next command.

        Raises what `decide` raises on Received; ValueError for an event that cannot come now.
        """
        match event:
            case Received(query):
                return self._received(query)
            case Finished(model):
                return self._end(Answer(model, self._running(model).decision))
            case Failed(model):
                return self._after_failure(self._running(model), event)

    def _received(self, query: Query) -> Command:
        if self._query is not None:
            raise ValueError("a cascade serves one request")
        self._query = query
        decision = decide(self._bundle, query, self._pool, now=self._now)
        return self._start(CallModel(decision.model, decision, attempt=1, fallback=False))

    def _after_failure(self, call: CallModel, failure: Failed) -> Command:
        if failure.delivered or not failure.retryable or call.attempt >= MOST_ATTEMPTS:
            return self._end(GiveUp(call.model, call.decision))
        if failure.again and not call.fallback and call.attempt < self._max_attempts:
            return self._start(replace(call, attempt=call.attempt + 1))
        self._failed.append(call.model)
        other = self._fallback(call.decision)
        if other is None:
            return self._end(GiveUp(call.model, call.decision))
        return self._start(CallModel(other, call.decision, call.attempt + 1, fallback=True))

    def _fallback(self, decision: Decision) -> str | None:
        """The reference model first, then by p_correct.

        Never for a pinned query, never a model that failed.
        """
        if self._query is None or decision.reason is Reason.PINNED or len(self._failed) > self._max_fallbacks:
            return None
        barred = {*exclusions(self._query, self._pool, self._bundle), *self._failed}
        left = [estimate for estimate in decision.estimates if estimate.model not in barred]
        ranked = sorted(left, key=lambda e: (e.model != self._pool.reference, -(e.p_correct or 0.0)))
        return ranked[0].model if ranked else None

    def _running(self, model: str) -> CallModel:
        if self._call is None or self._call.model != model:
            raise ValueError(f"no call of {model!r} is running")
        return self._call

    def _start(self, call: CallModel) -> CallModel:
        self._call = call
        return call

    def _end(self, command: Answer | GiveUp) -> Command:
        self._call = None
        return command
