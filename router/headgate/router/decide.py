"""One decision, from a query to a model: read this file first.

    1. A pinned model is taken as it is.
    2. Only models that may answer are eligible: allowed, capable, with room and time. A single one needs no
       policy.
    3. The bundle estimates for each model how likely its answer is good, how sure that is, and what it costs.
    4. The objective names a certificate and its λ; the query must lie inside what was calibrated.
    5. The policy takes the model of highest value. Where it may not have it, the reference answers
       instead, which never adds regret.
    6. Where the bundle reads that model's drafts, its answer is one: `accept` decides what becomes of it.
       Where an answer can be upgraded later, the cheapest such model gives one at once.

Whenever a step cannot be taken, the reference model answers, the decision says why and no certificate
covers it.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from headgate.router import features, policy
from headgate.router.bundle import Bundle, Estimate
from headgate.router.cost import estimate_tokens, expected_cost
from headgate.router.errors import ContextError, EstimateError, PoolError
from headgate.router.types import (
    Certificate,
    Decision,
    Model,
    ModelEstimate,
    Pool,
    Price,
    Prior,
    Query,
    Reason,
)


class Decide(Protocol):
    """What makes a decision."""

    def __call__(self, bundle: Bundle | None, query: Query, pool: Pool, /, *, now: float) -> Decision:
        """As `decide` does."""
        ...


_NOT_ALLOWED = "not allowed for this tenant"
_TOO_LONG = "longer than the model's context"
_TOO_SLOW = "likely to miss the deadline"


@dataclass(slots=True)
class _Case:
    """What every step reads: the demand, the models that may answer, and the estimate if there is one."""

    query: Query
    pool: Pool
    prompt_tokens: int
    excluded: Mapping[str, str]
    eligible: Sequence[str]
    bundle: Bundle | None
    estimate: Estimate | None = None

    def dearest(self, names: Iterable[str]) -> str:
        """The model of highest expected cost; the reference wins a tie."""
        cost = {model.name: _expected_cost(self, model) for model in self.pool.models}
        return max(names, key=lambda name: (cost[name], name == self.pool.reference))


def decide(bundle: Bundle | None, query: Query, pool: Pool, *, now: float) -> Decision:
    """Which model of the pool answers `query`, and why; `now` in POSIX seconds.

    PoolError if the pinned model is unknown or no model is eligible, ContextError if only for the prompt's
    length; ObjectiveError if certificates are valid but none meets the risk target.
    """
    excluded = exclusions(query, pool, bundle)
    eligible = [model.name for model in pool.models if model.name not in excluded]
    case = _Case(query, pool, _prompt_tokens(query), excluded, eligible, bundle)
    if query.pinned:
        return _pinned(case)
    if not case.eligible:
        raise _nobody(case)
    if bundle is None:
        return _only(case) or _safe(case, Reason.NO_CERTIFICATE, "no bundle is loaded")
    try:
        batch = features.pack([features.extract(query)])
        case.estimate = bundle.estimate_one(batch, case.prompt_tokens)
    except EstimateError as error:
        return _only(case) or _safe(case, Reason.BRAIN_FAILED, str(error))
    return _only(case) or _routed(case, bundle, now)


def _routed(case: _Case, bundle: Bundle, now: float) -> Decision:
    """The policy's choice, where a certificate covers it."""
    valid = [c for c in bundle.certificates if c.valid_at(now) and c.reference == case.pool.reference]
    if not valid:
        return _safe(case, Reason.NO_CERTIFICATE, "no certificate of the bundle is valid for this pool now")
    stranger = _other_version(valid[0], case.pool)
    if stranger:
        return _safe(case, Reason.NO_CERTIFICATE, f"{stranger} is not the version the certificate speaks of")
    prices = _prices(case.pool, bundle)
    lam, certificate = policy.resolve(
        bundle.policy, case.query.objective, valid, prices, place(case.query.text)
    )
    outside = _outside(case, certificate)
    if outside:
        return _safe(case, Reason.OUTSIDE_CALIBRATION, outside)
    return _chosen(case, bundle, lam, certificate)


def place(text: str) -> float:
    """Of a query among all, in [0, 1): the same whenever it is asked."""
    return zlib.crc32(text.encode("utf-8", "replace")) / 2**32


