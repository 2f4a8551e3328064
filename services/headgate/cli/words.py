"""Decisions in words, for people, and as JSON, for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from typing import Any

from headgate.client import Certificate, Decision, usd
from headgate.router.types import WHOLE


def dollars(nanousd: int) -> str:
    """`$0.0000125`; never in powers of ten."""
    return f"${usd(nanousd):f}"


def rounded(nanousd: int) -> str:
    """Dollars to three digits, without the sign and never in powers of ten: `0.00471`."""
    return f"{Decimal(f'{usd(nanousd):.3g}'):f}"


def percent(share: float) -> str:
    """`5 %`, `0.5 %`."""
    return f"{100 * share:.3g} %"


def held_back(tokens: int) -> str:
    """What a policy of this hold-back does: `whole drafts read`."""
    if tokens == 0:
        return "no draft read"
    return "whole drafts read" if tokens >= WHOLE else f"drafts read after {tokens:,} tokens"


def promise(
    loss: str, confidence: float, risk_target: float, window: int, reference: str, slices: Sequence[str] = ()
) -> str:
    """What a certificate says, without the dot."""
    requests, share = f"{window:,} requests" if window else "requests", percent(risk_target)
    if slices:
        requests = f"{requests} of each kind ({len(slices):,} in all)"
    sure, against = f"With {percent(confidence)} confidence", f"always using {reference}"
    if loss == "net":
        return f"{sure}, the mean quality of {requests} is at most {share} below {against}"
    return f"{sure}, at most {share} of {requests} lose quality against {against}"


def certificate(certificate: Certificate | None) -> str:
    """What is promised, in one sentence."""
    if certificate is None:
        return "No certificate covers this."
    made = f", made {certificate.created:%Y-%m-%d}" if certificate.created else ""
    expires = f", valid until {certificate.expires:%Y-%m-%d}" if certificate.expires else ""
    said = promise(
        certificate.loss,
        certificate.confidence,
        certificate.risk_target,
        certificate.window,
        certificate.reference_model,
        certificate.slices,
    )
    return f"{said} (certificate {certificate.id}, {certificate.n:,} labelled queries{made}{expires})."


def first(decision: Decision) -> str:
    """Two lines before there is an answer: who is asked first and why, and what is promised of it."""
    parts = [f"{decision.model} first", decision.reason.replace("_", " "), *_expected(decision)]
    if decision.reason == "policy":
        parts.append(f"λ {decision.lam:.3g}")
    proof = decision.certificate
    if proof is None:
        return f"{' · '.join(parts)}\n{decision.explanation}".rstrip()
    said = promise(
        proof.loss, proof.confidence, proof.risk_target, proof.window, proof.reference_model, proof.slices
    )
    return f"{' · '.join(parts)}\n{said}."


def _expected(decision: Decision) -> list[str]:
    """p_correct of the model, where it is known."""
    chosen = next((one for one in decision.estimates if one.model == decision.model), None)
    if chosen is None or (chosen.p_correct is None and chosen.p_correct_after_draft is None):
        return []
    if chosen.p_correct_after_draft is not None:
        return [f"p_correct {chosen.p_correct_after_draft:.2f} after the draft"]
    return [f"p_correct {chosen.p_correct:.2f} ± {chosen.spread or 0:.2f}"]


def _wasted(decision: Decision) -> str:
    """What was written beside the answer; nothing of what was written another time."""
    tokens = sum(one.completion_tokens for one in decision.attempts if one.model != decision.model)
    return f" ({tokens:,} tokens wasted)" if tokens else ""


def summary(decision: Decision) -> str:
    """One line about an answer: model, reason, p_correct, cost, times."""
    parts = [decision.model, decision.reason.replace("_", " "), *_expected(decision)]
    if decision.escalated:
        parts.append(f"after a draft of {decision.drafted_by}{_wasted(decision)}")
    parts.append(dollars(decision.cost_nanousd))
    if decision.cache_status == "hit":
        parts.append("from the cache")
    if decision.semantic_hit:
        like = decision.semantic_hit
        bound = f"{like.similarity:.2f} alike, wrong at most {percent(like.wrong_hits)}"
        parts.append(f"kept for a question that means the same ({bound})")
    if decision.attempts:
        parts.append(f"{1000 * sum(one.duration_s for one in decision.attempts):.0f} ms in models")
    parts.append(f"{1000 * decision.overhead_s:.1f} ms in the gateway")
    if decision.degraded:
        parts.append(f"degraded: {', '.join(decision.degraded)}")
    return " · ".join(parts)


def as_json(decision: Decision) -> dict[str, Any]:
    """The decision as JSON data; money as decimal dollars."""
    data = {key: _plain(value) for key, value in asdict(decision).items()}
    data["lambda"] = data.pop("lam")
    data["cost_usd"] = float(usd(decision.cost_nanousd))
    data["expected_cost_usd"] = float(usd(decision.expected_cost_nanousd))
    return data


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.isoformat() if isinstance(value, datetime) else value
