"""What a request's spans tell: the decision and its price, each call, and when another model went on.

A decision or a look-up that fails has no span: how it failed, its request's tells.
"""

from __future__ import annotations

import grpc

from headgate.adapters import trace_words as words
from headgate.adapters import traces
from headgate.adapters.traces import NONE, Span, Value
from headgate.gateway.answer_cache import Found
from headgate.gateway.journey import Journey
from headgate.gateway.workers import Worker
from headgate.v1 import types_pb2


def decided(span: Span, journey: Journey) -> None:
    """Ends the span of a decision, with what was decided."""
    decision = journey.decision
    if span.recording and decision is not None:
        span.set({words.REASON: decision.reason.name, words.MODEL: decision.model,
                  words.DRAFTED_BY: decision.drafted_by})  # fmt: skip
        span.end()


def looked_up(span: Span, found: Found) -> None:
    """Ends the span of a look-up, with what was kept."""
    if span.recording:
        span.set({words.CACHE: _cache(found.status), words.CACHE_SOURCE: found.source})
        span.end()


def begun(journey: Journey, worker: Worker) -> Span:
    """The span of a call that begins now; it ends with its attempt."""
    if traces.tracer is None:
        return NONE
    span = traces.begun("client", words.CHAT, worker.name)
    if span.recording:
        journey.hops[worker.name] = span
        # What is begun beside a draft is none.
        chosen = journey.decision is not None and journey.decision.model == worker.name
        told: dict[str, Value] = {words.OPERATION: words.CHAT, words.REQUEST_MODEL: worker.name}
        told[words.DRAFT] = journey.drafting and chosen
        span.set(told | ({words.VERSION: worker.model.version} if worker.model is not None else {}))
    return span


def attempted(journey: Journey, attempt: types_pb2.Attempt, code: grpc.StatusCode) -> None:
    """The call has ended."""
    if journey.hops and (span := journey.hops.pop(attempt.model, None)) is not None:
        span.set({**_usage(attempt.usage), words.COST: attempt.cost_nanousd, words.RPC_CODE: code.name})
        span.end(code.name)


def switched(journey: Journey, model: str, why: str, *, escalation: bool) -> None:
    """Another model goes on."""
    if journey.span.recording:
        told = {words.FROM: journey.model, words.TO: model, words.WHY: why}
        journey.span.event(words.ESCALATION if escalation else words.FALLBACK, told)


def ended(journey: Journey, decision: types_pb2.Decision, finish: str) -> None:
    """The request's own span is told what came of it."""
    if not journey.span.recording:
        return
    told: dict[str, Value] = {words.OPERATION: words.CHAT, words.REQUEST_ID: decision.request_id}
    if journey.decision is not None:
        # Only now a pin is known to be a name of the pool's, and no other text.
        told |= _of(decision) | _usage(journey.usage)
        told[words.REQUEST_MODEL] = journey.wire.model or journey.decision.model
        told[words.RESPONSE_MODEL] = decision.model
        told[words.FINISH_REASONS] = [finish.removeprefix("FINISH_REASON_").lower()]
    journey.span.set(told)


def _of(decision: types_pb2.Decision) -> dict[str, Value]:
    return {
        words.REASON: types_pb2.Reason.Name(decision.reason).removeprefix("REASON_"),
        words.MODEL: decision.model,
        words.DRAFTED_BY: decision.drafted_by,
        words.LAMBDA: getattr(decision, "lambda"),
        words.BUNDLE: decision.bundle_version,
        words.POLICY: decision.policy_version,
        words.CERTIFICATE: decision.certificate.id,
        words.COST: decision.cost_nanousd,
        words.CACHE: _cache(decision.cache_status),
        words.DEGRADED: [types_pb2.Degradation.Name(one).removeprefix("DEGRADATION_")
                         for one in decision.degraded],
        words.OVERHEAD: decision.overhead.ToNanoseconds() / 1e9,
    }  # fmt: skip


def _usage(usage: types_pb2.Usage) -> dict[str, Value]:
    return {words.INPUT_TOKENS: usage.prompt_tokens, words.OUTPUT_TOKENS: usage.completion_tokens}


def _cache(status: types_pb2.CacheStatus.ValueType) -> str:
    return types_pb2.CacheStatus.Name(status).removeprefix("CACHE_STATUS_")
