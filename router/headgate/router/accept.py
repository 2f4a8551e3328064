"""Accept or escalate: what becomes of a draft, once it is read.

The same λ decides as before the draft, with what the draft shows of every model and its cost already paid.
Who escalates gets the reference's answer, which has no regret: a look never takes a certificate away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from headgate.router import evidence
from headgate.router.bundle import Bundle
from headgate.router.errors import EstimateError
from headgate.router.reader import Reader
from headgate.router.types import Decision, Draft, ModelEstimate, Prior


class Look(Enum):
    """What a look at a draft that is still being written comes to."""

    WAIT = "wait"
    STOP = "stop"
    """It is not worth its end."""
    ACCEPT = "accept"
    """It is the answer: what is written can be delivered, and the rest as it comes."""


def read(bundle: Bundle, question: str, decision: Decision, draft: Draft) -> Decision:
    """The final decision on a draft of `decision.model`, which has a `prior`.

    `question` is the query's text. Its model is the draft's where that is accepted, else the one to go on to.
    A draft that cannot be read, or is an excuse, is not accepted.
    """
    prior = decision.prior
    assert prior is not None  # noqa: S101  (only drafts come here)
    reader, index = bundle.readers[draft.model], bundle.position[draft.model]
    try:
        why = _unreadable(reader, draft)
        p_correct, spread = _told_by(reader, question, draft, prior)
    except EstimateError as error:
        why = f"cannot be read: {error}"
    if why:
        return left_to_the_reference(bundle, decision, draft, why)
    best = bundle.policy.accept_one(index, p_correct, spread, prior.relative_cost, decision.lam)
    why = _why(bundle, draft.model, index, best, p_correct)
    return _read(bundle, decision, draft, bundle.models[best], p_correct, why)


def look(
    bundle: Bundle, question: str, decision: Decision, draft: Draft, *, due: bool, early_stop: bool
) -> tuple[Look, Decision]:
    """What a look at `draft`, which is still being written, comes to, and the decision from then on.

    `due` once the hold-back is over: then it is accepted or stopped, by what is written. Before, with
    `early_stop`, it is stopped where it is not worth its end. That never happens under a certificate of net
    quality: a stop cannot add regret, but it can take a win away. Who cannot look waits for the end.
    """
    reader, prior = bundle.early_readers.get(draft.model), decision.prior
    regret = decision.certificate is not None and decision.certificate.loss == "regret"
    if reader is None or prior is None or _blind(reader, draft) or not (due or (early_stop and regret)):
        return Look.WAIT, decision
    try:
        p_correct, spread = _told_by(reader, question, draft, prior)
    except EstimateError:
        return Look.WAIT, decision
    index = bundle.position[draft.model]
    seen = (index, p_correct, spread, prior.relative_cost, decision.lam)
    if not due:
        unwritten = max(prior.tokens - draft.tokens, 1.0) / max(prior.tokens, 1.0)
        stops = bundle.policy.stops_one(*seen, reader.contents.left or 0.0, unwritten)
        return (Look.STOP if stops else Look.WAIT), decision
    if bundle.policy.accept_one(*seen) != index:
        return Look.STOP, decision
    begun = f"The first {draft.tokens} tokens of {draft.model}'s draft look right"
    why = f"{begun} with p = {p_correct[index]:.2f}, and no other model is worth more."
    return Look.ACCEPT, _read(bundle, decision, draft, draft.model, p_correct, why)


def _read(
    bundle: Bundle, decision: Decision, draft: Draft, model: str, p_correct: Sequence[float], why: str
) -> Decision:
    """The decision for `model`, after a reading of `draft`."""
    return replace(
        decision,
        prior=None,
        drafted_by=draft.model,
        model=model,
        explanation=why,
        estimates=tuple(_told(bundle, one, p_correct) for one in decision.estimates),
    )


def gain(decision: Decision, draft: Draft) -> float:
    """How much better than `draft` the answer of the decision's model is expected to be, in [-1, 1]."""
    found = {
        one.model: one.p_correct if one.p_after_draft is None else one.p_after_draft
        for one in decision.estimates
    }
    read = any(one.p_after_draft is not None for one in decision.estimates)
    # Without a reading it was cut or is an excuse: worth nothing.
    return (found[decision.model] or 0.0) - ((found[draft.model] or 0.0) if read else 0.0)


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


def _told_by(
    reader: Reader, question: str, draft: Draft, prior: Prior
) -> tuple[Sequence[float], Sequence[float]]:
    """p_correct and spread of every model, from what the reader was trained to see and nothing else."""
    shown = draft if reader.contents.logprobs else replace(draft, logprobs=())
    return reader.read_one(evidence.extract(question, shown), prior.logits, prior.tokens)


def _why(bundle: Bundle, drafting: str, index: int, best: int, p_correct: Sequence[float]) -> str:
    """In one sentence."""
    looks = f"The draft of {drafting} looks right with p = {p_correct[index]:.2f}"
    if best == index:
        return f"{looks}, and no other model is worth more."
    return f"{looks}, {bundle.models[best]} is expected to be with p = {p_correct[best]:.2f} and answers."


def _told(bundle: Bundle, estimate: ModelEstimate, p_correct: Sequence[float]) -> ModelEstimate:
    index = bundle.position.get(estimate.model)
    return estimate if index is None else replace(estimate, p_after_draft=p_correct[index])
