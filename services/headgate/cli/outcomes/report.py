"""The status of the samples: how many there are, what they cost, how many more it takes, what they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from headgate.cli.outcomes import needs
from headgate.cli.outcomes.labels import Labelled
from headgate.cli.words import dollars, percent
from headgate.router.offline.savings import ENOUGH, Estimate, hajek

if TYPE_CHECKING:
    from headgate.adapters.sample_reader import Found

_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Shown:
    """Routing by the newest policy, against always asking the reference model: means over all requests."""

    policy_version: str

    quality: Estimate
    """Quality of the delivered answer minus that of the reference model's."""
    saved_nanousd: Estimate
    """Cost of the reference model's answer minus that of the delivered one's."""
    reference_nanousd: Estimate
    """Cost of the reference model's answer."""


@dataclass(frozen=True, slots=True)
class Status:
    """What `headgate outcomes status` says."""

    samples: int
    labelled: int
    left_out: Mapping[str, int]
    eligible: int
    drawn: int
    lost_runs: int
    """Runs of jobs whose answer nobody took, because another run followed …"""
    lost_nanousd: int
    """… and what they cost, which is charged to nobody."""
    spent_nanousd: Mapping[str, int]
    """Today (UTC), by tenant."""
    budget_nanousd: int
    level: float
    """Risk target of the certificate that is aimed at."""
    needed: int
    """Labelled queries that it takes at least."""
    shown: Shown | None

    @property
    def missing(self) -> int:
        """Labels that are still missing for the first certificate."""
        return max(0, self.needed - self.labelled)


def status(
    found: Found, labelled: Labelled, spent: Mapping[str, int], budget_nanousd: int, risk_target: float
) -> Status:
    """Puts it together."""
    level = needs.level_for(risk_target)
    return Status(
        samples=len(found.samples),
        labelled=len(labelled.rows),
        left_out=dict(labelled.left_out),
        eligible=found.eligible,
        drawn=found.drawn,
        lost_runs=found.lost_runs,
        lost_nanousd=found.lost_nanousd,
        spent_nanousd=dict(spent),
        budget_nanousd=budget_nanousd,
        level=level,
        needed=needs.to_collect(level),
        shown=shown(labelled),
    )


def shown(labelled: Labelled) -> Shown | None:
    """What the labelled samples show; None where too few have the reference model's answer."""
    version = labelled.newest.policy_version if labelled.newest else ""
    rows = [
        (sample, sample.answer(sample.delivered), sample.answer(sample.reference), given)
        for sample, given in labelled.rows
        if sample.reference in given and sample.policy_version == version
    ]
    if len(rows) < _FEWEST:
        return None
    share = np.array([sample.share for sample, *_ in rows])
    better = [given[got.model] - given[reference.model] for _, got, reference, given in rows]
    cost = np.array([reference.cost_nanousd for *_, reference, _ in rows], dtype=np.float64)
    spent = np.array([got.cost_nanousd + sample.wasted_nanousd for sample, got, *_ in rows], dtype=np.float64)
    return Shown(version, hajek(np.array(better), share), hajek(cost - spent, share), hajek(cost, share))


def as_json(status: Status) -> dict[str, Any]:
    """As JSON data; money in nano-dollars, as its names say."""
    return {**asdict(status), "missing": status.missing}


def in_words(status: Status) -> str:
    """For people."""
    lines = [
        f"samples    {status.samples:,}, of them {status.labelled:,} labelled for every model",
        *(f"           {count:,} left out: {reason}" for reason, count in sorted(status.left_out.items())),
        f"draws      {status.drawn:,} of the {status.eligible:,} requests in the ledger that could be drawn",
        *_lost(status),
        *(_budget(tenant, spent, status) for tenant, spent in sorted(status.spent_nanousd.items())),
        _still_missing(status),
    ]
    return "\n".join([*lines, *_shown(status.shown)])


def _lost(status: Status) -> list[str]:
    if not status.lost_runs:
        return []
    cost = dollars(status.lost_nanousd)
    return [f"lost runs  {status.lost_runs:,} of jobs, run again: {cost} that no tenant is charged"]


def _budget(tenant: str, spent: int, status: Status) -> str:
    return f"budget     {tenant}: {dollars(spent)} of {dollars(status.budget_nanousd)} today (UTC)"


def _still_missing(status: Status) -> str:
    least = f"{status.needed:,} labelled queries at least for risk target {percent(status.level)}"
    if status.missing:
        return f"labels     {least}; {status.missing:,} are missing"
    return f"labels     {least}, if hardly one is a regret: export, train, and see"


def _shown(shown: Shown | None) -> list[str]:
    if shown is None:
        return []
    quality, saved = shown.quality, shown.saved_nanousd
    whole = shown.reference_nanousd.mean or 1.0
    lines = [
        f"policy     {shown.policy_version or 'none'}, {quality.n:,} labelled samples of its choices",
        f"quality    {quality.mean:+.4f} [{quality.low:+.4f}, {quality.high:+.4f}] beside the reference",
        f"saved      {saved.mean / whole:.1%} [{saved.low / whole:.1%}, {saved.high / whole:.1%}] of cost",
    ]
    few = f"           the quality is of little weight: {quality.telling} samples differ, not {ENOUGH}"
    return lines if quality.sound else [*lines, few]
