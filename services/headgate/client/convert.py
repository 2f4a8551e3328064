"""The only place of the client that knows both the wire and the client's own types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from headgate.client.types import (
    Answer,
    Attempt,
    Certificate,
    Conversation,
    Decision,
    Delta,
    EscalationOffered,
    Message,
    ModelEstimate,
    ModelSwitched,
    Options,
    OutcomeSource,
    SemanticHit,
    Speculation,
    Usage,
)
from headgate.v1 import router_pb2, types_pb2

_ROLES = {
    "system": types_pb2.ROLE_SYSTEM,
    "user": types_pb2.ROLE_USER,
    "assistant": types_pb2.ROLE_ASSISTANT,
}
_SOURCES = {
    "user": router_pb2.OUTCOME_SOURCE_USER,
    "judge": router_pb2.OUTCOME_SOURCE_JUDGE,
    "check": router_pb2.OUTCOME_SOURCE_CHECK,
}
_SAMPLING = ("temperature", "top_p", "max_tokens", "stop", "seed")
_PLAIN = ("model", "session", "request_id", "metadata", "required_capabilities")
_CACHE = {"cache_tags": "tags", "cache_bypass": "bypass", "exact_only": "exact_only"}
_LISTS = ("stop", "required_capabilities", "cache_tags")
_OBJECTIVES = ("risk_target", "budget_nanousd")
_POLICY = (*_OBJECTIVES, "hold_back_tokens", "early_stop", "upgrade_later")


def to_query(conversation: Conversation, options: Options) -> types_pb2.Query:
    """The query on the wire; ValueError or TypeError for what cannot be written there at all."""
    given: dict[str, Any] = dict(options)
    unknown = sorted(set(given) - {*_SAMPLING, *_PLAIN, *_POLICY, *_CACHE})
    if unknown:
        raise TypeError(f"no such option: {unknown[0]}")
    for name in _LISTS:
        # A string is a sequence of strings, too: each of its letters would become one.
        if isinstance(given.get(name), str):
            raise TypeError(f"{name} is a sequence of strings; did you mean [{given[name]!r}]?")
    policy = {name: given[name] for name in _POLICY if name in given}
    if len(policy.keys() & set(_OBJECTIVES)) > 1:
        raise ValueError("give risk_target or budget_nanousd, not both")
    cache = {field: given[name] for name, field in _CACHE.items() if name in given}
    return types_pb2.Query(
        messages=[_to_message(turn) for turn in _turns(conversation)],
        sampling=types_pb2.Sampling(**{name: given[name] for name in _SAMPLING if name in given}),
        cache=types_pb2.CacheControl(**cache) if cache else None,
        policy_override=types_pb2.PolicyOverride(**policy) if policy else None,
        **{name: given[name] for name in _PLAIN if name in given},
    )


def to_outcome(
    request_id: str, model: str, quality: float, source: OutcomeSource
) -> router_pb2.RecordOutcomeRequest:
    """An outcome on the wire; ValueError for a source that there is not."""
    if source not in _SOURCES:
        raise ValueError(f"a source is one of {', '.join(_SOURCES)}")
    return router_pb2.RecordOutcomeRequest(
        request_id=request_id, model=model, quality=quality, source=_SOURCES[source]
    )


def _turns(conversation: Conversation) -> list[Message]:
    if isinstance(conversation, str):
        return [Message("user", conversation)]
    return [
        turn if isinstance(turn, Message) else Message(turn["role"], turn["content"])  # type: ignore[arg-type]
        for turn in conversation
    ]


def _to_message(turn: Message) -> types_pb2.Message:
    if turn.role not in _ROLES:
        raise ValueError(f"a role is one of {', '.join(_ROLES)}")
    return types_pb2.Message(role=_ROLES[turn.role], parts=[types_pb2.Part(text=turn.text)])


def from_response(response: router_pb2.GenerateResponse) -> Answer:
    """A whole answer."""
    return Answer(
        text="".join(part.text for part in response.message.parts),
        finish_reason=word(types_pb2.FinishReason, response.finish_reason),
        usage=_from_usage(response.usage),
        decision=from_decision(response.decision),
        escalation_offered=from_offered(response.escalation_offered)
        if response.HasField("escalation_offered")
        else None,
    )


def from_finished(
    text: str, finished: router_pb2.Finished, offered: EscalationOffered | None = None
) -> Answer:
    """The answer whose `text` arrived in pieces."""
    return Answer(
        text=text,
        finish_reason=word(types_pb2.FinishReason, finished.finish_reason),
        usage=_from_usage(finished.usage),
        decision=from_decision(finished.decision),
        escalation_offered=offered,
    )


def from_delta(delta: router_pb2.Delta) -> Delta:
    """A piece of text."""
    return Delta(delta.text, tuple(delta.logprobs))


def from_offered(offered: router_pb2.EscalationOffered) -> EscalationOffered:
    """A doubt."""
    return EscalationOffered(offered.model, offered.gain, offered.job_id)


def from_switched(switched: router_pb2.ModelSwitched) -> ModelSwitched:
    """Another model."""
    return ModelSwitched(
        from_model=switched.from_model,
        to_model=switched.to_model,
        escalation=switched.escalation,
        explanation=switched.explanation,
        draft=tuple(map(from_delta, switched.draft)),
    )


def from_decision(decision: types_pb2.Decision) -> Decision:
    """A decision in the client's words."""
    return Decision(
        request_id=decision.request_id,
        model=decision.model,
        reason=word(types_pb2.Reason, decision.reason),
        explanation=decision.explanation,
        estimates=tuple(map(_from_estimate, decision.estimates)),
        lam=getattr(decision, "lambda"),
        expected_cost_nanousd=decision.expected_cost_nanousd,
        cost_nanousd=decision.cost_nanousd,
        bundle_version=decision.bundle_version,
        policy_version=decision.policy_version,
        certificate=_from_certificate(decision.certificate) if decision.HasField("certificate") else None,
        cache_status=word(types_pb2.CacheStatus, decision.cache_status),
        attempts=tuple(map(_from_attempt, decision.attempts)),
        degraded=tuple(word(types_pb2.Degradation, part) for part in decision.degraded),
        overhead_s=decision.overhead.ToTimedelta().total_seconds(),
        out_of_distribution=decision.out_of_distribution
        if decision.HasField("out_of_distribution")
        else None,
        drafted_by=decision.drafted_by,
        semantic_hit=_from_semantic_hit(decision.semantic_hit) if decision.HasField("semantic_hit") else None,
    )


