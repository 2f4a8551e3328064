"""What happens to a request in which order: events in, commands out.

Rule 1: everything that decides what happens next to a request lives in this file.
Rule 2: no clock, no waiting, no calls; the gateway performs the commands and reports what became of them.

    Received ─▶ CallModel ─┬─ Finished ─┬─ no draft, or an accepted one ─▶ Answer
                           │            └─ a doubtful draft ─▶ CallModel, an escalation, or a second draft
                           ├─ Stopped, a draft that is too doubtful to go on ─▶ CallModel, an escalation
                           └─ Failed ─┬─ text delivered ─▶ GiveUp
                                      ├─ worth asking again, and a retry is left ─▶ CallModel, the same model
                                      ├─ a draft is in hand ─▶ Answer, with the draft
                                      ├─ a fallback is left ─▶ CallModel, another model
                                      └─ nothing is left, or not retryable ─▶ GiveUp

While a draft is being written, `look` tells whether it is to be stopped, or is the answer already: then
what it is worth in the end can only be told with the Answer, which may offer an escalation.

Where the answer can be upgraded later, a draft is delivered as it comes, and is the Answer whatever it
shows; a doubtful one comes with an offer.

A retry or a fallback answers a *failure*, an escalation answers *uncertainty*. A draft that was not
accepted stays at hand: it may be the answer beside a second one, and is better than an error where the
escalation fails.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from headgate.router.accept import Look, gain, kept_for_now, left_to_the_reference, look, no_regret, read
from headgate.router.bundle import Bundle
from headgate.router.decide import Decide, decide, exclusions
from headgate.router.types import Decision, Draft, Pool, Query, Reason

MOST_ATTEMPTS = 3
"""Calls of workers on behalf of one request, retries and fallbacks together."""


@dataclass(frozen=True, slots=True)
class Received:
    """A request came in: the first event, and only once."""

    query: Query


@dataclass(frozen=True, slots=True)
class Finished:
    """The worker's stream ended well; `draft` is what it wrote, where that is a draft."""

    model: str
    draft: Draft | None = None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The call for a draft was cancelled, because `Cascade.look` said so of what was written."""

    model: str
    draft: Draft


@dataclass(frozen=True, slots=True)
class Unread:
    """The draft came, and reading it failed in a way that nobody foresaw."""

    model: str
    draft: Draft


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

    `attempt` counts from 1 over the whole request; `fallback` if another model failed, `escalation` if
    another model's draft is doubtful. A `draft` is held back until it was read.
    """

    model: str
    decision: Decision
    attempt: int
    fallback: bool
    draft: bool = False
    escalation: bool = False
    beside: str = ""
    """The model whose answer is to be begun at the same time, for the case that the draft is not accepted."""
    at_once: bool = False
    """Whether the draft is not held back, but delivered as it comes."""

    @property
    def repeats(self) -> bool:
        """Whether a failure is the cause of this call."""
        return self.attempt > 1 and not self.escalation