def _prices(pool: Pool, bundle: Bundle) -> list[Price]:
    """Of the bundle's models: today's where the pool has the model."""
    today = {model.name: model.price for model in pool.models}
    return [
        today.get(name, cost.price) for name, cost in zip(bundle.models, bundle.costs.models, strict=True)
    ]


def _chosen(case: _Case, bundle: Bundle, lam: float, certificate: Certificate) -> Decision:
    e = case.estimate
    assert e is not None  # noqa: S101  (only routed queries come here)
    index = bundle.policy.choose_one(e.p_correct, e.spread, e.relative_cost, lam)
    name = bundle.models[index]
    if case.query.upgrade_later:
        return _at_once(case, bundle, name, lam)
    if name not in case.eligible:
        return _instead(case, name, lam, certificate)
    kept = _session_model(case, name)
    if name in bundle.readers and kept == name:
        return _to_be_read(case, bundle, index, lam, certificate)
    if kept != name:
        covered = certificate if kept == case.pool.reference else None
        return _decision(case, kept, Reason.SESSION, f"the session stays on {kept}", lam, covered)
    sure = f"{name} is expected to be right with p = {e.p_correct[index]:.2f}"
    return _decision(
        case, name, Reason.POLICY, f"{sure}; at λ = {lam:.3g} no model is worth more", lam, certificate
    )


def _to_be_read(case: _Case, bundle: Bundle, index: int, lam: float, certificate: Certificate) -> Decision:
    """A draft of the policy's choice, if it can be read, and the reference is there to escalate to."""
    e, name, reference = case.estimate, bundle.models[index], case.pool.reference
    assert e is not None  # noqa: S101  (only routed queries come here)
    if reference not in case.eligible:
        why = f"{reference} may not answer, should a draft of {name} be in doubt"
        return _safe(case, Reason.OUTSIDE_CALIBRATION, why)
    if bundle.readers[name].contents.logprobs and not case.pool[name].logprobs:
        return _safe(case, Reason.OUTSIDE_CALIBRATION, f"the worker of {name} tells no log-probabilities")
    if _take(case, name, reference) > case.query.seconds_left:
        why = f"a draft of {name} and an escalation are likely to miss the deadline, so {reference} answers"
        return _decision(case, reference, Reason.POLICY, why, lam, certificate)
    further = _further(case, bundle, name)
    prior = Prior(tuple(e.logits), tuple(e.relative_cost), e.completion_tokens[index], further)
    sure = f"{name} is expected to be right with p = {e.p_correct[index]:.2f}"
    why = f"{sure}; at λ = {lam:.3g} its draft is worth a look"
    return replace(_decision(case, name, Reason.POLICY, why, lam, certificate), prior=prior)


def _at_once(case: _Case, bundle: Bundle, wanted: str, lam: float) -> Decision:
    """The cheapest model, where possible one whose draft can be read; `wanted` is the policy's choice.

    No certificate covers it: it speaks of answers of which the doubtful ones are not delivered.
    """
    e, known = case.estimate, [name for name in case.eligible if name in bundle.position]
    assert e is not None  # noqa: S101  (only routed queries come here)
    doubted = known if case.pool.reference in known else []
    readable = [name for name in doubted if _can_be_read(case, bundle, name)]
    if not known:
        return _safe(case, Reason.OUTSIDE_CALIBRATION, "the bundle knows no model that may answer")
    name = min(readable or known, key=lambda one: e.relative_cost[bundle.position[one]])
    kept = _session_model(case, name)
    if kept != name:
        return _decision(case, kept, Reason.SESSION, f"the session stays on {kept}", lam)
    sure = f"{name} is expected to be right with p = {e.p_correct[bundle.position[name]]:.2f}"
    decision = _decision(case, name, Reason.POLICY, f"{sure} and answers at once", lam)
    if readable:
        tokens = e.completion_tokens[bundle.position[name]]
        return replace(decision, prior=Prior(tuple(e.logits), tuple(e.relative_cost), tokens))
    better = wanted if wanted in case.eligible else case.pool.reference
    return replace(decision, upgrade=better if better in case.eligible and better != name else "")


def _can_be_read(case: _Case, bundle: Bundle, name: str) -> bool:
    reader = bundle.readers.get(name)
    return reader is not None and (case.pool[name].logprobs or not reader.contents.logprobs)


