"""Accept or escalate: what becomes of a draft, once it is read.

The same λ decides as before the draft, with what the draft shows of every model and its cost already paid.
Any model may be worth more then. Where the one that is may not answer, the reference does, which has no
regret: a look never takes a certificate away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

import numpy as np

from headgate.router import evidence
from headgate.router.bundle import Bundle
from headgate.router.calibrate import apply_all
from headgate.router.errors import EstimateError
from headgate.router.reader import Reader, Reading, both
from headgate.router.types import Decision, Draft, ModelEstimate, Prior, Shown


class Look(Enum):
    """What a look at a draft that is still being written comes to."""

    WAIT = "wait"
    STOP = "stop"
    """It is not worth its end."""
    ACCEPT = "accept"
    """It is the answer: what is written can be delivered, and the rest as it comes."""


def read(bundle: Bundle, question: str, decision: Decision, draft: Draft) -> Decision:
    """The decision on a draft of `decision.model`, which has a `prior`.

    `question` is the query's text. Its model is one whose draft is at hand where that is accepted, else
    the one to go on to; where that one's answer is another draft, it has a `prior` again. A draft that
    cannot be read, or is an excuse, is not accepted.
    """
    prior = decision.prior
    assert prior is not None  # noqa: S101  (only drafts come here)
    reader, index = bundle.readers[draft.model], bundle.position[draft.model]
    try:
        why = _unreadable(reader, draft)
        shown = _told_by(reader, question, draft, prior)
    except EstimateError as error:
        why = f"cannot be read: {error}"
    if why:
        return left_to_the_reference(bundle, decision, draft, why)
    hand: tuple[int, ...] = (index,)
    if prior.shown is not None:
        hand, shown = (bundle.position[prior.shown.model], index), _together(bundle, prior, shown)
    best = bundle.policy.accept_one(hand, shown.p_correct, shown.spread, prior.relative_cost, decision.lam)
    return _gone_on(bundle, decision, hand, best, shown)


def look(
    bundle: Bundle, question: str, decision: Decision, draft: Draft, *, due: bool, early_stop: bool
) -> tuple[Look, Decision]:
    """What a look at `draft`, which is still being written, comes to, and the decision from then on.

    `due` once the hold-back is over: then it is accepted or stopped, by what is written. Before, with
    `early_stop`, it is stopped where it is not worth its end. That never happens under a certificate of net
    quality: a stop cannot add regret, but it can take a win away. Nor to a second draft: beside the first,
    its end is worth more. Who cannot look waits for the end.
    """
    reader, prior = bundle.early_readers.get(draft.model), decision.prior
    wanted = due or (early_stop and _may_stop(decision))
    if reader is None or prior is None or _blind(reader, draft) or not wanted:
        return Look.WAIT, decision
    try:
        shown = _told_by(reader, question, draft, prior)
    except EstimateError:
        return Look.WAIT, decision
    index, cost, lam = bundle.position[draft.model], prior.relative_cost, decision.lam
    if not due:
        unwritten = max(prior.tokens - draft.tokens, 1.0) / max(prior.tokens, 1.0)
        left = reader.contents.left or 0.0
        seen = (shown.p_correct, shown.spread, cost, lam, left, unwritten)
        return (Look.STOP if bundle.policy.stops_one(index, *seen) else Look.WAIT), decision
    best = bundle.policy.accept_one((index,), shown.p_correct, shown.spread, cost, lam)
    after = _gone_on(bundle, decision, (index,), best, shown)
    begun = f"After {draft.tokens} tokens: {after.explanation[:1].lower()}{after.explanation[1:]}"
    return (Look.ACCEPT if best == index else Look.STOP), replace(after, explanation=begun)


def _may_stop(decision: Decision) -> bool:
    """Whether a draft may be stopped before its hold-back is over."""
    return no_regret(decision) and decision.prior is not None and decision.prior.shown is None


def no_regret(decision: Decision) -> bool:
    """Whether a certificate covers it that nothing breaks which leaves the answer to the reference."""
    return decision.certificate is not None and decision.certificate.loss == "regret"


def kept_for_now(decision: Decision, drafting: str) -> Decision:
    """The final decision where the draft was delivered as it came, whatever was read in it."""
    if not decision.escalated:
        return decision
    later = decision.model
    after = {one.model: one.p_after_draft for one in decision.estimates}
    said = f"{decision.explanation.removesuffix('.')} later; for now the draft stands."
    if after.get(drafting) is not None and after.get(later) is not None:
        said = (
            f"The draft of {drafting} looks right with p = {after[drafting]:.2f} and stands for now; {later} "
            f"is expected to be with p = {after[later]:.2f} and is worth asking later."
        )
    return replace(decision, prior=None, model=drafting, upgrade=later, explanation=said)


def gain(decision: Decision, draft: Draft) -> float:
    """How much better than `draft` the answer of the decision's model is expected to be, in [-1, 1]."""
    found = {
        one.model: one.p_correct if one.p_after_draft is None else one.p_after_draft
        for one in decision.estimates
    }
    read = any(one.p_after_draft is not None for one in decision.estimates)
    # Without a reading it was cut or is an excuse: worth nothing.
    return (found[decision.model] or 0.0) - ((found[draft.model] or 0.0) if read else 0.0)


