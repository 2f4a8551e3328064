"""An evaluation as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

from headgate.router.bundle import Bundle
from headgate.router.offline.curve import Interval
from headgate.router.offline.evaluate import Evaluation, Row

_ABOUT_COST = """\
Brackets are 95 % bootstrap intervals over queries. Costs are relative to always using the reference; a random
mix has the same cost as the line it stands in. Regret: another model than the reference answered, and the
reference's answer would have been better."""
_ABOUT_HOLDS = """\
λ is certified on queries drawn anew from these, with replacement, as many as the bundle rests on. A seed
holds if the regret of that λ over a fresh window of queries, as long as the certificate names, is within the
level, or if nothing was certified and the reference answers."""


def page(title: str, bundle: Bundle, found: Evaluation, seed: int, data: str) -> str:
    """The whole page; `data` says in a sentence what the queries are."""
    parts = (
        f"# {title}",
        _about(bundle, found, seed, data),
        "## Quality and cost",
        _ABOUT_COST,
        _quality(found),
        f"APGR {_span(found.apgr)} (choosing by expected gain over all shares of reference calls).",
        "## Certificates",
        _certificates(bundle),
        "## Do the certificates hold?",
        _ABOUT_HOLDS,
        _holds(found),
        "## How good is p_correct?",
        _estimation(found),
    )
    return "\n\n".join(parts) + "\n"


def _about(bundle: Bundle, found: Evaluation, seed: int, data: str) -> str:
    lines = (
        f"Bundle `{bundle.version}`, policy `{bundle.policy_version}`, reference `{found.reference}`,",
        f"default risk target {bundle.default_risk_target:g}, caution {bundle.policy.caution:g}.",
        f"Measured on {found.n:,} queries that no part of the bundle has seen, seed {seed}.",
        data,
        f"{found.uncovered:.1%} of them are unlike the calibration data and go to the reference.",
    )
    return "\n".join(filter(None, lines))


def _quality(found: Evaluation) -> str:
    head = (
        "choice",
        "quality",
        "cost",
        *(f"share {name}" for name in found.models),
        "regret",
        "above random mix",
        "PGR",
    )
    return _table(head, [_quality_row(row) for row in found.rows])


def _quality_row(row: Row) -> list[str]:
    shares = [f"{share:.1%}" for share in row.share]
    regret = "" if row.regret is None else f"{row.regret:.4f}"
    return [
        row.name,
        _span(row.quality),
        f"{row.cost:.3f}",
        *shares,
        regret,
        _span(row.above_random),
        _span(row.pgr),
    ]


def _certificates(bundle: Bundle) -> str:
    head = ("id", "risk target", "window", "confidence (all together)", "λ", "n", "data (SHA-256)")
    rows = []
    for c in bundle.certificates:
        data = f"`{c.data_fingerprint[:16]}…`"
        rows.append(
            [
                c.id,
                f"{c.risk_target:g}",
                f"{c.window:,}",
                f"{c.confidence:g}",
                f"{c.lam:.4g}",
                f"{c.n:,}",
                data,
            ]
        )
    return _table(head, rows)


def _holds(found: Evaluation) -> str:
    head = ("risk target", "seeds", "certified", "held", "mean regret", "mean cost")
    rows = []
    for h in found.holds:
        held = f"{h.held} ({h.held / h.seeds:.0%})"
        numbers = [f"{h.mean_regret:.4f}", f"{h.mean_cost:.3f}"] if h.certified else ["", ""]
        rows.append([f"{h.level:g}", str(h.seeds), str(h.certified), held, *numbers])
    return _table(head, rows)


def _estimation(found: Evaluation) -> str:
    head = ("model", "mean quality", "AUC", "Brier", "ECE (15 equal bins)")
    rows = [
        [e.model, f"{e.accuracy:.3f}", f"{e.auc:.3f}", f"{e.brier:.4f}", f"{e.ece:.4f}"]
        for e in found.estimation
    ]
    return _table(head, rows)


def _span(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if isnan(interval.value):
        return "not defined"
    return f"{interval.value:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