def _further(case: _Case, bundle: Bundle, drafting: str) -> dict[str, float]:
    """Models whose draft may be read after this one, with the tokens expected of it."""
    e, pool = case.estimate, case.pool
    assert e is not None  # noqa: S101  (only routed queries come here)
    return {
        name: e.completion_tokens[bundle.position[name]]
        for name in bundle.readers
        if name != drafting
        and name in case.eligible
        and _can_be_read(case, bundle, name)
        and _take(case, drafting, name, pool.reference) <= case.query.seconds_left
    }


def _take(case: _Case, *names: str) -> float:
    """Seconds that drafts and then the last of these models are likely to take; 0 for what nothing is known
    of. A hedge runs beside the drafts, which come one after the other."""
    paces = (case.pool[name].pace for name in names)
    *drafts, last = (pace.expected_seconds(case.query.max_tokens) if pace else 0.0 for pace in paces)
    return max(sum(drafts), last) if case.query.hedged else sum(drafts) + last


def _instead(case: _Case, wanted: str, lam: float, certificate: Certificate) -> Decision:
    """The policy's choice may not answer: the reference does, which has no regret."""
    why = f"the policy's choice {wanted} may not answer"
    reference = case.pool.reference
    if reference not in case.eligible:
        return _safe(case, Reason.OUTSIDE_CALIBRATION, why)
    return _decision(case, reference, Reason.POLICY, f"{why}, so {reference} does", lam, certificate)


def _pinned(case: _Case) -> Decision:
    name = case.query.pinned
    if name not in case.pool:
        raise PoolError(
            f"the pool has no model {name!r}; pin one of {', '.join(m.name for m in case.pool.models)}"
        )
    if name in case.excluded:
        why = case.excluded[name]
        kind = ContextError if why == _TOO_LONG else PoolError
        raise kind(f"the pinned model {name!r} may not answer this query: {why}")
    return _decision(case, name, Reason.PINNED, f"the caller pinned {name}")


def _nobody(case: _Case) -> PoolError:
    """Why no model is eligible. A shorter query helps wherever the length is what bars an allowed model."""
    reasons = sorted(set(case.excluded.values()))
    kind = ContextError if _TOO_LONG in reasons else PoolError
    return kind("no model of the pool may answer this query: " + "; ".join(reasons))


def _only(case: _Case) -> Decision | None:
    if len(case.eligible) > 1:
        return None
    name = case.eligible[0]
    return _decision(case, name, Reason.ONLY_ELIGIBLE, f"only {name} may answer this query")


def _safe(case: _Case, reason: Reason, why: str) -> Decision:
    """The reference model, or the dearest that may answer in its place; no certificate covers it."""
    reference = case.pool.reference
    name = reference if reference in case.eligible else case.dearest(case.eligible)
    return _decision(case, name, reason, f"{why}, so {name} answers")


def exclusions(query: Query, pool: Pool, bundle: Bundle | None) -> dict[str, str]:
    """Models that may not answer, each with the reason.

    A model must be allowed and have the capabilities that are asked for, then room for the query, then time.
    """
    barred = {model.name: why for model in pool.models if (why := _unfit(query, model))}
    barred |= dict.fromkeys(_too_long(query, _left(pool, barred), bundle), _TOO_LONG)
    return barred | dict.fromkeys(_too_slow(query, _left(pool, barred)), _TOO_SLOW)


def _left(pool: Pool, barred: Mapping[str, str]) -> list[Model]:
    return [model for model in pool.models if model.name not in barred]


def _unfit(query: Query, model: Model) -> str:
    """Why this model may not answer whatever the query's text is, or ""."""
    if query.allowed is not None and model.name not in query.allowed:
        return _NOT_ALLOWED
    missing = sorted(query.required_capabilities - model.capabilities)
    return f"without the capability {', '.join(missing)}" if missing else ""


def _too_long(query: Query, models: Sequence[Model], bundle: Bundle | None) -> list[str]:
    """Models without room for the prompt and for `max_tokens`.

    Where none has as much, and for a pinned one, room for the prompt is enough: an answer that fills the
    context ends there.
    """
    room = {
        model.name: model.context_tokens - _own_prompt_tokens(query, model, bundle)
        for model in models
        if model.context_tokens
    }
    full = [name for name, left in room.items() if left < max(1, query.max_tokens)]
    if query.pinned or len(full) == len(models):
        full = [name for name, left in room.items() if left < 1]
    return full