def _together(bundle: Bundle, prior: Prior, shown: Shown) -> Shown:
    """What this draft and the one before it say."""
    assert prior.shown is not None  # noqa: S101  (only second drafts come here)
    one, other = (
        Reading(np.array([said.p_correct]), np.array([said.spread])) for said in (prior.shown, shown)
    )
    told = both(apply_all(bundle.contents.calibrators, np.array([prior.logits])), one, other)
    return Shown(shown.model, tuple(told.p_correct[0].tolist()), tuple(told.spread[0].tolist()))


def _gone_on(bundle: Bundle, decision: Decision, hand: Sequence[int], best: int, shown: Shown) -> Decision:
    """The decision where the policy prefers the model at `best`."""
    prior, name, why = decision.prior, bundle.models[best], _why(bundle, hand[-1], best, shown.p_correct)
    assert prior is not None  # noqa: S101  (only drafts come here)
    further = None
    unread = len(hand) < bundle.policy.most_drafts and name in bundle.readers
    if best not in hand and unread and name in prior.further:
        further = replace(prior, tokens=prior.further[name], further={}, shown=shown)
        why = f"{_looks(bundle, hand[-1], shown.p_correct)}, and a draft of {name} is worth a look."
    elif best not in hand and not _may_answer(bundle, decision, hand, name):
        name = bundle.policy.reference
        looks = _looks(bundle, hand[-1], shown.p_correct)
        why = f"{looks}, {bundle.models[best]} may not go on, so {name} does."
    return replace(
        decision,
        prior=further,
        drafted_by=shown.model,
        model=name,
        explanation=why,
        estimates=tuple(_told(bundle, one, shown.p_correct) for one in decision.estimates),
    )


def _may_answer(bundle: Bundle, decision: Decision, hand: Sequence[int], name: str) -> bool:
    """Whether the model is eligible, and its answer not one that would be read first."""
    unread = len(hand) < bundle.policy.most_drafts and name in bundle.readers
    return not unread and any(one.model == name and not one.excluded_because for one in decision.estimates)


def left_to_the_reference(bundle: Bundle, decision: Decision, draft: Draft, why: str) -> Decision:
    """The final decision where `draft` is not accepted whatever it shows; `why` ends "The draft of … "."""
    safe = bundle.policy.reference
    said = f"The draft of {draft.model} {why}, so {safe} answers."
    return replace(decision, prior=None, drafted_by=draft.model, model=safe, explanation=said)


def _unreadable(reader: Reader, draft: Draft) -> str:
    """What bars the draft whatever it shows, or ""."""
    if draft.declined:
        return "declines the query"
    if not draft.finished:
        return "was cut"
    return "came without log-probabilities" if _blind(reader, draft) else ""


def _blind(reader: Reader, draft: Draft) -> bool:
    return reader.contents.logprobs and not draft.logprobs


def _told_by(reader: Reader, question: str, draft: Draft, prior: Prior) -> Shown:
    """p_correct and spread of every model, from what the reader was trained to see and nothing else."""
    shown = draft if reader.contents.logprobs else replace(draft, logprobs=())
    return Shown(draft.model, *reader.read_one(evidence.extract(question, shown), prior.logits, prior.tokens))


def _why(bundle: Bundle, read: int, best: int, p_correct: Sequence[float]) -> str:
    """In one sentence."""
    looks = _looks(bundle, read, p_correct)
    if best == read:
        return f"{looks}, and no other model is worth more."
    return f"{looks}, {bundle.models[best]} is expected to be with p = {p_correct[best]:.2f} and answers."


def _looks(bundle: Bundle, read: int, p_correct: Sequence[float]) -> str:
    return f"The draft of {bundle.models[read]} looks right with p = {p_correct[read]:.2f}"


def _told(bundle: Bundle, estimate: ModelEstimate, p_correct: Sequence[float]) -> ModelEstimate:
    index = bundle.position.get(estimate.model)
    return estimate if index is None else replace(estimate, p_after_draft=p_correct[index])
