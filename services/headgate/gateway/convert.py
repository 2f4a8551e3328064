"""Between the wire's messages and the brain's values; nothing here decides anything."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from google.protobuf import timestamp_pb2

from headgate.adapters.config import CascadeConfig, SemanticConfig
from headgate.router import cost, features
from headgate.router.types import WHOLE, Certificate, Decision, ModelEstimate, Objective, Query, Reason
from headgate.v1 import types_pb2

DIGITS: Final = 12
"""Of a sum of shares: what is beyond is the floating point's."""
_REASONS: Final = {reason: types_pb2.Reason.Value(f"REASON_{reason.name}") for reason in Reason}


def objective(override: types_pb2.PolicyOverride) -> Objective | None:
    """What the query asks the policy to aim at; None if it leaves that to its tenant."""
    match override.WhichOneof("objective"):
        case "risk_target":
            return Objective(risk_target=override.risk_target)
        case "budget_nanousd":
            return Objective(budget_nanousd=override.budget_nanousd)
    return None


def query(
    wire: types_pb2.Query,
    wanted: Objective,
    allowed: frozenset[str] | None,
    session_model: str,
    seconds_left: float,
    cascade: CascadeConfig,
) -> Query:
    """What the brain reads of a query."""
    *earlier, last = wire.messages
    asked = text(last)
    system = [text(message) for message in earlier if message.role == types_pb2.ROLE_SYSTEM]
    history = [text(message) for message in earlier if message.role != types_pb2.ROLE_SYSTEM]
    return Query(
        text=features.ends(asked),
        objective=wanted,
        system_bytes=sum(map(_bytes, system)),
        history_turns=len(history),
        history_bytes=sum(map(_bytes, history)),
        prompt_tokens=sum(map(cost.estimate_tokens, (asked, *system, *history))),
        temperature=wire.sampling.temperature,
        top_p=wire.sampling.top_p if wire.sampling.HasField("top_p") else 1.0,
        max_tokens=wire.sampling.max_tokens,
        stops=len(wire.sampling.stop),
        pinned=wire.model,
        allowed=allowed,
        session_model=session_model,
        required_capabilities=frozenset(wire.required_capabilities),
        seconds_left=seconds_left,
        hold_back=cascade.hold_back_tokens,
        early_stop=cascade.early_stop,
        hedged=cascade.hedge,
        upgrade_later=cascade.upgrade_later,
    )


def cascade(usual: CascadeConfig, override: types_pb2.PolicyOverride, streams: bool) -> CascadeConfig:
    """What becomes of a draft: what the query asks, else what is usual for its tenant.

    Who does not stream has nothing from a short hold-back.
    """
    changes: dict[str, object] = {}
    if not streams and 0 < usual.hold_back_tokens < WHOLE:
        changes["hold_back_tokens"] = WHOLE
    for name in ("hold_back_tokens", "early_stop", "upgrade_later"):
        if override.HasField(name):
            changes[name] = getattr(override, name)
    asked = usual.model_copy(update=changes) if changes else usual
    if asked.upgrade_later and 0 < asked.hold_back_tokens < WHOLE:
        # Nothing is held back, and a whole draft tells most.
        return asked.model_copy(update={"hold_back_tokens": WHOLE})
    return asked


def text(message: types_pb2.Message) -> str:
    """The message's text parts, joined."""
    return "".join(part.text for part in message.parts)


def decision(of: Decision, request_id: str, answering: str) -> types_pb2.Decision:
    """The decision as it travels; `answering` is the model whose answer is delivered."""
    wire = types_pb2.Decision(
        request_id=request_id,
        model=answering,
        reason=_REASONS[of.reason],
        explanation=of.explanation,
        estimates=map(_estimate, of.estimates),
        expected_cost_nanousd=of.expected_cost_nanousd,
        bundle_version=of.bundle_version,
        policy_version=of.policy_version,
        # A fallback's answer is not the policy's choice, and the certificate speaks of nothing else.
        certificate=certificate(of.certificate) if of.certificate and answering == of.model else None,
        out_of_distribution=of.out_of_distribution,
        drafted_by=of.drafted_by,
    )
    setattr(wire, "lambda", of.lam)  # Python's keyword is the field's name.
    return wire


def kept(of: Decision, then: types_pb2.Decision, reference: str, same_terms: bool) -> Decision:
    """The decision on a query whose answer is kept, with what became of the draft when it was written.

    Under other terms only the reference's answer is kept: nothing is lost against it, whatever it was asked
    for.
    """
    left = replace(of, model=then.model, drafted_by=then.drafted_by, prior=None)
    if not same_terms:
        who = f"{then.model}, the reference," if then.model == reference else then.model
        return replace(left, explanation=f"{who} has answered this already.")
    after = {
        one.model: one.p_correct_after_draft
        for one in then.estimates
        if one.HasField("p_correct_after_draft")
    }
    estimates = tuple(replace(one, p_after_draft=after.get(one.model)) for one in of.estimates)
    return replace(left, explanation=then.explanation, estimates=estimates)


def certificate(of: Certificate) -> types_pb2.Certificate:
    """The certificate as it travels."""
    return types_pb2.Certificate(
        id=of.id,
        loss=of.loss,
        risk_target=of.risk_target,
        confidence=of.confidence,
        n=of.n,
        data_fingerprint=of.data_fingerprint,
        created=_instant(of.created),
        expires=_instant(of.expires) if of.expires is not None else None,
        reference_model=of.reference,
        window=of.window,
        slices=of.slices,
    )


def add_wrong_hits(to: types_pb2.Certificate, semantic: SemanticConfig) -> None:
    """Adds the semantic cache's budget of errors to the certificate's: together they are one promise.

    A request loses by its model or by a wrong hit: shares of both add up at most, and so do the deltas. The
    cache's share is one in the long run, of all questions after the same messages: so the sum is one, too,
    and names no window and no slices.
    """
    to.risk_target = min(1.0, round(to.risk_target + semantic.wrong_hits, DIGITS))
    to.confidence = max(0.0, round(to.confidence + semantic.confidence - 1, DIGITS))
    to.semantic_wrong_hits = semantic.wrong_hits
    to.window = 0
    del to.slices[:]


def _estimate(of: ModelEstimate) -> types_pb2.ModelEstimate:
    return types_pb2.ModelEstimate(
        model=of.model,
        p_correct=of.p_correct,
        spread=of.spread,
        expected_cost_nanousd=of.expected_cost_nanousd,
        excluded_because=of.excluded_because,
        p_correct_after_draft=of.p_after_draft,
    )


def _bytes(turn: str) -> int:
    return len(turn.encode())


def _instant(seconds: float) -> timestamp_pb2.Timestamp:
    return timestamp_pb2.Timestamp(seconds=int(seconds), nanos=round(seconds % 1 * 1e9) % 1_000_000_000)