def _too_slow(query: Query, models: Sequence[Model]) -> list[str]:
    """Models that are likelier than not to miss the deadline.

    Where all are, the quickest has the best chance and stays; a pinned one is the caller's own risk. Where
    the answer can be upgraded later, the cheapest answers now, and the others have time.
    """
    if query.pinned or query.upgrade_later or query.seconds_left == math.inf:
        return []
    takes = {m.name: m.pace.expected_seconds(query.max_tokens) if m.pace else 0.0 for m in models}
    quickest = min(takes, key=takes.__getitem__, default="")
    return [name for name, taken in takes.items() if taken > query.seconds_left and name != quickest]


def _own_prompt_tokens(query: Query, model: Model, bundle: Bundle | None) -> float:
    """Of the prompt, in the model's own count where the bundle knows it."""
    prompt = _prompt_tokens(query)
    if bundle is None or model.name not in bundle.position:
        return prompt
    return bundle.costs.models[bundle.position[model.name]].prompt_tokens(prompt)


def _prompt_tokens(query: Query) -> int:
    return query.prompt_tokens or estimate_tokens(query.text)


def _other_version(certificate: Certificate, pool: Pool) -> str:
    """A model of the pool that has another version than the certificate names, or "".

    A bare name fits any version.
    """
    for entry in certificate.models:
        name, _, version = entry.partition("@")
        if version and name in pool and pool[name].version != version:
            return name
    return ""


def _outside(case: _Case, certificate: Certificate) -> str:
    """Which calibrated setting the query leaves, or ""."""
    query, settings = case.query, certificate.settings
    if not query.text_only:
        return "only text was calibrated"
    if query.stops:
        return "stop strings were not calibrated"
    asked = {
        "max_temperature": query.temperature,
        "max_prompt_tokens": case.prompt_tokens,
        "max_system_bytes": query.system_bytes,
        "max_history_turns": query.history_turns,
        "max_out_of_distribution": case.estimate.out_of_distribution if case.estimate else 0.0,
    }
    for name, value in asked.items():
        if value > settings.get(name, float("inf")):
            return f"{name.removeprefix('max_').replace('_', ' ')} is above the calibrated {settings[name]:g}"
    if 0 < query.max_tokens < settings.get("min_max_tokens", 0):
        return f"max tokens is below the calibrated {settings['min_max_tokens']:g}"
    return ""


def _session_model(case: _Case, name: str) -> str:
    """The session's model unless `name` is an upgrade, that is dearer."""
    session = case.query.session_model
    return case.dearest((session, name)) if session in case.eligible else name


def _model_estimate(case: _Case, model: Model) -> ModelEstimate:
    name, e = model.name, case.estimate
    excluded, money = case.excluded.get(name, ""), _expected_cost(case, model)
    if case.bundle is None or name not in case.bundle.position:
        why = excluded or ("the bundle does not know it" if case.bundle else "")
        return ModelEstimate(name, money, excluded_because=why)
    if e is None:
        return ModelEstimate(name, money, excluded_because=excluded)
    index = case.bundle.position[name]
    return ModelEstimate(name, money, e.p_correct[index], e.spread[index], excluded)


def _expected_cost(case: _Case, model: Model) -> int:
    if case.bundle is None or model.name not in case.bundle.position:
        return expected_cost(None, model.price, case.prompt_tokens, None)
    index = case.bundle.position[model.name]
    answer = case.estimate.completion_tokens[index] if case.estimate else None
    return expected_cost(case.bundle.costs.models[index], model.price, case.prompt_tokens, answer)


def _decision(
    case: _Case, name: str, reason: Reason, why: str, lam: float = 0.0, certificate: Certificate | None = None
) -> Decision:
    bundle, e = case.bundle, case.estimate
    return Decision(
        model=name,
        reason=reason,
        explanation=why[:1].upper() + why[1:] + ".",
        estimates=tuple([_model_estimate(case, model) for model in case.pool.models]),
        lam=lam,
        bundle_version=bundle.version if bundle else "",
        policy_version=bundle.policy_version if bundle else "",
        certificate=certificate,
        out_of_distribution=e.out_of_distribution if e is not None else None,
    )