@dataclass(frozen=True, slots=True)
class Offer:
    """Asking this model instead is expected to be worth so much more quality, in [-1, 1]."""

    model: str
    gain: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer stands: what was delivered, or the draft that is held back.

    With an `offer` where the end of a draft is doubtful whose beginning was delivered.
    """

    model: str
    decision: Decision
    draft: bool = False
    offer: Offer | None = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """End with the status of the last failure."""

    model: str
    decision: Decision


Event = Received | Finished | Stopped | Unread | Failed
Command = CallModel | Answer | GiveUp


class Cascade:
    """The state of one request. After Answer or GiveUp it takes no more events."""

    def __init__(
        self,
        bundle: Bundle | None,
        pool: Pool,
        *,
        now: float,
        max_attempts: int = 2,
        max_fallbacks: int = 1,
        decide: Decide = decide,
    ) -> None:
        """`max_attempts` calls of the first model, then one call each of `max_fallbacks` others.

        At most 3 in all. Where a draft is in hand, it takes the place of a fallback. `decide` may be one that
        remembers.
        """
        self._bundle, self._pool, self._now, self._decide = bundle, pool, now, decide
        self._max_attempts, self._max_fallbacks = max_attempts, max_fallbacks
        self._query: Query | None = None
        self._call: CallModel | None = None
        self._tries = 0
        self._held: list[str] = []
        self._stopped = False
        self._accepted: Decision | None = None
        self._doubt: Decision | None = None
        """What a look came to that was due: the hold-back was over."""
        self._failed: list[str] = []

    def feed(self, event: Event) -> Command:
        """The next command.

        Raises what `decide` raises on Received; ValueError for an event that cannot come now.
        """
        match event:
            case Received(query):
                return self._received(query)
            case Finished(model, draft):
                return self._after_finish(self._running(model), draft)
            case Stopped(model, draft):
                return self._after_stop(self._running(model), draft)
            case Unread(model, draft):
                return self._after_unread(self._running(model), draft)
            case Failed(model):
                return self._after_failure(self._running(model), event)

    def _received(self, query: Query) -> Command:
        if self._query is not None:
            raise ValueError("a cascade serves one request")
        self._query = query
        if self._bundle is not None:
            self._bundle = self._bundle.holding_back(query.hold_back)
        decision = self._decide(self._bundle, query, self._pool, now=self._now)
        drafts = decision.prior is not None
        now = drafts and query.upgrade_later
        beside = self._pool.reference if drafts and query.hedged and not now else ""
        return self._start(CallModel(decision.model, decision, 1, False, drafts, beside=beside, at_once=now))

    @property
    def hold_back(self) -> int:
        """Tokens of a draft at which a look is due."""
        return self._bundle.policy.hold_back if self._bundle else 0

    def look(self, draft: Draft, *, overdue: bool = False) -> Look:
        """What becomes of the draft that is being written; once it is accepted, it stays so.

        One that is accepted because it is `overdue`, before the hold-back, is not covered by the certificate;
        nor is one that is stopped so under a certificate of net quality.
        """
        call = self._running(draft.model)
        if not call.draft or self._bundle is None or self._query is None or self._accepted:
            return Look.WAIT
        due = draft.tokens >= self.hold_back
        found, decision = look(
            self._bundle,
            self._query.text,
            call.decision,
            draft,
            due=due or overdue,
            early_stop=self._query.early_stop,
        )
        if found is Look.ACCEPT:
            self._accepted = decision if due else replace(decision, certificate=None)
        if found is Look.STOP and due:
            self._doubt = decision
        elif found is Look.STOP and overdue and not no_regret(call.decision):
            self._doubt = replace(self._left(call, draft, _too_doubtful(draft)), certificate=None)
        return found

    def _after_stop(self, call: CallModel, draft: Draft) -> Command:
        self._stopped = True
        return self._escalate(call, self._doubt or self._left(call, draft, _too_doubtful(draft)))

    def _after_unread(self, call: CallModel, draft: Draft) -> Command:
        if self._accepted or call.at_once:
            return self._end(Answer(call.model, self._accepted or call.decision))
        self._held.append(call.model)
        return self._escalate(call, self._left(call, draft, "could not be read"))

    def _left(self, call: CallModel, draft: Draft, why: str) -> Decision:
        if not call.draft or self._bundle is None:
            raise ValueError(f"the call of {call.model!r} was for no draft")
        return left_to_the_reference(self._bundle, call.decision, draft, why)

    def _escalate(self, call: CallModel, decision: Decision) -> Command:
        self._tries = 0
        drafts, attempt = decision.prior is not None, call.attempt + 1
        return self._start(CallModel(decision.model, decision, attempt, False, drafts, escalation=True))

    def _after_finish(self, call: CallModel, draft: Draft | None) -> Command:
        if not call.draft:
            return self._end(Answer(call.model, call.decision, offer=_upgrade(call)))
        if draft is None or self._bundle is None or self._query is None:
            raise ValueError(f"the call of {call.model!r} was for a draft")
        decision = read(self._bundle, self._query.text, _in_time(call), draft)
        offer = Offer(decision.model, gain(decision, draft)) if decision.escalated else None
        if call.at_once:
            return self._end(Answer(call.model, kept_for_now(decision, call.model), offer=offer))
        if self._accepted:
            return self._end(Answer(call.model, self._accepted, offer=offer))
        self._held.append(call.model)
        if decision.model in self._held:
            return self._end(Answer(decision.model, decision, draft=True))
        return self._escalate(call, decision)

    def _after_failure(self, call: CallModel, failure: Failed) -> Command:
        left = failure.retryable and call.attempt < MOST_ATTEMPTS
        if failure.delivered:
            return self._end(GiveUp(call.model, call.decision))
        # Where a draft was stopped, none is in hand: the last call is the fallback's. So it is where this
        # one was for a second draft.
        second = call.draft and bool(self._held)
        spared = (self._stopped or second) and call.attempt + 1 >= MOST_ATTEMPTS
        if left and failure.again and not call.fallback and self._tries < self._max_attempts and not spared:
            return self._start(replace(call, attempt=call.attempt + 1, escalation=False, beside=""))
        self._failed.append(call.model)
        other = self._fallback(call.decision) if left and (second or not self._held) else None
        if other is not None:
            return self._start(CallModel(other, call.decision, call.attempt + 1, fallback=True))
        if self._held:
            return self._end(Answer(self._likeliest(call.decision), call.decision, draft=True))
        return self._end(GiveUp(call.model, call.decision))

    def _likeliest(self, decision: Decision) -> str:
        """Of the drafts at hand."""
        told = {one.model: one.p_after_draft or 0.0 for one in decision.estimates}
        return max(self._held, key=lambda name: told.get(name, 0.0))

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
        self._call, self._tries, self._accepted = call, self._tries + 1, None
        return call

    def _end(self, command: Answer | GiveUp) -> Command:
        self._call = None
        return command


def _upgrade(call: CallModel) -> Offer | None:
    """Of an answer that nobody read, the model that the policy would rather have had; a fallback's has none:
    it is the better one already, or all there is."""
    decision = call.decision
    if not decision.upgrade or call.fallback:
        return None
    p = {one.model: one.p_correct or 0.0 for one in decision.estimates}
    return Offer(decision.upgrade, p[decision.upgrade] - p[call.model])


def _too_doubtful(draft: Draft) -> str:
    return f"was stopped after {draft.tokens} tokens as too doubtful"


def _in_time(call: CallModel) -> Decision:
    """The call's decision, without a second draft where a failure took the call that this would need."""
    prior = call.decision.prior
    if prior is None or call.attempt + 1 < MOST_ATTEMPTS:
        return call.decision
    return replace(call.decision, prior=replace(prior, further={}))