def _from_usage(usage: types_pb2.Usage) -> Usage:
    return Usage(usage.prompt_tokens, usage.completion_tokens, usage.estimated)


def _from_estimate(estimate: types_pb2.ModelEstimate) -> ModelEstimate:
    return ModelEstimate(
        model=estimate.model,
        expected_cost_nanousd=estimate.expected_cost_nanousd,
        p_correct=estimate.p_correct if estimate.HasField("p_correct") else None,
        spread=estimate.spread if estimate.HasField("spread") else None,
        excluded_because=estimate.excluded_because,
        p_correct_after_draft=(
            estimate.p_correct_after_draft if estimate.HasField("p_correct_after_draft") else None
        ),
    )


def _from_attempt(attempt: types_pb2.Attempt) -> Attempt:
    return Attempt(
        model=attempt.model,
        code=attempt.code,
        cost_nanousd=attempt.cost_nanousd,
        duration_s=attempt.duration.ToTimedelta().total_seconds(),
        speculation=_from_speculation(attempt.speculation) if attempt.HasField("speculation") else None,
        completion_tokens=attempt.usage.completion_tokens,
    )


def _from_semantic_hit(hit: types_pb2.SemanticHit) -> SemanticHit:
    return SemanticHit(hit.similarity, hit.wrong_hits, hit.confidence)


def _from_speculation(speculation: types_pb2.Speculation) -> Speculation:
    return Speculation(
        drafted_tokens=speculation.drafted_tokens,
        accepted_tokens=speculation.accepted_tokens,
        target_forwards=speculation.target_forwards,
    )


def _from_certificate(certificate: types_pb2.Certificate) -> Certificate:
    return Certificate(
        id=certificate.id,
        loss=certificate.loss,
        risk_target=certificate.risk_target,
        confidence=certificate.confidence,
        n=certificate.n,
        data_fingerprint=certificate.data_fingerprint,
        created=instant(certificate.created) if certificate.HasField("created") else None,
        expires=instant(certificate.expires) if certificate.HasField("expires") else None,
        reference_model=certificate.reference_model,
        window=certificate.window,
        slices=tuple(certificate.slices),
        semantic_wrong_hits=certificate.semantic_wrong_hits,
    )


def instant(timestamp: Timestamp) -> datetime:
    """In UTC."""
    return timestamp.ToDatetime(tzinfo=UTC)


def word(enum: Any, number: int) -> str:
    """`REASON_POLICY` → `policy`; empty for "not given"; the number where this release knows no name."""
    if number == 0:
        return ""
    values = enum.DESCRIPTOR.values_by_number
    if number not in values:
        return str(number)
    prefix = enum.DESCRIPTOR.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return str(values[number].name.removeprefix(prefix).lower())
